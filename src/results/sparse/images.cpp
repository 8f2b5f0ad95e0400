// Digits in clutter: keys that are predicted, tokens that merge, tokens that go.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "heed/mixers/sparsifiner.h"
#include "heed/models/reduced_blocks.h"
#include "heed/nn/ia_red2.h"
#include "results/learning.h"
#include "results/sparse/clutter.h"
#include "results/sparse/experiments.h"
#include "train/scheduled_adamw.h"

namespace heed::results::sparse {
namespace {

using nlohmann::json;
using torch::Tensor;

constexpr int64_t kSteps = 600;
constexpr double kPickerRate = 5e-3;
constexpr double kRate = 2e-3;
constexpr double kTests = 360;  // images

const LayerPlan kDense{"dense", json::object()};

/// A trained model with a class token, once for all experiments that leave it as it is.
VisionTransformer& reader(const Report& report, double share) {
  static VisionTransformer model{nullptr};
  if (model) return model;
  model = clutter_model(kDense, 0, true);
  train_clutter(model, kSteps, 0, kRate, [&](int64_t step) {
    if (step % 10 == 0) report(share * double(step) / double(kSteps), "a model to be reduced");
  });
  return model;
}

double right_answers(const Tensor& logits, const Tensor& labels) {
  return (logits.argmax(1) == labels).to(torch::kFloat64).mean().item<double>();
}

std::string setup_text() {
  return fmt::format(
      "Digits of 8 x 8 pixels on a canvas of {0} x {0} among {1} pieces of others: {2} patches of {3} x "
      "{3}, of which 4 are the digit's. A vision transformer of 4 layers of 64 channels learns them in {4} "
      "steps of 32; accuracy on 360 test images.",
      kCanvas, kPieces, kPatches, kPatch, kSteps);
}

}  // namespace

Experiment predicted_masks() {
  const auto run = [](const Report& report) {
    constexpr int64_t kPredictor = 200, kTuning = 100;
    auto teacher = clutter_model(kDense, 0, false);
    train_clutter(teacher, kSteps, 0, kRate, [&](int64_t step) {
      if (step % 10 == 0) report(0.45 * double(step) / double(kSteps), "dense");
    });
    const LayerPlan sparse{"sparsifiner", {{"keep", 0.25}, {"class_tokens", 0}, {"reconstruction", 0.0}}};
    auto predictor = clutter_model(sparse, 0, false);
    take_weights(*predictor, *teacher);
    train::ScheduledAdamW optimizer("sparsifiner", predictor->parameters(), kPredictor, kPickerRate, 0);
    double first = 0;
    for (int64_t step = 0; step < kPredictor; ++step) {
      auto x =
          teacher->embed(clutter(tasks::Split::train, (uint64_t(1) << 40) + uint64_t(step * 32), 32).pixels).detach();
      Tensor loss = torch::zeros({});
      for (size_t l = 0; l < teacher->blocks.size(); ++l) {
        MixerInput input;
        torch::NoGradGuard no_grad;
        input.x = teacher->blocks[l]->input_norm(x);
        {
          torch::AutoGradMode learns(true);
          loss = loss + sparsifiner_loss(*predictor->blocks[l]->mixer, input);
        }
        input.x = x;
        x = teacher->blocks[l]->forward(input);
      }
      const double value = optimizer.step(loss);
      if (step == 0) first = value;
      if (step % 10 == 0) report(0.45 + 0.15 * double(step) / double(kPredictor), "a predictor of masks");
    }
    const std::vector<std::pair<const char*, LayerPlan>> kinds{
        {"predicted", sparse},
        {"predicted, taught by the dense one", sparse},
        {"local, 3 x 3", {"fused_neighborhood", {{"window", 3}}}},
        {"random", {"stochastic_subsampled_attention", {{"reduction", 4}, {"evaluate", "subsampled"}}}},
        {"the largest weights", {"hard_attention", {{"share", 0.25}}}},
        {"all", kDense}};
    Table table{"", {"keys seen", "as it is", "tuned"}, {}};
    std::map<std::string, Figure> as_is, tuned;
    for (size_t i = 0; i < kinds.size(); ++i) {
      const auto& [name, plan] = kinds[i];
      auto model = clutter_model(plan, 0, false);
      const bool predicts = plan.mixer == sparse.mixer, taught = predicts && i > 0;
      take_weights(*model, predicts ? *predictor : *teacher);
      as_is[name] = share(std::string(name) + ", as it is", clutter_accuracy(model), kTests);
      train_clutter(
          model, kTuning, 2, kRate / 4,
          [&](int64_t step) {
            if (step % 10 == 0) report(0.6 + 0.066 * (double(i) + double(step) / double(kTuning)), name);
          },
          taught ? teacher : VisionTransformer(nullptr));
      tuned[name] = share(name, clutter_accuracy(model), kTests);
      table.rows.push_back({name, as_is[name].text(), tuned[name].text()});
    }
    auto between = reaches(tuned["the largest weights"], tuned["predicted"], 0.01);
    between.text = "predicted no better than the largest weights, up to 0.01";
    return Finding{
        setup_text() + fmt::format(" It then sees a quarter of the keys a query, without and after {} more steps. The "
                                   "predictor learned the dense weights for {} steps: its loss went from {:.3g} to "
                                   "{:.3g}. Rates {:g}, {:g} and {:g}. One seed.",
                                   kTuning, kPredictor, first, optimizer.last_loss(), kRate, kRate / 4, kPickerRate),
        {table},
        {exceeds(as_is["predicted"], as_is["local, 3 x 3"]), exceeds(as_is["predicted"], as_is["random"]),
         exceeds(tuned["predicted"], tuned["local, 3 x 3"]), exceeds(tuned["predicted"], tuned["random"]), between,
         reaches(tuned["predicted"], tuned["all"], 0.02),
         reaches(tuned["predicted, taught by the dense one"], tuned["predicted"], 0.01)}};
  };
  return {
      "predicted_masks",
      "A quarter of the keys, predicted",
      {"sparsifiner", "hard_attention"},
      "a mask predicted by a cheap low-rank attention lies between a local one and the oracle of the largest weights "
      "(arXiv 2303.13755).",
      run};
}

Experiment fewer_tokens() {
  const auto run = [](const Report& report) {
    auto& model = reader(report, 0.9);
    const std::vector<std::pair<const char*, json>> kinds{
        {"merge", {{"action", "merge"}}},
        {"fuse", {{"action", "fuse"}, {"score", "class"}}},
        {"drop", {{"action", "drop"}, {"score", "class"}}},
        {"drop at random", {{"action", "drop"}, {"score", "random"}}}};
    const auto test = clutter(tasks::Split::test, 0, 360);
    torch::NoGradGuard no_grad;
    const auto accuracy = [&](const std::vector<std::shared_ptr<nn::TokenReducer>>& reducers) {
      MixerInput input;
      input.x = model->embed(test.pixels);
      const auto run = run_reduced_blocks(model->blocks, input, reducers, 1, 3);
      return right_answers(model->logits(model->finish(run.x)), test.labels);
    };
    const double whole = accuracy(std::vector<std::shared_ptr<nn::TokenReducer>>(model->blocks.size()));
    const std::vector<int64_t> counts{3, 5, 7};
    Table table{"", {"what happens to tokens"}, {}};
    for (const auto count : counts)
      table.columns.push_back(fmt::format("{} of {} left", kPatches - 4 * count, kPatches));
    std::vector<Figure> means;
    for (const auto& [name, config] : kinds) {
      report(0.9 + 0.02 * double(means.size()), name);
      table.rows.push_back({name});
      double sum = 0;
      for (const auto count : counts) {
        auto own = config;
        own["count"] = count;
        std::vector<std::shared_ptr<nn::TokenReducer>> reducers;
        for (size_t l = 0; l < model->blocks.size(); ++l)
          reducers.push_back(nn::make_token_reducer("token_merging", own));
        const double value = accuracy(reducers);
        sum += value / double(counts.size());
        table.rows.back().push_back(fmt::format("{:.3g}", value));
      }
      means.push_back(share(name, sum, kTests));
    }
    table.rows.push_back(
        {"none", fmt::format("{:.3g}", whole), fmt::format("{:.3g}", whole), fmt::format("{:.3g}", whole)});
    return Finding{setup_text() +
                       " It is not trained again; as many tokens go in each layer, scores are what the class "
                       "token attends to. Claims are on the mean of the three columns, one seed.",
                   {table},
                   {exceeds(means[0], means[1]), exceeds(means[1], means[2]), exceeds(means[2], means[3])}};
  };
  return {
      "fewer_tokens",
      "Tokens merged, fused or dropped",
      {"token_merging"},
      "without training, merging tokens that are alike costs less than fusing those of little weight, that less than "
      "dropping them, and that less than dropping any (arXiv 2210.09461, 2505.18227). Repeated filler in a text: see "
      "filler that merges.",
      run};
}

Experiment redundant_tokens() {
  const auto run = [](const Report& report) {
    constexpr int64_t kPolicySteps = 400;
    auto& model = reader(report, 0.5);
    nn::IaRed2Config config;
    config.dim = 64, config.first_score = 0.9;
    torch::manual_seed(1);
    nn::IaRed2 policy(config);
    /// Logits from behind the first layer on, of the tokens that stay.
    const auto answers = [&](Tensor x, const Tensor& stays) {
      torch::NoGradGuard no_grad;
      for (size_t l = 1; l < model->blocks.size(); ++l) {
        MixerInput input;
        input.x = x;
        input.key_padding = stays.logical_not();
        x = model->blocks[l]->forward(input);
      }
      return model->logits(model->finish(x));
    };
    const auto begun = [&](const Tensor& pixels) {
      torch::NoGradGuard no_grad;
      MixerInput input;
      input.x = model->embed(pixels);
      return model->blocks[0]->forward(input);
    };
    const auto kept_share = [](const Tensor& stays) { return stays.slice(1, 1).to(torch::kFloat32).mean(1); };
    train::ScheduledAdamW optimizer("ia_red2", policy.parameters(), kPolicySteps, kPickerRate, 0);
    for (int64_t step = 0; step < kPolicySteps; ++step) {
      const auto batch = clutter(tasks::Split::train, (uint64_t(3) << 40) + uint64_t(step * 32), 32);
      nn::ReductionInput in;
      in.x = begun(batch.pixels), in.leading = 1, in.seed = uint64_t(step);
      const auto scores = policy.scores(in.x);
      const auto stays = policy.drawn(scores, in), greedy = policy.greedy(scores, in);
      const auto reward = [&](const Tensor& chosen) {
        return nn::redundancy_reward(kept_share(chosen), answers(in.x, chosen).argmax(1) == batch.labels);
      };
      optimizer.step(nn::policy_loss(nn::policy_log_likelihood(scores, stays, in), reward(stays), reward(greedy)));
      if (step % 10 == 0) report(0.5 + 0.45 * double(step) / double(kPolicySteps), "a policy of tokens");
    }
    torch::NoGradGuard no_grad;
    const auto test = clutter(tasks::Split::test, 0, 360);
    nn::ReductionInput in;
    in.x = begun(test.pixels), in.leading = 1;
    const auto scores = policy.scores(in.x);
    const auto greedy = policy.greedy(scores, in);
    /// The class token and the `count` patches of the largest numbers.
    const auto largest = [](const Tensor& numbers, int64_t count) {
      auto ranked = numbers.clone();
      ranked.select(1, 0).fill_(INFINITY);
      return torch::zeros_like(ranked, torch::kBool).scatter_(1, std::get<1>(ranked.topk(count + 1, 1)), true);
    };
    const auto overlap = [&](const Tensor& stays) {  // intersection over union with the digit's patches
      const auto kept = stays.slice(1, 1);
      return ((kept & test.digit).sum(1).to(torch::kFloat64) / (kept | test.digit).sum(1)).mean().item<double>();
    };
    const auto accuracy = [&](const Tensor& stays) { return right_answers(answers(in.x, stays), test.labels); };
    const auto any = torch::rand(scores.sizes(), at::detail::createCPUGenerator(5));
    const auto all = torch::ones_like(greedy);
    const int64_t half = kPatches / 2, few = 8;
    const double share = kept_share(greedy).mean().item<double>();
    Table table{"", {"tokens that stay", "share", "accuracy", "overlap with the digit"}, {}};
    const auto row = [&](const std::string& name, const Tensor& stays) {
      table.rows.push_back({name, fmt::format("{:.3g}", kept_share(stays).mean().item<double>()),
                            fmt::format("{:.3g}", accuracy(stays)), fmt::format("{:.3g}", overlap(stays))});
    };
    row("all", all), row("the policy's choice", greedy), row("half, by the policy", largest(scores, half)),
        row("half, at random", largest(any, half)), row("8, by the policy", largest(scores, few)),
        row("8, at random", largest(any, few));
    const auto figure = [](const char* name, double value) { return results::share(name, value, kTests); };
    return Finding{
        setup_text() +
            fmt::format(" Frozen; a policy behind its first layer learns by reward for {} steps of 32 at a "
                        "rate of {:g} which tokens go on. One seed; the backbone is not tuned to fewer tokens.",
                        kPolicySteps, kPickerRate),
        {table},
        {exceeds(figure("accuracy with half of the tokens, by the policy", accuracy(largest(scores, half))),
                 figure("at random", accuracy(largest(any, half)))),
         exceeds(figure("accuracy with 8 tokens, by the policy", accuracy(largest(scores, few))),
                 figure("at random", accuracy(largest(any, few)))),
         exceeds(figure("overlap of 8 tokens with the digit, by the policy", overlap(largest(scores, few))),
                 figure("at random", overlap(largest(any, few)))),
         holds("the policy drops a quarter of the tokens or more and loses 0.02 at most",
               share <= 0.75 && accuracy(greedy) >= accuracy(all) - 0.02,
               fmt::format("{:.3g} kept, {:.3g} against {:.3g}", share, accuracy(greedy), accuracy(all)))}};
  };
  return {"redundant_tokens",
          "Tokens that a policy drops",
          {"ia_red2"},
          "a policy rewarded for few tokens and right answers keeps what matters, and shows where it is (arXiv "
          "2106.12620).",
          run};
}

}  // namespace heed::results::sparse
