#include "heed/train/duo_gates.h"

#include <algorithm>
#include <cmath>

#include "heed/error.h"
#include "heed/mixers/attention_mixer.h"
#include "heed/mixers/taps.h"

namespace heed::train {
namespace {

using torch::Tensor;

/// Head outputs of the gated layers, [L] of [B, Hq, N, Dv].
struct Teacher : Taps {
  explicit Teacher(size_t layers) : heads(layers) {}
  void core_output(const LayerContext& layer, Tensor& out) override { heads[size_t(layer.index)] = out; }
  std::vector<Tensor> heads;
};

class Student : public Taps {
 public:
  Student(const DecoderLm& model, const Teacher& teacher, const Tensor& gates, const DuoOptions& options)
      : model_(model), teacher_(teacher), gates_(gates), options_(options), gated_(teacher.heads.size()) {
    for (const int64_t layer : gated_layers(model->config())) gated_[size_t(layer)] = true;
  }

  void core_input(const LayerContext&, CoreInput& core) override { core_ = core; }
  void core_output(const LayerContext& layer, Tensor& heads) override {
    const auto l = size_t(layer.index);
    if (!gated_[l]) return;
    const auto& config = dynamic_cast<const AttentionMixer&>(*model_->blocks[l]->mixer).config();
    const auto& full = options_.full_from == DuoOptions::FullFrom::teacher ? teacher_.heads[l] : heads;
    heads = gated_heads(core_.q, core_.k, core_.v, full, gates_[layer.index], options_, config.scale, config.softcap);
  }

 private:
  const DecoderLm& model_;
  const Teacher& teacher_;
  Tensor gates_;
  const DuoOptions& options_;
  std::vector<bool> gated_;
  CoreInput core_;
};

/// Weights ask for no gradient while alive.
class Frozen {
 public:
  explicit Frozen(DecoderLm& model) {
    for (auto& parameter : model->parameters())
      if (parameter.requires_grad()) parameters_.push_back(parameter.requires_grad_(false));
  }
  ~Frozen() {
    for (auto& parameter : parameters_) parameter.requires_grad_(true);
  }
  Frozen(const Frozen&) = delete;
  Frozen& operator=(const Frozen&) = delete;

 private:
  std::vector<Tensor> parameters_;
};

}  // namespace

double duo_rate(int64_t step, int64_t steps) {
  const double t = double(step), total = double(steps);
  return std::min({1.0, std::max(5 * (t + 1) / total, 0.1), std::max(5 * (total - t) / total, 0.1)});
}

Tensor gated_heads(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& full, const Tensor& gates,
                   const DuoOptions& o, double scale, double softcap) {
  AttentionOptions options;
  options.mask = Mask(Causal{}) & (Mask(Window{o.recent}) | Mask(SinkTokens{o.sinks}));
  options.scale = scale;
  options.softcap = softcap;
  const auto gate = gates.repeat_interleave(q.size(1) / gates.size(0)).view({1, -1, 1, 1}).to(q.scalar_type());
  return gate * full + (1 - gate) * attention(q, k, v, options);
}

std::vector<int64_t> gated_layers(const DecoderConfig& config) {
  std::vector<int64_t> layers;
  for (size_t l = 0; l < config.layers.size(); ++l)
    if (config.layers[l].mixer == "dense") layers.push_back(int64_t(l));
  return layers;
}

Tensor duo_distance(DecoderLm& model, const Tensor& tokens, int64_t tail, const Tensor& gates, const DuoOptions& o) {
  const auto& config = model->config();
  require(config.positions.kind != "alibi" && config.positions.kind != "t5",
          "gates: {} positions are score terms, which no cache policy serves", config.positions.kind);
  require(tail >= 1 && tail <= tokens.size(1), "gates: {} labelled tokens of {}", tail, tokens.size(1));
  const Frozen frozen(model);
  model->eval();
  Teacher teacher(config.layers.size());
  Tensor wanted;
  {
    torch::NoGradGuard no_grad;
    wanted = model->hidden(tokens, nullptr, 0, &teacher);
  }
  Student student(model, teacher, gates, o);
  const auto labelled = [&](const Tensor& hidden) {
    const auto part = hidden.narrow(1, hidden.size(1) - tail, tail);
    return part.scalar_type() == torch::kFloat64 ? part : part.to(torch::kFloat32);
  };
  return (labelled(wanted) - labelled(model->hidden(tokens, nullptr, 0, &student))).square().mean();
}

DuoTraining train_gates(int64_t layers, int64_t heads, const DuoOptions& o,
                        const std::function<Tensor(const Tensor& gates, int64_t step)>& distance,
                        const std::function<void(int64_t step, double distance)>& report) {
  require(o.steps >= 1 && o.sinks >= 0 && o.recent >= 1,
          "gates: {} steps, {} sinks, {} recent tokens: 1, 0 and 1 or more are accepted", o.steps, o.sinks, o.recent);
  require(o.learning_rate > 0 && o.lambda >= 0 && std::isfinite(o.learning_rate) && std::isfinite(o.lambda),
          "gates: a learning rate of {} and lambda = {}: above 0, and 0 or more are accepted", o.learning_rate,
          o.lambda);
  auto gates = torch::ones({layers, heads}).requires_grad_();
  torch::optim::AdamW adamw({gates}, torch::optim::AdamWOptions(o.learning_rate).weight_decay(0));
  const auto clamp = [&] {
    torch::NoGradGuard no_grad;
    gates.clamp_(0, 1);
  };
  double last = 0;
  const int64_t averaged = std::max<int64_t>(1, o.steps / 10);
  for (int64_t t = 0; t < o.steps; ++t) {
    clamp();
    static_cast<torch::optim::AdamWOptions&>(adamw.param_groups()[0].options())
        .lr(o.learning_rate * duo_rate(t, o.steps));
    adamw.zero_grad();
    const auto d = distance(gates, t);
    const double value = d.item<double>();
    require(std::isfinite(value), "gates: step {}: the distance is {}", t, value);
    (d + o.lambda * gates.abs().mean()).backward();
    adamw.step();
    if (t >= o.steps - averaged) last += value / double(averaged);
    if (report) report(t, value);
  }
  clamp();
  return {gates.detach(), last};
}

DuoTraining train_duo_gates(DecoderLm& model, const DuoOptions& options,
                            const std::function<LabelledTokens(int64_t step)>& source,
                            const std::function<void(int64_t step, double distance)>& report) {
  const auto& config = model->config();
  const auto gated = gated_layers(config);
  require(!gated.empty(), "gates: no layer of this model is plain dense attention");
  const auto index = torch::tensor(gated);
  // Only gates that exist are trained, so that the mean is over them.
  const auto all = [&](const Tensor& own) {
    return torch::ones({int64_t(config.layers.size()), config.kv_heads}).index_copy(0, index, own);
  };
  auto training = train_gates(
      int64_t(gated.size()), config.kv_heads, options,
      [&](const Tensor& gates, int64_t step) {
        const auto [tokens, tail] = source(step);
        return duo_distance(model, tokens, tail, all(gates), options);
      },
      report);
  training.gates = all(training.gates);
  return training;
}

}  // namespace heed::train
