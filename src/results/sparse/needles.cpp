// Who still finds a needle when few keys are seen.
#include <fmt/format.h>

#include "heed/bench/measure.h"
#include "heed/nn/landmark_tokens.h"
#include "heed/surgery/landmarks.h"
#include "heed/tasks/mixture.h"
#include "heed/train/lm_data.h"
#include "results/sparse/experiments.h"
#include "results/sparse/shipped.h"
#include "train/scheduled_adamw.h"

namespace heed::results::sparse {
namespace {

using nlohmann::json;

constexpr int64_t kNeedleTokens = 256;

/// Share of the answers' bytes that a model with landmarks predicts behind a state.
double landmark_accuracy(DecoderLm& model, int64_t block, int64_t landmark, int64_t tokens, int64_t samples) {
  torch::NoGradGuard no_grad;
  model->eval();
  const auto task = tasks::make_task("niah_single", {{"max_tokens", tokens}});
  double right = 0, asked = 0;
  for (int64_t i = 0; i < samples; ++i) {
    const auto batch = train::task_batch(*task, tasks::Split::test, uint64_t(i), 1);
    // A byte is predicted from what stands before it, be that a landmark.
    const int64_t bytes = batch.inputs.size(1);
    const auto places = nn::landmark_places(2 * bytes, block).logical_not().nonzero().squeeze(1);
    const auto before = places.narrow(0, 1, bytes) - 1;
    auto state = model->make_state(1);
    const auto hidden = model->hidden(nn::insert_landmarks(batch.inputs, block, landmark), &state);
    const auto at = batch.asked();
    const auto found = model->logits(hidden[0].index_select(0, before.index_select(0, at))).argmax(1);
    right += (found == batch.labels.flatten().index_select(0, at)).sum().item<double>();
    asked += double(at.numel());
  }
  return right / asked;
}

/// Nothing is decided where `learnt` knows little more than a guess among ten digits.
Claim judged(Claim claim, const Figure& learnt) {
  constexpr double kGuess = 0.1;
  if (learnt.mean() < kGuess + 0.05 * (1 - kGuess)) {
    claim.outcome = Outcome::undecided;
    claim.figures += fmt::format("; a guess has {:g}", kGuess);
  }
  return claim;
}

}  // namespace

Experiment landmark_needles() {
  const auto run = [](const Report& report) {
    constexpr int64_t kBlock = 16, kRead = 2, kSamples = 32, kSteps = 240;
    constexpr double kRate = 1e-3;
    const std::vector<int64_t> lengths{256, 1024, 2048};
    auto source = shipped_model();
    auto learner = surgery::add_landmarks(source, {{"block", kBlock}, {"landmarks", "given"}});
    const int64_t landmark = source->config().vocab_size;
    const tasks::Mixture mixture("niah_single=1", nullptr, kNeedleTokens);
    train::ScheduledAdamW optimizer("landmarks", learner->parameters(), kSteps, kRate, 0);
    learner->train();
    for (int64_t step = 0; step < kSteps; ++step) {
      optimizer.step(train::lm_loss(
          learner, surgery::with_landmarks(train::mixture_batch(mixture, step, 8, kNeedleTokens), kBlock, landmark)));
      report(0.7 * double(step) / double(kSteps), "landmarks");
    }
    // The same weights, of which a state reads few blocks.
    auto config = learner->config();
    for (auto& layer : config.layers) layer.config["retrieve"] = kRead;
    DecoderLm reader(config);
    take_weights(*reader, *learner);
    auto windowed = with_mixer(source, {"sliding_window", {{"window", (kRead + 1) * kBlock}, {"sinks", 0}}});
    Table table{"", {"bytes", "landmarks, 2 blocks of 15 read", "landmarks, all blocks", "window of 48"}, {}};
    std::vector<double> few, all, near;
    for (const auto tokens : lengths) {
      report(0.7 + 0.1 * double(few.size()), fmt::format("{} bytes", tokens));
      few.push_back(landmark_accuracy(reader, kBlock, landmark, tokens, kSamples));
      all.push_back(landmark_accuracy(learner, kBlock, landmark, tokens, kSamples));
      const auto model = train::task_model_of(windowed);
      near.push_back(train::score_task(*model, *tasks::make_task("niah_single", {{"max_tokens", tokens}}),
                                       tasks::Split::test, kSamples)
                         .score);
      table.rows.push_back({std::to_string(tokens), fmt::format("{:.3g}", few.back()),
                            fmt::format("{:.3g}", all.back()), fmt::format("{:.3g}", near.back())});
    }
    const Figure here{"at 256 bytes", {few.front()}}, far{"2 blocks read at 2048 bytes", {few.back()}},
        whole{"all blocks", {all[1]}};
    return Finding{
        fmt::format("The language model that comes with heed gets a landmark behind every {} bytes and goes on for {} "
                    "steps of 8 windows of {} bytes with needles at a rate of {:g}; its rotary positions were trained "
                    "for 4096. Share of the answers' bytes that are right, {} samples a length, where a state reads {} "
                    "blocks a query, all of them, or (untrained for it) a window of as many tokens.",
                    kBlock - 1, kSteps, kNeedleTokens, kRate, kSamples, kRead),
        {table},
        {judged(reaches(far, here, 0.1), here),
         judged(reaches({"2 blocks read at 1024 bytes", {few[1]}}, whole, 0.1), whole),
         judged(exceeds(far, {"a window of as many tokens", {near.back()}}), far)}};
  };
  return {"landmark_needles",
          "Blocks retrieved by their landmark",
          {"landmark_attention"},
          "trained on short texts, blocks are found by their landmark in longer ones, with few of them read, where a "
          "window of equal size fails (arXiv 2305.16300).",
          run};
}

Experiment mixed_spans() {
  const auto run = [](const Report& report) {
    const auto spans = [](const std::string& name, int64_t full, const char* placement) {
      return variant(name, "masformer", {{"full", full}, {"placement", placement}, {"window", 32}});
    };
    // Six layers of 32 reach 187 bytes back.
    const Contest contest(needle_lesson(kNeedleTokens, {4 * kNeedleTokens}, 150),
                          {spans("no full layer", 0, "spread"), spans("1 full, bottom", 1, "bottom"),
                           spans("1 full, middle", 1, "middle"), spans("1 full, top", 1, "top"),
                           spans("2 full, spread", 2, "spread"), spans("6 full", 6, "spread")},
                          report);
    const auto recovered = [&](const char* name) {
      const double none = contest.scores("no full layer", 1).mean(), all = contest.scores("6 full", 1).mean(),
                   some = contest.scores(name, 1).mean();
      return holds(fmt::format("{} recovers 80 % of the gap at 1024 bytes", name), some - none >= 0.8 * (all - none),
                   fmt::format("{:.3g} between {:.3g} and {:.3g}", some, none, all));
    };
    return finding_of(contest, {contest.better("1 full, middle", "no full layer", 1), recovered("1 full, bottom"),
                                recovered("1 full, middle"), recovered("1 full, top"), recovered("2 full, spread")});
  };
  return {"mixed_spans",
          "Full attention in a few layers",
          {"masformer"},
          "one or two layers of full attention recover almost all of what local layers lose (arXiv 2310.12442); where "
          "they stand is tabulated.",
          run};
}

}  // namespace heed::results::sparse
