#include "heed/models/timestep_experts.h"

#include <cmath>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/mixers/taps.h"
#include "heed/nn/gelu.h"
#include "heed/nn/positions.h"
#include "heed/nn/start.h"

namespace heed {

using torch::Tensor;

namespace {

constexpr double kTimeScale = 1000;  // times from 0 to 1 as positions of an embedding
constexpr double kEps = 1e-5;

/// What blocks get, or what their attention is over.
class TextTaps final : public Taps {
 public:
  explicit TextTaps(bool blend) : blend_(blend) {}
  void block_input(const LayerContext&, Tensor& x) override {
    if (!blend_) kept.push_back(x);
  }
  void core_input(const LayerContext&, CoreInput& in) override {
    if (!blend_) return;
    const int64_t group = in.q.size(1) / in.k.size(1);
    const auto heads = [&](const Tensor& t) { return join_heads(t.repeat_interleave(group, 1)); };
    kept.push_back(torch::cat({heads(in.k), heads(in.v)}, 2));
  }
  std::vector<Tensor> kept;

 private:
  bool blend_;
};

}  // namespace

FlowCondition told_by(DecoderLm& lm, const Tensor& tokens, bool blend) {
  torch::NoGradGuard no_grad;
  TextTaps taps(blend);
  lm->hidden(tokens, nullptr, 0, &taps);
  require(taps.kept.size() == lm->blocks.size(),
          "a text of {} layers, of which {} have keys and values: as many are accepted", lm->blocks.size(),
          taps.kept.size());
  return {{}, std::move(taps.kept)};
}

Tensor euler(const std::function<Tensor(const Tensor&, double)>& velocity, Tensor x, int64_t steps) {
  require(steps >= 1, "{} steps of a flow; 1 or more are accepted", steps);
  for (int64_t s = 0; s < steps; ++s) x = x + velocity(x, double(s) / double(steps)) / double(steps);
  return x;
}

TimestepExpertsImpl::TimestepExpertsImpl(TimestepExpertsConfig config) : config_(config) {
  const auto& c = config_;
  require(c.groups >= 1 && c.layers % c.groups == 0, "{} layers in {} groups: a divisor is accepted", c.layers,
          c.groups);
  require(
      !c.blend || c.text == 2 * c.dim,
      "a flow that shares the attention of its text: text = {}; keys and values of 2 dim = {} channels are accepted",
      c.text, 2 * c.dim);
  require(c.heads >= 1 && c.dim % c.heads == 0, "dim = {} is no multiple of heads = {}", c.dim, c.heads);
  torch::NoGradGuard no_grad;
  for (int64_t g = 0; g < c.groups; ++g) {
    const auto name = "group_" + std::to_string(g);
    auto owner = register_module(name, std::make_shared<torch::nn::Module>(name));
    auto& group = groups_.emplace_back();
    group.in = owner->register_module("in", torch::nn::Linear(c.channels, c.dim));
    group.time = owner->register_module("time", torch::nn::Linear(c.dim, c.dim));
    group.out = owner->register_module("out", torch::nn::Linear(c.dim, c.channels));
    if (c.classes) group.label = owner->register_module("label", torch::nn::Embedding(c.classes, c.dim));
    group.positions = owner->register_parameter("positions", nn::started_rows({1, c.tokens, c.dim}));
    group.norm = owner->register_module("norm", nn::Norm(formats::NormKind::layer, c.dim, kEps));
    for (int64_t l = 0; l < c.layers / c.groups; ++l) {
      const auto number = "layer_" + std::to_string(l);
      auto place = owner->register_module(number, std::make_shared<torch::nn::Module>(number));
      auto& layer = group.layers.emplace_back();
      const auto linear = [&](const char* key, int64_t in, int64_t out) {
        return place->register_module(key, torch::nn::Linear(in, out));
      };
      layer.norm = place->register_module("norm", nn::Norm(formats::NormKind::layer, c.dim, kEps));
      layer.mlp_norm = place->register_module("mlp_norm", nn::Norm(formats::NormKind::layer, c.dim, kEps));
      if (c.text && !c.blend) layer.text_kv = linear("text_kv", c.text, 2 * c.dim);
      layer.qkv = linear("qkv", c.dim, 3 * c.dim), layer.out = linear("o_proj", c.dim, c.dim);
      layer.up = linear("up", c.dim, c.hidden), layer.down = linear("down", c.hidden, c.dim);
      if (c.residual && l > 0) layer.gate = place->register_parameter("gate", torch::zeros({c.heads, c.dim}));
    }
  }
}

int64_t TimestepExpertsImpl::group_of(double t) const {
  require(t >= 0 && t <= 1, "time {} of a flow; 0 to 1 is accepted", t);
  return std::min(int64_t(t * double(config_.groups)), config_.groups - 1);
}

std::pair<double, double> TimestepExpertsImpl::interval(int64_t group) const {
  require(group >= 0 && group < config_.groups, "group {} of {}", group, config_.groups);
  return {double(group) / double(config_.groups), double(group + 1) / double(config_.groups)};
}

Tensor TimestepExpertsImpl::attend(Layer& layer, const Tensor& x, const Tensor& text, const Tensor& gate,
                                   Before& before) {
  const auto& c = config_;
  auto parts = layer.qkv(x).chunk(3, 2);
  if (text.defined()) {
    const auto before_x = (c.blend ? text : layer.text_kv(text)).chunk(2, 2);
    for (size_t i : {0, 1}) parts[i + 1] = torch::cat({before_x[i], parts[i + 1]}, 1);
  }
  const auto q = split_heads(parts[0], c.heads), k = split_heads(parts[1], c.heads), v = split_heads(parts[2], c.heads);
  const double scale = 1 / std::sqrt(double(c.dim / c.heads));
  Tensor heads;
  if (c.recompute) {
    // sum_j (product of the gates since j) q_j k_j^T is one product of concatenated rows.
    before.q = gate.defined() ? torch::cat({q, gate * before.q}, 3) : q;
    before.k = gate.defined() ? torch::cat({k, before.k}, 3) : k;
    AttentionOptions options;
    options.scale = scale;
    heads = attention(before.q, before.k, v, options);
  } else {
    const auto own = torch::matmul(q, k.transpose(2, 3)) * scale;
    before.scores = gate.defined() ? own + gate * before.scores : own;
    heads = torch::matmul(torch::softmax(before.scores, 3), v);
  }
  return layer.out(join_heads(heads));
}

Tensor TimestepExpertsImpl::velocity(const Tensor& x, const Tensor& times, const FlowCondition& condition) {
  require(times.dim() == 1 && times.numel() > 0, "a flow: times [B] are accepted, one or more");
  const double first = times.min().item<double>(), last = times.max().item<double>();
  const int64_t group = group_of(first);
  require(group == group_of(last), "times from {} to {} are of several groups", first, last);
  return of_group(group, x, times, condition);
}

Tensor TimestepExpertsImpl::of_group(int64_t which, const Tensor& x, const Tensor& times,
                                     const FlowCondition& condition) {
  const auto& c = config_;
  const auto& [labels, texts] = condition;
  require(x.dim() == 3 && x.size(1) == c.tokens && x.size(2) == c.channels && times.dim() == 1 &&
              times.size(0) == x.size(0),
          "a flow: x [B, {}, {}] and times [B] are accepted", c.tokens, c.channels);
  require(!c.classes || labels.defined(), "a flow of {} classes needs labels", c.classes);
  require(texts.empty() || (c.text > 0 && (texts.size() == 1 || int64_t(texts.size()) == c.layers)),
          "{} texts of a flow of {} layers and {} channels of text: none, one, or one a layer are accepted",
          texts.size(), c.layers, c.text);
  for (const auto& text : texts)
    require(text.dim() == 3 && text.size(0) == x.size(0) && text.size(2) == c.text && text.size(1) == texts[0].size(1),
            "a text of shape {}: [{}, {}, {}] is accepted", c10::str(text.sizes()), x.size(0), texts[0].size(1),
            c.text);
  auto& group = groups_[size_t(which)];
  const auto embedding = nn::sinusoidal(times * kTimeScale, c.dim).to(x.scalar_type());  // [B, dim]
  auto state = group.in(x) + group.positions + group.time(embedding).unsqueeze(1);
  if (c.classes) state = state + group.label(labels).unsqueeze(1);
  Before before;
  auto depth = size_t(which) * group.layers.size();
  for (auto& layer : group.layers) {
    const auto gate = layer.gate.defined()
                          ? torch::tanh(torch::matmul(embedding, layer.gate.t())).unsqueeze(2).unsqueeze(3)
                          : Tensor();
    const auto text = texts.empty() ? Tensor() : texts[texts.size() == 1 ? 0 : depth];
    ++depth;
    state = state + attend(layer, layer.norm(state), text, gate, before);
    state = state + layer.down(nn::gelu(layer.up(layer.mlp_norm(state))));
  }
  return group.out(group.norm(state));
}

Tensor TimestepExpertsImpl::loss(const Tensor& x1, const FlowCondition& condition) {
  const int64_t group = torch::randint(config_.groups, {1}, torch::kInt64).item<int64_t>();
  const auto [begin, end] = interval(group);
  const auto x0 = torch::randn_like(x1);
  const auto times = begin + (end - begin) * torch::rand({x1.size(0)}, x1.options());
  const auto t = times.view({-1, 1, 1});
  // Of rounded times, the last may be where the next group begins: they are of the group that was drawn.
  return (of_group(group, t * x1 + (1 - t) * x0, times, condition) - (x1 - x0)).square().mean();
}

Tensor TimestepExpertsImpl::sample(int64_t count, int64_t steps, const FlowCondition& condition) {
  torch::NoGradGuard no_grad;
  const auto options = groups_[0].positions.options().requires_grad(false);
  const auto field = [&](const Tensor& x, double t) {
    return velocity(x, torch::full({count}, t, options), condition);
  };
  return euler(field, torch::randn({count, config_.tokens, config_.channels}, options), steps);
}

}  // namespace heed
