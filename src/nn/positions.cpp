#include "heed/nn/positions.h"

#include <cmath>
#include <numbers>

#include "heed/error.h"
#include "heed/nn/config.h"

namespace heed::nn {
namespace {

using torch::Tensor;

/// Index at which `rotations` full turns happen over `length` tokens: the ramp's ends in common YaRN code.
double yarn_index(double rotations, int64_t dim, double theta, int64_t length) {
  return dim * std::log(length / (rotations * 2 * std::numbers::pi)) / (2 * std::log(theta));
}

Tensor scale_yarn(const Tensor& frequencies, const RopeConfig& c, int64_t dim) {
  const double low = std::max(std::floor(yarn_index(c.beta_fast, dim, c.theta, c.original_length)), 0.0);
  double high = std::min(std::ceil(yarn_index(c.beta_slow, dim, c.theta, c.original_length)), double(dim - 1));
  if (high == low) high += 0.001;
  const auto ramp = ((torch::arange(dim / 2, torch::kFloat64) - low) / (high - low)).clamp(0, 1);
  return frequencies * (1 - ramp) + frequencies / c.factor * ramp;
}

Tensor scale_llama3(const Tensor& frequencies, const RopeConfig& c) {
  const auto wavelength = 2 * std::numbers::pi / frequencies;
  const double l0 = double(c.original_length);
  const auto smooth = ((l0 / wavelength - c.low_freq_factor) / (c.high_freq_factor - c.low_freq_factor)).clamp(0, 1);
  return (1 - smooth) * frequencies / c.factor + smooth * frequencies;
}

}  // namespace

RopeConfig RopeConfig::from_json(const nlohmann::json& config, const std::string& owner) {
  ConfigReader read(owner + " rope", config);
  RopeConfig c;
  c.theta = read.get("theta", c.theta);
  c.rotary_dim = read.integer("rotary_dim", c.rotary_dim, 0, 65536);
  c.interleaved = read.get("interleaved", c.interleaved);
  c.scaling = read.choice("scaling", c.scaling, {"none", "linear", "ntk", "dynamic", "yarn", "llama3", "longrope"});
  c.factor = read.get("factor", c.factor);
  c.original_length = read.integer("original_length", c.original_length, 0);
  c.low_freq_factor = read.get("low_freq_factor", c.low_freq_factor);
  c.high_freq_factor = read.get("high_freq_factor", c.high_freq_factor);
  c.beta_fast = read.get("beta_fast", c.beta_fast);
  c.beta_slow = read.get("beta_slow", c.beta_slow);
  c.attention_factor = read.get("attention_factor", c.attention_factor);
  c.short_factors = read.get("short_factors", c.short_factors);
  c.long_factors = read.get("long_factors", c.long_factors);
  read.finish();
  require(c.theta > 1, "{}: rope theta = {}: a number above 1 is accepted", owner, c.theta);
  require(c.factor >= 1, "{}: rope factor = {}: 1 or more is accepted", owner, c.factor);
  const bool longrope = c.scaling == "longrope";
  const bool needs_length = c.scaling == "dynamic" || c.scaling == "yarn" || c.scaling == "llama3" || longrope;
  require(!needs_length || c.original_length > int64_t(longrope), "{}: rope scaling {} needs original_length", owner,
          c.scaling);
  require(c.attention_factor >= 0, "{}: rope attention_factor = {}: 0 (by the scaling's formula) or more is accepted",
          owner, c.attention_factor);
  return c;
}

nlohmann::json RopeConfig::to_json() const {
  return {{"theta", theta},
          {"rotary_dim", rotary_dim},
          {"interleaved", interleaved},
          {"scaling", scaling},
          {"factor", factor},
          {"original_length", original_length},
          {"low_freq_factor", low_freq_factor},
          {"high_freq_factor", high_freq_factor},
          {"beta_fast", beta_fast},
          {"beta_slow", beta_slow},
          {"attention_factor", attention_factor},
          {"short_factors", short_factors},
          {"long_factors", long_factors}};
}

Tensor rope_frequencies(const RopeConfig& c, int64_t head_dim, int64_t length) {
  const int64_t dim = c.rotary_dim ? c.rotary_dim : head_dim;
  require(dim % 2 == 0 && dim <= head_dim,
          "rope rotates {} of {} dimensions: an even number up to the head size is accepted", dim, head_dim);
  double theta = c.theta;
  const double stretch = double(dim) / std::max<double>(dim - 2, 1);
  if (c.scaling == "ntk") theta *= std::pow(c.factor, stretch);
  if (c.scaling == "dynamic" && length > c.original_length)
    theta *= std::pow(c.factor * length / c.original_length - (c.factor - 1), stretch);
  auto frequencies = torch::pow(theta, -torch::arange(0, dim, 2, torch::kFloat64) / double(dim));
  if (c.scaling == "linear") return frequencies / c.factor;
  if (c.scaling == "yarn") return scale_yarn(frequencies, c, dim);
  if (c.scaling == "llama3") return scale_llama3(frequencies, c);
  if (c.scaling == "longrope") {
    const auto& factors = length > c.original_length ? c.long_factors : c.short_factors;
    require(int64_t(factors.size()) == dim / 2, "longrope has {} factors: one a frequency, {}, is accepted",
            factors.size(), dim / 2);
    return frequencies / torch::tensor(factors, torch::kFloat64);
  }
  return frequencies;
}

double rope_magnitude(const RopeConfig& c) {
  const bool yarn = c.scaling == "yarn", longrope = c.scaling == "longrope";
  if ((yarn || longrope) && c.attention_factor > 0) return c.attention_factor;
  if (yarn && c.factor > 1) return 0.1 * std::log(c.factor) + 1;
  if (longrope) return std::sqrt(1 + std::log(c.factor) / std::log(double(c.original_length)));
  return 1;
}

Tensor apply_rope(const Tensor& x, const Tensor& positions, const RopeConfig& c) {
  const int64_t dim = c.rotary_dim ? c.rotary_dim : x.size(3);
  const bool asks_length = c.scaling == "dynamic" || c.scaling == "longrope";
  const int64_t length = asks_length && positions.numel() ? positions.max().item<int64_t>() + 1 : 0;
  const auto frequencies = rope_frequencies(c, x.size(3), length);
  auto angles = positions.to(torch::kFloat64).unsqueeze(-1) * frequencies;  // [N, dim/2] or [B, N, dim/2]
  if (angles.dim() == 3) angles = angles.unsqueeze(1);                      // [B, 1, N, dim/2]
  const double magnitude = rope_magnitude(c);
  const auto type = x.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
  const auto cos = (angles.cos() * magnitude).to(type), sin = (angles.sin() * magnitude).to(type);

  const auto rotated = x.narrow(3, 0, dim);
  Tensor a, b;
  if (c.interleaved) {
    const auto pairs = rotated.unflatten(3, {dim / 2, 2});
    a = pairs.select(4, 0);
    b = pairs.select(4, 1);
  } else {
    a = rotated.narrow(3, 0, dim / 2);
    b = rotated.narrow(3, dim / 2, dim / 2);
  }
  const auto first = a * cos - b * sin, second = b * cos + a * sin;
  auto result = c.interleaved ? torch::stack({first, second}, 4).flatten(3) : torch::cat({first, second}, 3);
  result = result.to(x.scalar_type());
  return dim == x.size(3) ? result : torch::cat({result, x.narrow(3, dim, x.size(3) - dim)}, 3);
}

Tensor alibi_slopes(int64_t heads) {
  int64_t power = 1;
  while (power * 2 <= heads) power *= 2;
  std::vector<float> slopes;
  for (int64_t i = 1; i <= power; ++i) slopes.push_back(float(std::exp2(-8.0 * i / power)));
  for (int64_t i = 1; int64_t(slopes.size()) < heads; i += 2) slopes.push_back(float(std::exp2(-4.0 * i / power)));
  return torch::tensor(slopes);
}

Tensor t5_buckets(const Tensor& q_positions, const Tensor& k_positions, bool causal, int64_t buckets,
                  int64_t max_distance) {
  const auto relative = k_positions.unsqueeze(-2) - q_positions.unsqueeze(-1);
  Tensor offset = torch::zeros_like(relative), distance;
  if (causal) {
    distance = (-relative).clamp_min(0);
  } else {
    buckets /= 2;
    offset = (relative > 0).to(torch::kInt64) * buckets;
    distance = relative.abs();
  }
  const int64_t exact = buckets / 2;
  // float32 and truncation, in this order: the buckets of published checkpoints depend on it at exact powers.
  const auto log_bucket = exact + (torch::log(distance.to(torch::kFloat32).clamp_min(1) / double(exact)) /
                                   std::log(double(max_distance) / double(exact)) * double(buckets - exact))
                                      .to(torch::kInt64);
  return offset + torch::where(distance < exact, distance, log_bucket.clamp_max(buckets - 1));
}

Tensor sinusoidal(const Tensor& positions, int64_t dim) {
  const auto frequency = torch::pow(10000.0, -torch::arange(0, dim, 2, torch::kFloat64) / double(dim));
  const auto angles = positions.to(torch::kFloat64).unsqueeze(-1) * frequency;
  return torch::stack({angles.sin(), angles.cos()}, -1).flatten(-2).narrow(-1, 0, dim);
}

PositionsConfig PositionsConfig::from_json(const nlohmann::json& config, const std::string& owner) {
  PositionsConfig c;
  if (config.is_string()) return from_json({{"kind", config}}, owner);
  ConfigReader read(owner + " positions", config);
  c.kind = read.choice("kind", c.kind, {"none", "rope", "alibi", "t5", "learned", "sinusoidal"});
  c.rope = RopeConfig::from_json(read.object("rope"), owner);
  c.max_length = read.integer("max_length", c.max_length, 1);
  read.finish();
  return c;
}

nlohmann::json PositionsConfig::to_json() const {
  nlohmann::json result{{"kind", kind}};
  if (kind == "rope") result["rope"] = rope.to_json();
  if (kind == "learned") result["max_length"] = max_length;
  return result;
}

PositionsImpl::PositionsImpl(PositionsConfig config, int64_t dim, int64_t heads, bool causal)
    : config_(std::move(config)), heads_(heads), causal_(causal) {
  if (config_.kind == "learned") table_ = register_parameter("table", torch::randn({config_.max_length, dim}) * 0.02);
  if (config_.kind == "t5") table_ = register_parameter("table", torch::randn({32, heads}) * 0.02);
  if (config_.kind == "alibi") slopes_ = register_buffer("slopes", nn::alibi_slopes(heads));
}

Tensor PositionsImpl::embed(const Tensor& x, const Tensor& positions) {
  if (config_.kind == "sinusoidal") return x + sinusoidal(positions, x.size(-1)).to(x.scalar_type());
  if (config_.kind != "learned") return x;
  const int64_t last = positions.numel() ? positions.max().item<int64_t>() : 0;
  require(last < table_.size(0), "learned positions: position {} lies beyond the table of {}", last, table_.size(0));
  return x + table_.index({positions});
}

Tensor PositionsImpl::rotate(const Tensor& q_or_k, const Tensor& positions) const {
  return config_.kind == "rope" ? apply_rope(q_or_k, positions, config_.rope) : q_or_k;
}

void PositionsImpl::score_terms(AttentionOptions& options, const Tensor& q_positions, const Tensor& k_positions) const {
  if (config_.kind == "alibi") options.alibi_slopes = slopes_;
  if (config_.kind == "t5") {
    const auto buckets = t5_buckets(q_positions, k_positions, causal_);
    const auto bias = table_.index({buckets}).movedim(-1, -3);  // [H, N, M] or [B, H, N, M]
    options.bias = bias.dim() == 3 ? bias.unsqueeze(0) : bias;
  }
}

}  // namespace heed::nn
