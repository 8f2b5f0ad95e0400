// Attention to summaries of an image: what they cost, what they keep under noise, and in images of other sizes.
#include <fmt/format.h>

#include "results/vision/experiments.h"

namespace heed::results::vision {

Experiment summaries() {
  const auto run = [](const Report& report) {
    auto lesson = shapes();
    lesson.beyond = {{"noise of 0.3", {{"noise", 0.3}}}, {"noise of 0.5", {{"noise", 0.5}}}};
    lesson.model.layers = 2;
    lesson.training.steps = 1500;
    const Contest contest(lesson,
                          {variant("windows", "double_window_attention", {{"size", 6}, {"shift", "alternate"}}),
                           plain("factorization_attention")},
                          report);
    std::vector<Claim> claims{contest.as_good("factorization_attention", "windows", 0.01)};
    for (const size_t beyond : {1, 2}) claims.push_back(contest.better("factorization_attention", "windows", beyond));
    auto finding = finding_of(contest, claims);
    finding.setup +=
        " 12 x 12 patches. Windows are of 6 x 6, shifted in the second layer: 36 keys a patch; the summaries give an "
        "eighth of the channels 36 keys and the others 49, in the mean 47. Trained under a noise of 0.1. A full trial "
        "takes CIFAR, and for blur, too.";
    return finding;
  };
  return {
      "summaries",
      "Windows, or summaries of the image",
      {"factorization_attention"},
      "groups of channels that attend to summaries of the whole image are as good as windows and better under noise "
      "(arXiv 2312.08614).",
      run};
}

Experiment pooled_keys() {
  const auto run = [](const Report& report) {
    auto lesson = clutter();
    lesson.beyond = {{"36 x 36 pixels", {{"side", 36}, {"pieces", 18}}},
                     {"48 x 48 pixels", {{"side", 48}, {"pieces", 32}}}};
    const auto keys = [](const char* name, const nlohmann::json& own) {
      nlohmann::json settings{{"side", 6}, {"bias_hidden", 32}};
      settings.update(own);
      return Learner{name, "aggregated_attention", {{"aggregated_attention", settings}}, "vit", {{"positions", false}}};
    };
    const Contest contest(
        lesson,
        {keys("neighbours and pooled keys", nlohmann::json::object()), keys("neighbours", {{"keys", "near"}}),
         keys("pooled keys", {{"keys", "pooled"}}), keys("biases from a table", {{"bias", "table"}})},
        report);
    const std::string both = "neighbours and pooled keys";
    std::vector<Claim> claims{contest.better(both, "neighbours"), contest.better(both, "pooled keys")};
    for (const size_t beyond : {1, 2}) claims.push_back(contest.better(both, "biases from a table", beyond));
    auto finding = finding_of(contest, claims);
    finding.setup +=
        " Trained on 24 x 24 pixels; larger ones have as many more pieces. Models know places by the mixers alone. A "
        "full trial takes CIFAR at 32, 48 and 64 pixels.";
    return finding;
  };
  return {"pooled_keys",
          "Neighbours and a pooled image, in images of other sizes",
          {"aggregated_attention"},
          "neighbours and pooled keys do more than either; biases from logarithms of distances hold in larger images "
          "better than those of a table (arXiv 2311.17132).",
          run};
}

}  // namespace heed::results::vision
