#include "mixers/linear/neural_memory.h"

#include <cmath>

#include "heed/error.h"
#include "heed/nn/gelu.h"
#include "heed/nn/start.h"
#include "heed/ops/linear_chunk.h"

namespace heed::linear {

using torch::Tensor;

namespace {

Tensor activated(const Tensor& x, const MemoryForm& form) { return form.silu ? torch::silu(x) : nn::gelu(x); }

/// The derivative of the activation.
Tensor slope(const Tensor& x, const MemoryForm& form) {
  if (form.silu) {
    const auto gate = torch::sigmoid(x);
    return gate * (1 + x * (1 - gate));
  }
  const auto density = torch::exp(-x.square() / 2) / std::sqrt(2 * M_PI);
  return 0.5 * (1 + torch::erf(x / std::sqrt(2.0))) + x * density;
}

/// LayerNorm before its gain and bias, and what it divided by.
struct Normed {
  Tensor x, inverse;
  explicit Normed(const Tensor& f) {
    const auto centred = f - f.mean(-1, true);
    inverse = torch::rsqrt(centred.square().mean(-1, true) + 1e-5);
    x = centred * inverse;
  }
};

/// M of a memory whose last layer gave f for x.
Tensor answered(const Tensor& x, const Tensor& f, const MemoryForm& form) {
  return form.gain.defined() ? x + Normed(f).x * form.gain + form.bias : f;
}

/// The gradient of |M(k) - v|^2 in the last layer's output f.
Tensor answer_gradient(const Tensor& k, const Tensor& f, const Tensor& v, const MemoryForm& form) {
  const auto delta = 2 * (answered(k, f, form) - v);
  if (!form.gain.defined()) return delta;
  const Normed normed(f);
  const auto inner = delta * form.gain;
  return normed.inverse * (inner - inner.mean(-1, true) - normed.x * (inner * normed.x).mean(-1, true));
}

Tensor unit(const Tensor& t) { return t * torch::rsqrt(t.square().sum(-1, true) + 1e-6); }

}  // namespace

NeuralMemoryConfig NeuralMemoryConfig::read(ConfigReader& reader) {
  NeuralMemoryConfig c;
  c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
  c.heads = reader.integer("heads", c.heads, 1, 1 << 16);
  require(c.dim % c.heads == 0, "{}: dim = {} is no multiple of heads = {}", reader.owner(), c.dim, c.heads);
  c.layers = reader.integer("memory_layers", c.layers, 1, 16);
  c.expand = reader.integer("memory_expand", c.expand, 1, 64);
  c.chunk = reader.integer("chunk", c.chunk, 1, 4096);
  c.conv = reader.integer("conv", c.conv, 1, 64);
  c.largest_step = reader.get("largest_step", c.largest_step);
  require(c.largest_step >= 0 && c.largest_step <= 1, "{}: largest_step = {}: 0 to 1 is accepted", reader.owner(),
          c.largest_step);
  c.activation = reader.choice("memory_activation", c.activation, {"gelu", "silu"});
  c.residual = reader.get("memory_residual", c.residual);
  c.momentum = reader.get("momentum", c.momentum);
  c.forgetting = reader.get("forgetting", c.forgetting);
  require(reader.get("causal", true), "{}: causal = false is not accepted: a memory learns in order", reader.owner());
  return c;
}

std::vector<Parameter> neural_memory_parameters() {
  return {{"dim", 64, "channels C of the tokens"},
          {"heads", 4, "memories side by side"},
          {"memory_layers", 2, "layers of a memory; 1 is a matrix"},
          {"memory_expand", 4, "inner width of a deeper memory, in head sizes"},
          {"memory_activation", "gelu", "between its layers: gelu or silu"},
          {"memory_residual", false, "a memory adds its key to what its layers give, behind a LayerNorm"},
          {"chunk", 16, "tokens whose gradients are taken at the same weights"},
          {"conv", 4, "tokens of the short convolutions of q, k and v"},
          {"largest_step", 0.1, "step sizes are this times a sigmoid"},
          {"momentum", true, "updates carry over to later tokens"},
          {"forgetting", true, "weights decay"},
          {"causal", true, "only true is accepted"}};
}

MemoryCoefficients memory_coefficients(const MemoryGates& gates) {
  const int64_t count = gates.theta.size(-1);
  const auto keep = gates.keep > 0;
  const auto at = [&](const Tensor& t, int64_t i) { return t.select(-1, i).unsqueeze(-1); };
  const auto units = torch::eye(count, gates.theta.options());
  auto carry = torch::ones_like(at(gates.theta, 0)), carried = torch::zeros_like(carry), fade = torch::ones_like(carry);
  auto impulse = torch::zeros_like(gates.theta), pairs = torch::zeros_like(gates.theta);
  std::vector<Tensor> carries, carrieds, rows;
  for (int64_t t = 0; t < count; ++t) {
    const auto kept = at(keep, t), hold = 1 - at(gates.alpha, t), eta = at(gates.eta, t);
    fade = torch::where(kept, eta * fade, fade);
    carry = torch::where(kept, hold * carry, carry);
    carried = torch::where(kept, hold * carried + fade, carried);
    impulse = torch::where(kept, eta * impulse + units[t], impulse);
    pairs = torch::where(kept, hold * pairs + impulse, pairs);
    carries.push_back(carry), carrieds.push_back(carried), rows.push_back(pairs);
  }
  return {torch::cat(carries, -1), torch::cat(carrieds, -1), torch::stack(rows, -2), fade.squeeze(-1), impulse};
}

Tensor memory_read(const std::vector<Tensor>& weights, const Tensor& q, const MemoryForm& form) {
  auto h = q;
  for (size_t l = 0; l < weights.size(); ++l) {
    h = torch::matmul(h, weights[l]);
    if (l + 1 < weights.size()) h = activated(h, form);
  }
  return answered(q, h, form);
}

Tensor memory_chunk(MemoryWeights& memory, const Tensor& q, const Tensor& k, const Tensor& v, const MemoryGates& gates,
                    const MemoryForm& form) {
  const size_t layers = memory.weights.size();
  const auto c = memory_coefficients(gates);
  // Inputs a_l of every layer for the keys, and what the loss says of its outputs.
  std::vector<Tensor> inputs{k}, outputs, deltas(layers);
  for (size_t l = 0; l < layers; ++l) {
    outputs.push_back(torch::matmul(inputs[l], memory.weights[l]));
    if (l + 1 < layers) inputs.push_back(activated(outputs[l], form));
  }
  deltas[layers - 1] = answer_gradient(k, outputs[layers - 1], v, form);
  for (size_t l = layers - 1; l > 0; --l)
    deltas[l - 1] = torch::matmul(deltas[l], memory.weights[l].transpose(-1, -2)) * slope(outputs[l - 1], form);

  const auto steps = gates.theta.unsqueeze(-1);
  const auto column = [](const Tensor& t) { return t.unsqueeze(-1); };
  const auto matrix = [](const Tensor& t) { return t.unsqueeze(-1).unsqueeze(-1); };
  const int64_t end = gates.theta.size(-1) - 1;
  // Of the weights; momenta are read and carried beside them.
  const ops::LinearCoefficients of_weights{-c.pairs, c.carry, -c.pairs.select(-2, end), c.carry.slice(-1, end)};
  auto h = q;
  for (size_t l = 0; l < layers; ++l) {
    auto &weights = memory.weights[l], &momenta = memory.momenta[l];
    const auto written = steps * deltas[l];
    const auto learned = ops::linear_coefficients(h, inputs[l], written, of_weights, weights);
    const auto out = learned.out + column(c.carried) * torch::matmul(h, momenta);
    h = l + 1 < layers ? activated(out, form) : out;
    weights = learned.state + matrix(c.carried.select(-1, end)) * momenta;
    momenta = matrix(c.fade) * momenta - torch::matmul(inputs[l].transpose(-1, -2), column(c.last) * written);
  }
  return answered(q, h, form);
}

NeuralMemoryImpl::NeuralMemoryImpl(const NeuralMemoryConfig& config) : config_(config) {
  const auto project = [&](const char* name, int64_t out, bool bias) {
    return register_module(name, nn::started_linear(config.dim, out, bias));
  };
  q_proj_ = project("q_proj", config.dim, false);
  k_proj_ = project("k_proj", config.dim, false);
  v_proj_ = project("v_proj", config.dim, false);
  gate_proj_ = project("gate_proj", 3 * config.heads, true);
  q_conv_ = register_module("q_conv", nn::ShortConv(config.dim, config.conv, false, false));
  k_conv_ = register_module("k_conv", nn::ShortConv(config.dim, config.conv, false, false));
  v_conv_ = register_module("v_conv", nn::ShortConv(config.dim, config.conv, false, false));
  const int64_t d = config.head_dim(), inner = config.expand * d;
  for (int64_t l = 0; l < config.layers; ++l) {
    const int64_t in = l == 0 ? d : inner, out = l + 1 == config.layers ? d : inner;
    const auto drawn = torch::randn({config.heads, in, out}) / std::sqrt(static_cast<double>(in));
    start_.push_back(register_parameter("memory_" + std::to_string(l), drawn));
  }
  form_.silu = config.activation == "silu";
  if (config.residual) {
    form_.gain = register_parameter("memory_gain", torch::ones({config.heads, 1, d}));
    form_.bias = register_parameter("memory_bias", torch::zeros({config.heads, 1, d}));
  }
  torch::NoGradGuard no_grad;
  // Little is forgotten before it is learned what to forget.
  gate_proj_->bias.zero_().slice(0, 2 * config.heads).fill_(-4);
}

MemoryWeights NeuralMemoryImpl::weights_of(RecurrentCall& call, size_t first_slot, int64_t batch) {
  MemoryWeights memory;
  for (size_t l = 0; l < start_.size(); ++l) {
    const auto& held = call.slot(first_slot + 2 * l);
    const auto start = start_[l].unsqueeze(0).expand({batch, -1, -1, -1});
    memory.weights.push_back(held.defined() ? held : start);
    const auto& momentum = call.slot(first_slot + 2 * l + 1);
    memory.momenta.push_back(momentum.defined() ? momentum : torch::zeros_like(memory.weights.back()));
  }
  return memory;
}

Tensor NeuralMemoryImpl::recall(RecurrentCall& call, size_t first_slot, const Tensor& x) {
  const auto q = unit(split_heads(torch::silu(q_proj_(x)), config_.heads));
  return join_heads(memory_read(weights_of(call, first_slot, x.size(0)).weights, q, form_));
}

Tensor NeuralMemoryImpl::forward(RecurrentCall& call, size_t first_slot, const Tensor& x, int64_t before,
                                 const std::optional<Tensor>& padding) {
  const int64_t tokens = x.size(1), heads = config_.heads, d = config_.head_dim();
  const size_t tail = first_slot + 2 * start_.size();
  const auto conv = [&](size_t index, nn::ShortConv& conv, torch::nn::Linear& projection) {
    auto projected = torch::silu(projection(x));
    if (padding) projected = projected.masked_fill(padding->unsqueeze(-1), 0);
    return split_heads(conv->forward(projected, &call.slot(tail + index)), heads);
  };
  const auto q = unit(conv(0, q_conv_, q_proj_)), k = unit(conv(1, k_conv_, k_proj_)), v = conv(2, v_conv_, v_proj_);
  const auto gates = torch::sigmoid(gate_proj_(x)).unflatten(2, {3, heads}).permute({2, 0, 3, 1});  // [3, B, H, N]
  const auto theta = gates[0] * config_.largest_step;
  const auto eta = config_.momentum ? gates[1] : torch::zeros_like(gates[1]);
  const auto alpha = config_.forgetting ? gates[2] : torch::zeros_like(gates[2]);
  auto keep = torch::ones_like(theta);
  if (padding) keep = keep.masked_fill(padding->unsqueeze(1), 0);

  // What of the running chunk came in earlier calls stands in front, once more.
  auto rows = torch::cat({k, v, theta.unsqueeze(-1), eta.unsqueeze(-1), alpha.unsqueeze(-1), keep.unsqueeze(-1)}, -1);
  auto& buffer = call.slot(tail + 3);
  const int64_t held = before % config_.chunk;
  auto queries = q;
  if (held > 0) {
    rows = torch::cat({buffer.narrow(2, 0, held), rows}, 2);
    queries = torch::cat({torch::zeros_like(queries.narrow(2, 0, 1)).expand({-1, -1, held, -1}), queries}, 2);
  }
  auto memory = weights_of(call, first_slot, x.size(0));
  std::vector<Tensor> outputs;
  const int64_t all = held + tokens;
  for (int64_t begin = 0; begin < all; begin += config_.chunk) {
    const int64_t count = std::min(config_.chunk, all - begin);
    const auto part = rows.narrow(2, begin, count);
    const auto side = [&](int64_t index) { return part.select(-1, 2 * d + index); };
    const MemoryGates own{side(0), side(1), side(2), side(3)};
    auto moved = memory;
    outputs.push_back(
        memory_chunk(moved, queries.narrow(2, begin, count), part.narrow(3, 0, d), part.narrow(3, d, d), own, form_));
    if (count == config_.chunk) memory = std::move(moved);
  }
  for (size_t l = 0; l < start_.size(); ++l) {
    call.slot(first_slot + 2 * l) = memory.weights[l].contiguous();
    call.slot(first_slot + 2 * l + 1) = memory.momenta[l].contiguous();
  }
  const int64_t rest = all % config_.chunk;
  buffer = torch::constant_pad_nd(rows.narrow(2, all - rest, rest), {0, 0, 0, config_.chunk - rest});
  return join_heads(torch::cat(outputs, 2).narrow(2, held, tokens));
}

}  // namespace heed::linear
