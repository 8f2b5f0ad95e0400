#include "results/trained_maps.h"

#include <fmt/format.h>

#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/mixers/taps.h"
#include "heed/models/transformer.h"

namespace heed::results {
namespace {

using torch::Tensor;

/// Stands in the place of a layer's mixer and notes what that is given.
class Listener final : public TokenMixer {
 public:
  Listener(std::shared_ptr<TokenMixer> mixer, std::vector<LayerCall>& heard)
      : mixer_(std::move(mixer)), heard_(heard) {}
  Tensor forward(const MixerInput& input, MixerState* state) override {
    heard_.push_back({mixer_, input});
    heard_.back().input.share = nullptr;  // of a forward that will be over
    return mixer_->forward(input, state);
  }

 private:
  std::shared_ptr<TokenMixer> mixer_;
  std::vector<LayerCall>& heard_;
};

/// Queries and keys as the core of an attention mixer gets them.
struct CoreTap final : Taps {
  void core_input(const LayerContext&, CoreInput& in) override { core = in; }
  CoreInput core;
};

}  // namespace

std::vector<LayerCall> layer_calls(train::TaskModel& model, const train::TaskBatch& batch) {
  torch::NoGradGuard no_grad;
  std::vector<LayerCall> calls;
  std::vector<std::pair<TransformerBlockImpl*, std::shared_ptr<TokenMixer>>> listened;
  for (const auto& module : model.module().modules())
    if (auto* block = dynamic_cast<TransformerBlockImpl*>(module.get())) {
      listened.emplace_back(block, block->mixer);
      block->mixer = std::make_shared<Listener>(block->mixer, calls);
    }
  model.hidden(batch);
  for (auto& [block, mixer] : listened) block->mixer = mixer;
  require(!calls.empty(), "a model without transformer blocks has no layers to look at");
  return calls;
}

CoreInput core_of(const LayerCall& call) {
  torch::NoGradGuard no_grad;
  CoreTap tap;
  auto input = call.input;
  input.taps = &tap;
  call.mixer->forward(input);
  return tap.core;
}

Tensor weights_of(const LayerCall& call, int64_t heads) {
  torch::NoGradGuard no_grad;
  const auto& input = call.input;
  auto core = core_of(call);
  if (!core.q.defined()) {  // linear attention, whose core gets the projections as they are
    const auto parameters = call.mixer->named_parameters();
    const auto projected = [&](const char* name) {
      const auto* weight = parameters.find(name);
      require(weight, "{} has no {}, so its weights can't be told", call.mixer->name(), name);
      return split_heads(torch::matmul(input.x, weight->t()), heads);
    };
    core.q = projected("q_proj.weight"), core.k = projected("k_proj.weight");
    core.grid = input.grid;
  }
  const int64_t tokens = core.k.size(2);
  core.v = torch::eye(tokens).expand({core.k.size(0), core.k.size(1), tokens, tokens}).contiguous();
  const auto weights = call.mixer->mix(core);
  return weights / weights.sum(3, true);
}

double mean_distance(const Tensor& weights) {
  const auto place = torch::arange(weights.size(3));
  const auto distance = (place.unsqueeze(1) - place).abs().to(weights.scalar_type());
  return (weights * distance).sum(3).mean().item<double>();
}

double mean_entropy(const Tensor& weights) {
  return -(weights * torch::log(weights.clamp_min(1e-30))).sum(3).mean().item<double>();
}

LayerFigures::LayerFigures(std::string quantity, int64_t samples, std::function<double(const LayerCall&)> measure)
    : quantity_(std::move(quantity)), samples_(samples), measure_(std::move(measure)) {}

Inspect LayerFigures::inspect() {
  return [this](const Learner& learner, train::TaskModel& model, const tasks::Task& task) {
    const auto calls = layer_calls(model, train::task_batch(task, tasks::Split::test, 0, samples_));
    auto& layers = figures_[learner.name];
    layers.resize(calls.size());
    for (size_t l = 0; l < calls.size(); ++l) {
      layers[l].name = fmt::format("{} in layer {}, {}", quantity_, l + 1, learner.name);
      layers[l].values.push_back(measure_(calls[l]));
    }
  };
}

const Figure& LayerFigures::of(const std::string& learner, size_t layer) const {
  const auto found = figures_.find(learner);
  require(found != figures_.end() && layer >= 1 && layer <= found->second.size(),
          "{} in layer {} was not measured for {}", quantity_, layer, learner);
  return found->second[layer - 1];
}

Table LayerFigures::table(const std::string& title, const std::vector<Learner>& learners) const {
  Table table{title, {"mixer"}, {}};
  for (const auto& learner : learners) {
    auto& row = table.rows.emplace_back(1, learner.name);
    for (const auto& figure : figures_.at(learner.name)) row.push_back(figure.text());
    while (table.columns.size() < row.size()) table.columns.push_back(fmt::format("layer {}", table.columns.size()));
  }
  return table;
}

}  // namespace heed::results
