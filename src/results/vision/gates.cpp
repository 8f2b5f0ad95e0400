// Gates, kernels, filters and operators in the place of attention.
#include <fmt/format.h>

#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/shared_conv.h"
#include "results/model_figures.h"
#include "results/trained_maps.h"
#include "results/vision/experiments.h"

namespace heed::results::vision {
namespace {

using torch::Tensor;

/// Whether each patch is one of the digit's, among clutter.
Lesson places(int64_t patch) {
  auto lesson = clutter();
  lesson.parameters = {{"answer", "place"}, {"patch", patch}};
  lesson.model.dim = 32, lesson.model.hidden = 64;
  lesson.samples = 256;
  return lesson;
}

/// The scores [B, heads, N, N] of a layer, and what it makes of them.
struct Map {
  Tensor scores, weights;
};

Map map_of(const LayerCall& call, int64_t heads) {
  const auto& x = call.input.x;
  const int64_t tokens = x.size(1);
  CoreInput core;
  const auto modules = call.mixer->named_children();
  if (modules.contains("q")) {  // shared convolutions, whose core is softmax attention
    const auto projected = [&](const char* name) {
      return split_heads(std::dynamic_pointer_cast<nn::SharedConvImpl>(modules[name])->forward(x), heads);
    };
    core.q = projected("q"), core.k = projected("k");
  } else if (modules.contains("qkv")) {
    const auto parts = std::dynamic_pointer_cast<torch::nn::LinearImpl>(modules["qkv"])->forward(x).chunk(3, 2);
    core.q = split_heads(parts[0], heads), core.k = split_heads(parts[1], heads);
    core.v = torch::eye(tokens).expand({x.size(0), heads, tokens, tokens}).contiguous();
  } else {
    core = core_of(call);
  }
  const auto scores = torch::matmul(core.q, core.k.transpose(2, 3)) / std::sqrt(double(core.q.size(3)));
  return {scores, modules.contains("qkv") ? call.mixer->mix(core) : torch::softmax(scores, 3)};
}

/// The exponential of the entropy of the singular values' shares, mean over maps.
double effective_rank(const Tensor& maps) {
  const auto values = torch::linalg_svdvals(maps.flatten(0, 1));
  const auto shares = values / values.sum(1, true);
  return torch::exp(-(shares * torch::log(shares.clamp_min(1e-30))).sum(1)).mean().item<double>();
}

}  // namespace

Experiment gates() {
  const auto run = [](const Report& report) {
    auto lesson = digits(2);
    lesson.training.steps = 800;
    const auto groups = [](int64_t count) {
      return variant("subspace_attention, " + std::to_string(count), "subspace_attention", {{"groups", count}});
    };
    const Contest contest(lesson, {groups(1), groups(2), groups(4)}, report);
    auto finding = finding_of(contest, {contest.better("subspace_attention, 2", "subspace_attention, 1"),
                                        contest.better("subspace_attention, 4", "subspace_attention, 1")});
    finding.setup += " A full trial takes a small MobileNet over pairs of colours and shapes.";
    return finding;
  };
  return {"gates",
          "One map of an image, or several",
          {"subspace_attention"},
          "several maps over subspaces of the channels do more than one (arXiv 2006.15102).",
          run};
}

Experiment strips() {
  const auto run = [](const Report& report) {
    auto lesson = places(2);
    lesson.training.steps = 1000, lesson.training.batch = 4;
    const auto gated = [](const std::string& name, const nlohmann::json& gate) {
      nlohmann::json settings = nlohmann::json::object();
      if (!gate.empty()) settings["gate"] = gate;
      return variant(name, "convolution", settings);
    };
    auto figures = dice_of(lesson);
    const Contest contest(
        lesson,
        {gated("no gate", {}), gated("squeeze_excitation", {{"name", "squeeze_excitation"}}),
         gated("coordinate_attention", {{"name", "coordinate_attention"}}),
         gated("efficient_local_attention", {{"name", "efficient_local_attention"}, {"norm_groups", 16}})},
        report, figures.inspect());
    std::vector<Claim> claims;
    for (const char* other : {"no gate", "squeeze_excitation", "coordinate_attention"})
      claims.push_back(exceeds(figures.of("efficient_local_attention", "Dice"), figures.of(other, "Dice")));
    return Finding{
        contest.setup() +
            " The digit has 4 x 4 of 12 x 12 patches: which are its? Gates stand behind the 3 x 3 "
            "convolution of a residual branch, batches have 4 images. Coordinate attention has a batch norm, "
            "efficient local attention a norm of 16 groups. "
            "Claims compare Dice, which counts the digit's patches: eight of nine are background. A full trial "
            "takes a small residual network; here the blocks around the convolutions are a transformer's.",
        {contest.table(), figures.table("How well the patches found cover the digit's")},
        claims};
  };
  return {"strips",
          "Where things are, by gates behind convolutions",
          {"efficient_local_attention", "squeeze_excitation", "coordinate_attention"},
          "gates from strips of rows and columns with a norm of groups find things better than those from the mean of "
          "the image or from strips with a batch norm, where batches are small (arXiv 2403.01123).",
          run};
}

Experiment kernels() {
  const auto run = [](const Report& report) {
    auto lesson = places(1);
    lesson.training.steps = 200, lesson.training.batch = 8, lesson.training.learning_rate = 3e-3;
    lesson.samples = 128;
    const auto large = [](const std::string& name, int64_t kernel, int64_t dilation, nlohmann::json own) {
      own.update({{"kernel", kernel}, {"dilation", dilation}});
      return variant(name, "large_kernel_attention", own);
    };
    auto figures = dice_of(lesson);
    const Contest contest(
        lesson,
        {large("21", 21, 3, nlohmann::json::object()), large("13", 13, 2, nlohmann::json::object()),
         large("5", 5, 2, nlohmann::json::object()), large("21, added", 21, 3, {{"gate", "sum"}}),
         large("21, sigmoid", 21, 3, {{"gate", "sigmoid"}}), large("21, not dilated", 21, 3, {{"dilated", false}})},
        report, figures.inspect());
    const auto found = [&](const char* name) { return figures.of(name, "Dice"); };
    return Finding{
        contest.setup() +
            " 24 x 24 cells of a pixel: which are the digit's? Kernels of 21, 13 and 5 see 23, 15 and 7 "
            "cells; a full trial takes 13 in the middle, which does not come apart. Added: the convolutions' "
            "result is added to what it is made from, it does not multiply it; not dilated: the 5 x 5 "
            "convolution alone. Claims compare Dice, which counts the digit's cells: eight of nine are background.",
        {contest.table(), figures.table("How well the cells found cover the digit's")},
        {exceeds(found("21"), found("5")), exceeds(found("21"), found("13")), exceeds(found("21"), found("21, added")),
         exceeds(found("21"), found("21, not dilated")), reaches(found("21"), found("21, sigmoid"), 0)}};
  };
  return {"kernels",
          "Large kernels",
          {"large_kernel_attention"},
          "larger kernels are better, their gates and their far cells are needed, and a sigmoid on the gate is not "
          "(arXiv 2202.09741).",
          run};
}

Experiment cues() {
  const auto run = [](const Report& report) {
    auto lesson = far_marks();
    lesson.parameters = {{"side", 12}, {"distance", 10}};
    lesson.training.batch = 16, lesson.training.steps = 400;
    lesson.equal_parameters = false;
    const auto mixing = [](const char* name, bool dynamic) {
      return variant(name, "context_mixing_conv", {{"dynamic", dynamic}});
    };
    const Contest contest(lesson,
                          {variant("depthwise convolution", "convolution", {{"kernel", 7}, {"depthwise", true}}),
                           mixing("static kernels", false), mixing("dynamic kernels", true)},
                          report);
    auto finding = finding_of(contest, {contest.better("dynamic kernels", "depthwise convolution"),
                                        contest.better("dynamic kernels", "static kernels")});
    finding.setup +=
        " All kernels have 7 x 7 cells; two layers reach 6 cells, at most 9 where windows are moved in at borders, and "
        "marks are 10 or more apart. Static kernels stand in all else that context_mixing_conv has: its channels are "
        "gated by the mean of the image, which also comes from afar. Channel mixers are of one width, so that "
        "parameters differ.";
    return finding;
  };
  return {"cues",
          "Kernels made from the whole image, and a distant cue",
          {"context_mixing_conv"},
          "kernels that cells make from their affinity to regions of the image know what static ones of the same size "
          "can't (arXiv 2502.20087).",
          run};
}

Experiment spectra() {
  const auto run = [](const Report& report) {
    auto lesson = clutter();
    lesson.beyond = {{"noise of 0.2", {{"noise", 0.2}}}, {"noise of 0.4", {{"noise", 0.4}}}};
    lesson.model.layers = 6, lesson.model.hidden = 96;
    lesson.training.steps = 500, lesson.training.learning_rate = 1e-3;
    const auto mixed = [&](int64_t spectral) {
      std::string layers;
      for (int64_t l = 0; l < lesson.model.layers; ++l)
        layers += fmt::format("{}{}", l == 0 ? "" : "+", l < spectral ? "spectral_gating" : "dense");
      return Learner{fmt::format("{} of 6", spectral),
                     layers,
                     {{"spectral_gating", {{"height", 6}, {"width", 6}}}, {"dense", {{"causal", false}}}},
                     {},
                     {}};
    };
    const Contest contest(lesson, {mixed(0), mixed(2), mixed(4), mixed(6)}, report);
    std::vector<Claim> claims;
    for (const char* end : {"0 of 6", "6 of 6"})
      for (const size_t beyond : {0, 1}) claims.push_back(contest.as_good("4 of 6", end, 0.01, beyond));
    for (const char* end : {"0 of 6", "6 of 6"}) claims.push_back(contest.as_good("2 of 6", end, 0.01));
    auto finding = finding_of(contest, claims);
    finding.setup +=
        " The first layers are spectral, 0, 2, 4 or all of 6; the others attend. Trained without noise. A full trial "
        "takes CIFAR.";
    return finding;
  };
  return {"spectra",
          "Early layers filter, later layers attend",
          {"spectral_gating"},
          "a mixture of spectral layers and attention is no worse than either alone, under noise, too (arXiv "
          "2304.06446).",
          run};
}

Experiment operators() {
  const auto run = [](const Report& report) {
    auto lesson = digits(2);
    lesson.training.steps = 800, lesson.training.learning_rate = 2e-3;  // attention learns slower than the others
    const auto learned = [](const char* name, int64_t frequencies, const char* shared) {
      return variant(name, "kolmogorov_arnold_attention",
                     {{"max_length", 16}, {"frequencies", frequencies}, {"operator", shared}});
    };
    const auto shared = [](const char* name, const nlohmann::json& settings) {
      return variant(name, "conv_share_attention", settings);
    };
    const auto task = std::shared_ptr<tasks::Task>(tasks::make_task(lesson.task, lesson.parameters));
    const int64_t heads = lesson.model.heads;
    ModelFigures figures({"entropy", "rank of scores", "rank of weights"}, [=](train::TaskModel& model) {
      std::vector<double> sums(3);
      const auto calls = layer_calls(model, train::task_batch(*task, tasks::Split::test, 0, 64));
      for (const auto& call : calls) {
        const auto map = map_of(call, heads);
        const bool softmax = (map.weights >= 0).all().item<bool>();
        sums[0] += softmax ? mean_entropy(map.weights) : std::nan("");
        sums[1] += effective_rank(map.scores), sums[2] += effective_rank(map.weights);
      }
      for (auto& sum : sums) sum /= double(calls.size());
      return sums;
    });
    const Contest contest(lesson,
                          {dense(), learned("one operator, G = 1", 1, "universal"),
                           learned("an operator a layer, G = 3", 3, "layer"), shared("whole maps", {{"kernel", 8}}),
                           shared("smaller kernels", {{"kernel", 5}}), shared("padded", {{"padding", "same"}})},
                          report, figures.inspect());
    const auto of_softmax = figures.of("dense", "entropy"), of_maps = figures.of("whole maps", "entropy");
    const double apart = std::abs(of_maps.mean() / of_softmax.mean() - 1);
    std::vector<Claim> claims{contest.better("an operator a layer, G = 3", "dense"),
                              contest.better("one operator, G = 1", "dense"),
                              contest.as_good("whole maps", "dense", 0.02),
                              holds("entropies of whole maps and dense within a tenth of each other", apart < 0.1,
                                    of_maps.text() + " against " + of_softmax.text()),
                              contest.better("whole maps", "padded")};
    return Finding{
        contest.setup() +
            " Operators of 12 channels on rows of scores, one for all layers or one a layer, in the place of softmax. "
            "Shared convolutions over tokens as maps of 8 x 8 in the place of linear maps: kernels as large as the "
            "map, "
            "which are linear maps, of 5, and padded ones of 3. Entropies of rows are in nats (at most 2.77); "
            "weights that may be negative have none. Ranks are exponentials of the entropy of singular values, "
            "of scores and of what is made of them, 16 at most; means of layers, on 64 test digits. A full trial takes "
            "CIFAR.",
        {contest.table(), figures.table("Maps of trained models")},
        claims};
  };
  return {
      "operators",
      "Other operators than softmax and linear maps",
      {"kolmogorov_arnold_attention", "conv_share_attention"},
      "learned functions of scores help small models; kernels as large as the maps are linear maps, and padded ones "
      "are not (arXiv 2503.10632, 2504.11517).",
      run};
}

}  // namespace heed::results::vision
