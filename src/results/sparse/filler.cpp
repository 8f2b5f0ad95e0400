// Filler between what a decoder has to remember: tokens that can go without being missed.
#include <fmt/format.h>

#include <map>
#include <utility>

#include "heed/models/reduced_blocks.h"
#include "heed/train/task_trainer.h"
#include "results/learning.h"
#include "results/sparse/experiments.h"

namespace heed::results::sparse {
namespace {

using nlohmann::json;
using torch::Tensor;

/// Takes tokens from all but the last `tail` of them.
class AllButTheEnd final : public nn::TokenReducer {
 public:
  AllButTheEnd(std::shared_ptr<nn::TokenReducer> reducer, int64_t tail) : reducer_(std::move(reducer)), tail_(tail) {}

  std::string wanted_scores() const override { return reducer_->wanted_scores(); }

  nn::TokenMap map(const nn::ReductionInput& in) override {
    const int64_t batch = in.x.size(0), before = in.x.size(1) - tail_;
    auto part = in;
    for (auto* tensor : {&part.x, &part.metric, &part.scores, &part.sizes, &part.padding})
      if (tensor->defined()) *tensor = tensor->narrow(1, 0, before);
    auto map = reducer_->map(part);
    const auto end = nn::every_token(batch, tail_, in.sizes.defined() ? in.sizes.narrow(1, before, tail_) : Tensor());
    map.target = torch::cat({map.target, end.target + map.tokens}, 1);
    map.weight = torch::cat({map.weight, end.weight}, 1);
    map.sizes = torch::cat({map.sizes, end.sizes}, 1);
    map.positions = torch::cat({map.positions, end.positions + before}, 1);
    map.tokens += tail_;
    return map;
  }

 private:
  std::shared_ptr<nn::TokenReducer> reducer_;
  int64_t tail_;
};

/// Share of the asked tokens that a decoder predicts whose first layer loses tokens to `reducer`, where there is one.
double accuracy(DecoderLm& model, const train::TaskBatch& batch, std::shared_ptr<nn::TokenReducer> reducer) {
  torch::NoGradGuard no_grad;
  MixerInput input;
  input.x = model->embed(batch.inputs);
  std::vector<std::shared_ptr<nn::TokenReducer>> reducers(model->blocks.size());
  reducers.front() = std::move(reducer);
  const auto run = run_reduced_blocks(model->blocks, input, reducers, 0, 3);
  // Without its blocks a decoder's norm is left of it.
  const auto blocks = std::exchange(model->blocks, {});
  const auto hidden = model->hidden_of(run.map.restore(run.x));
  model->blocks = blocks;
  const auto at = batch.asked();
  const auto found = model->logits(hidden.flatten(0, 1).index_select(0, at)).argmax(1);
  return (found == batch.labels.flatten().index_select(0, at)).to(torch::kFloat64).mean().item<double>();
}

}  // namespace

Experiment repeated_filler() {
  const auto run = [](const Report& report) {
    constexpr int64_t kLength = 32, kMarked = 4, kSteps = 2000, kBatch = 32, kSamples = 256;
    constexpr uint64_t kSeeds = 3;
    constexpr double kRate = 1e-3;
    const auto task = tasks::make_task("selective_copy", {{"length", kLength}, {"marked", kMarked}, {"symbols", 8}});
    const std::vector<int64_t> counts{4, 8, 12};
    const std::vector<std::pair<std::string, json>> kinds{
        {"merged", {{"action", "merge"}, {"adjacent", true}}},
        {"dropped, by attention", {{"action", "drop"}, {"score", "received"}}},
        {"dropped at random", {{"action", "drop"}, {"score", "random"}}}};
    Figure whole{"no token gone", {}};
    std::map<std::string, std::vector<Figure>> left;
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      train::TaskModelOptions options;
      options.heads = 2, options.seed = seed;
      const auto model = train::make_task_model(*task, options);
      train::TaskTrainOptions training;
      training.steps = kSteps, training.batch = kBatch, training.learning_rate = kRate, training.seed = seed;
      train::train_task(*model, *task, training, [&](const auto& step) {
        if (step.step % 10 == 0)
          report((double(seed) + double(step.step) / double(kSteps)) / double(kSeeds),
                 fmt::format("seed {} loss {:.3f}", seed, step.loss));
        return true;
      });
      auto& decoder = *model->decoder();
      decoder->eval();
      const auto test = train::task_batch(*task, tasks::Split::test, 0, kSamples);
      whole.values.push_back(accuracy(decoder, test, nullptr));
      for (const auto& [name, config] : kinds) {
        auto& figures = left[name];
        figures.resize(counts.size());
        for (size_t i = 0; i < counts.size(); ++i) {
          auto own = config;
          own["count"] = counts[i];
          figures[i].name = fmt::format("{} of {} tokens {}", counts[i], kLength, name);
          figures[i].values.push_back(
              accuracy(decoder, test,
                       std::make_shared<AllButTheEnd>(nn::make_token_reducer("token_merging", own),
                                                      test.inputs.size(1) - kLength)));
        }
      }
    }
    Table table{"", {"what happens to tokens"}, {}};
    for (const auto count : counts) table.columns.push_back(fmt::format("{} of {} go", count, kLength));
    std::vector<Claim> claims;
    for (const auto& [name, config] : kinds) {
      table.rows.push_back({name});
      for (const auto& figure : left[name]) table.rows.back().push_back(figure.text());
    }
    table.rows.push_back({"none", whole.text(), whole.text(), whole.text()});
    for (size_t i = 0; i < counts.size(); ++i) {
      claims.push_back(reaches(left["merged"][i], whole, 0.05));
      claims.push_back(exceeds(left["merged"][i], left["dropped, by attention"][i]));
      claims.push_back(exceeds(left["merged"][i], left["dropped at random"][i]));
    }
    return Finding{
        fmt::format("`selective_copy`: {} symbols among {} places, the rest of which hold the same filler, are to be "
                    "written again in their order. A decoder of two layers of 64 channels learns it in {} steps of {} "
                    "at a rate of {:g}, {} seeds, and is not trained again: behind the attention of its first layer "
                    "tokens before the answer are merged with a neighbour that is alike, or dropped. Share of the "
                    "symbols that are right, {} test samples.",
                    kMarked, kLength, kSteps, kBatch, kRate, kSeeds, kSamples),
        {table},
        claims};
  };
  return {"repeated_filler",
          "Filler that merges",
          {"token_merging"},
          "merging takes repeated filler from the context of a language model and keeps what it has to recall, which "
          "dropping tokens loses (arXiv 2505.18227).",
          run};
}

}  // namespace heed::results::sparse
