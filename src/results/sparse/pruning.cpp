// An encoder that is better without some of its parts.
#include <fmt/format.h>

#include <algorithm>

#include "heed/surgery/axformer.h"
#include "heed/tasks/random.h"
#include "results/sparse/experiments.h"
#include "train/scheduled_adamw.h"

namespace heed::results::sparse {
namespace {

using surgery::AxElement;
using surgery::AxPlan;
using torch::Tensor;

constexpr int64_t kLayers = 3, kHeads = 4, kGroups = 4, kTokens = 24, kVocabulary = 12;

/// Texts, and whether symbol 1 is in them more often than symbol 2; of noisy ones some labels are wrong.
struct Texts {
  Tensor tokens, labels;  ///< int64 [B, N], [B]
};
Texts texts(tasks::Split split, int64_t count, double noise) {
  Texts drawn{torch::empty({count, kTokens}, torch::kInt64), torch::empty({count}, torch::kInt64)};
  const auto key = tasks::stream_key("more_often", split);
  for (int64_t b = 0; b < count; ++b) {
    tasks::Random random(key, uint64_t(b));
    int64_t ones = 0, twos = 0;
    for (int64_t i = 0; i < kTokens; ++i) {
      const auto token = i == 0 ? 0 : 1 + int64_t(random.below(kVocabulary - 1));  // 0 stands before every text
      ones += token == 1, twos += token == 2;
      drawn.tokens[b][i] = token;
    }
    const bool wrong = random.uniform() < noise;
    drawn.labels[b] = int64_t((ones > twos) != wrong);
  }
  return drawn;
}

/// The plan that leaves out `count` random heads and groups of channels.
AxPlan random_plan(int64_t count, uint64_t seed) {
  std::vector<AxElement> all;
  for (int64_t l = 0; l < kLayers; ++l) {
    for (int64_t h = 0; h < kHeads; ++h) all.push_back({AxElement::Kind::head, l, h});
    for (int64_t g = 0; g < kGroups; ++g) all.push_back({AxElement::Kind::channel_group, l, g});
  }
  tasks::Random(seed, 0).shuffle(all);
  all.resize(size_t(count));
  AxPlan plan;
  plan.removed = all;
  return plan;
}

/// Heads and groups of channels that a plan leaves out; a block counts as its own.
int64_t parts_of(const AxPlan& plan) {
  int64_t parts = 0;
  for (const auto& element : plan.removed)
    parts += element.kind == AxElement::Kind::attention  ? kHeads
             : element.kind == AxElement::Kind::channels ? kGroups
                                                         : 1;
  return parts;
}

}  // namespace

Experiment pruned_encoder() {
  const auto run = [](const Report& report) {
    constexpr int64_t kSteps = 600, kBatch = 32, kTrain = 512, kDraws = 5, kSeeds = 3;
    constexpr double kRate = 2e-3;
    const auto training = texts(tasks::Split::train, kTrain, 0.15);
    const auto valid = texts(tasks::Split::valid, 512, 0), test = texts(tasks::Split::test, 2048, 0);
    surgery::AxOptions options;
    options.channel_groups = kGroups;
    Figure whole{"test loss of the whole encoder", {}}, pruned{"after the search", {}},
        drawn{"without as many random parts", {}}, parts{"share of parts that go", {}}, hard{"hard layers", {}},
        valid_before{"validation loss before", {}}, valid_after{"validation loss after", {}},
        right_before{"accuracy before", {}}, right_after{"accuracy after", {}};
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      torch::manual_seed(int64_t(seed));
      EncoderConfig config;
      config.dim = 32, config.heads = config.kv_heads = kHeads, config.head_dim = 8, config.hidden = 64;
      config.vocab_size = kVocabulary, config.position_rows = config.max_length = kTokens;
      config.attention.qkv_bias = config.attention.output_bias = true;
      config.layers.resize(kLayers);
      Encoder model(config);
      torch::nn::Linear head(config.dim, 2);
      const auto logits = [&](Encoder& m, const Tensor& tokens) {
        return head(m->pooled(m->forward({.tokens = tokens})));
      };
      auto parameters = model->parameters();
      for (const auto& parameter : head->parameters()) parameters.push_back(parameter);
      train::ScheduledAdamW optimizer("pruned_encoder", parameters, kSteps, kRate, 0);
      model->train();
      for (int64_t step = 0; step < kSteps; ++step) {
        const int64_t first = step * kBatch % kTrain;
        optimizer.step(torch::cross_entropy_loss(logits(model, training.tokens.narrow(0, first, kBatch)),
                                                 training.labels.narrow(0, first, kBatch)));
        if (step % 10 == 0) report((double(seed) + 0.6 * double(step) / double(kSteps)) / double(kSeeds), "training");
      }
      model->eval();
      torch::NoGradGuard no_grad;
      const auto loss_on = [&](Encoder& m, const Texts& t) {
        return torch::cross_entropy_loss(logits(m, t.tokens), t.labels).item<double>();
      };
      const auto accuracy = [&](Encoder& m) {
        return (logits(m, test.tokens).argmax(1) == test.labels).to(torch::kFloat64).mean().item<double>();
      };
      const auto plan = surgery::axformer_search(
          model, [&](Encoder& m) { return loss_on(m, valid); }, options);
      auto smaller = surgery::axformer_apply(model, plan, options);
      smaller->eval();
      whole.values.push_back(loss_on(model, test)), pruned.values.push_back(loss_on(smaller, test));
      valid_before.values.push_back(plan.first_loss), valid_after.values.push_back(plan.loss);
      right_before.values.push_back(accuracy(model)), right_after.values.push_back(accuracy(smaller));
      parts.values.push_back(double(parts_of(plan)) / double(kLayers * (kHeads + kGroups)));
      hard.values.push_back(double(plan.hard_layers.size()));
      double sum = 0;
      for (uint64_t draw = 0; draw < kDraws; ++draw) {
        auto other = surgery::axformer_apply(model, random_plan(parts_of(plan), 10 * seed + draw), options);
        other->eval();
        sum += loss_on(other, test) / double(kDraws);
      }
      drawn.values.push_back(sum);
    }
    Table table{"", {"figure", "of three seeds"}, {}};
    for (const auto* figure :
         {&valid_before, &valid_after, &whole, &pruned, &drawn, &right_before, &right_after, &parts, &hard})
      table.rows.push_back({figure->name, figure->text()});
    auto less = exceeds(whole, pruned), random = exceeds(drawn, pruned);
    less.text = "the test loss after the search is below that of the whole encoder";
    random.text = "the search is better than leaving out as many random parts";
    return Finding{
        fmt::format("An encoder of {} layers of 32 channels learns from {} texts, of which 15 % are labelled wrongly, "
                    "which of two symbols is in them more often: {} steps of {} at a rate of {:g}. The search goes by "
                    "the loss on 512 "
                    "others, tests are on 2048 more. {} parts: {} heads and {} groups of channels a layer. The "
                    "fine-tuning behind the search is left out.",
                    kLayers, kTrain, kSteps, kBatch, kRate, kLayers * (kHeads + kGroups), kHeads, kGroups),
        {table},
        {holds("a fifth of the parts or more go for every seed, at no loss of validation",
               parts.least() >= 0.2 && valid_after.most() <= valid_before.most(), parts.text()),
         less, random, holds("some layers take hard attention", hard.most() > 0, hard.text())}};
  };
  return {"pruned_encoder",
          "Parts that an encoder is better without",
          {"axformer_pruning", "hard_attention"},
          "an overfitted encoder loses a fifth of its parts and gains accuracy, where random parts cost it, and hard "
          "attention does no harm (arXiv 2010.03688).",
          run};
}

}  // namespace heed::results::sparse
