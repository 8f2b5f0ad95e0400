// Weight decay pulls matrices towards 0, and never what says how fast a state fades.
#include "train/weight_decay.h"

#include <gtest/gtest.h>

#include <set>

#include "heed/mixers/token_mixer.h"
#include "heed/train/task_trainer.h"
#include "support/torch_support.h"
#include "train/scheduled_adamw.h"

namespace heed::train::weight_decay_test {
namespace {

using torch::Tensor;

const std::set<std::string> kRates{"a_log", "log_decay", "frequency", "log_step", "step_bias", "skip"};

std::string last_part(const std::string& name) { return name.substr(name.rfind('.') + 1); }

/// Names of the parameters that `step` changes where every gradient is 0.
std::set<std::string> decayed(torch::nn::Module& module, const std::function<void()>& step) {
  torch::OrderedDict<std::string, Tensor> before;
  for (auto& entry : module.named_parameters()) {
    entry.value().mutable_grad() = torch::zeros_like(entry.value());
    before.insert(entry.key(), entry.value().detach().clone());
  }
  step();
  std::set<std::string> changed;
  for (auto& entry : module.named_parameters())
    if (!torch::equal(entry.value(), before[entry.key()])) changed.insert(entry.key());
  return changed;
}

TEST(WeightDecay, LeavesTheRatesOfStateSpacesAlone) {
  for (const auto* name : {"s4", "s4d", "mamba", "mamba2", "ss2d", "lamamba"}) {
    torch::manual_seed(1);
    auto mixer =
        make_mixer(name, {{"dim", 16}, {"causal", std::string(name) != "ss2d" && std::string(name) != "lamamba"}});
    auto options = torch::optim::AdamWOptions(0.1);
    options.weight_decay(0.5);
    torch::optim::AdamW adamw(weight_decay_groups(mixer->named_parameters(), options), options);
    const auto changed = decayed(*mixer, [&] { adamw.step(); });
    std::set<std::string> rates;
    for (const auto& entry : mixer->named_parameters()) {
      if (kRates.count(last_part(entry.key()))) rates.insert(last_part(entry.key()));
      const bool matrix = entry.value().dim() >= 2 && !kRates.count(last_part(entry.key()));
      // What is 0 stays 0.
      const bool moves = matrix && entry.value().abs().max().item<double>() > 0;
      EXPECT_EQ(changed.count(entry.key()) == 1, moves) << name << " " << entry.key();
    }
    EXPECT_GE(rates.size(), 3u) << name;
    EXPECT_FALSE(changed.empty()) << name;
  }
}

TEST(WeightDecay, KnowsWholeNamesOnly) {
  const auto matrix = torch::ones({2, 2});
  EXPECT_TRUE(takes_weight_decay("skip_proj", matrix));
  EXPECT_TRUE(takes_weight_decay("skip.weight", matrix));
  EXPECT_FALSE(takes_weight_decay("skip", matrix));
  EXPECT_FALSE(takes_weight_decay("layers.3.ssm.a_log", matrix));
  EXPECT_FALSE(takes_weight_decay("weight", torch::ones({2})));
}

TEST(WeightDecay, TheTrainersFollowTheRule) {
  torch::manual_seed(2);
  auto mixer = make_mixer("mamba", {{"dim", 16}});
  ScheduledAdamW adamw("test", mixer->named_parameters(), 10, 0.1, 0.5);
  const auto changed = decayed(*mixer, [&] {
    Tensor nothing;
    for (auto& parameter : mixer->parameters())
      nothing = (nothing.defined() ? nothing : torch::zeros({})) + parameter.sum() * 0;
    adamw.step(nothing);
  });
  EXPECT_EQ(changed.count("ahead.ssm.a_log"), 0u);
  EXPECT_EQ(changed.count("ahead.ssm.x_proj"), 1u);

  // Two trainings of a task that differ in weight decay alone, one step each: AdamW's own step is the same.
  const auto task = tasks::make_task("copy", {{"length", 4}, {"symbols", 4}});
  const auto trained = [&](double decay) {
    TaskModelOptions options;
    options.mixer = "s4d";
    options.dim = 16, options.heads = 2, options.hidden = 16, options.seed = 1;
    auto model = make_task_model(*task, options);
    TaskTrainOptions training;
    training.steps = 1, training.warmup = 1, training.learning_rate = 0.01, training.weight_decay = decay;
    train_task(*model, *task, training);
    return model;
  };
  const auto with = trained(0.5), without = trained(0);
  const auto parameters = with->module().named_parameters();
  int64_t rates = 0, others = 0;
  for (const auto& entry : without->module().named_parameters()) {
    const bool same = torch::equal(parameters[entry.key()], entry.value());
    if (kRates.count(last_part(entry.key()))) {
      EXPECT_TRUE(same) << entry.key();
      ++rates;
    }
    others += same ? 0 : 1;
  }
  EXPECT_GE(rates, 4);
  EXPECT_GE(others, 4);
}

}  // namespace
}  // namespace heed::train::weight_decay_test
