#include "mixers/linear/selective_ssm.h"

#include <cmath>

#include "heed/ops/selective_scan.h"

namespace heed::linear {

using torch::Tensor;

SelectiveSizes SelectiveSizes::read(ConfigReader& reader) {
  SelectiveSizes c;
  c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
  c.expand = reader.integer("expand", c.expand, 1, 64);
  c.state_dim = reader.integer("state_dim", c.state_dim, 1, 1 << 16);
  c.step_rank = reader.integer("step_rank", 0, 0, 1 << 16);
  if (c.step_rank == 0) c.step_rank = (c.dim + 15) / 16;
  return c;
}

std::vector<Parameter> selective_parameters(std::vector<Parameter> own) {
  std::vector<Parameter> all{{"dim", 64, "channels C of the tokens"},
                             {"expand", 2, "inner channels are expand * dim"},
                             {"state_dim", 16, "states of an inner channel"},
                             {"step_rank", 0, "of the projection to steps; 0: ceil(dim / 16)"}};
  all.insert(all.end(), own.begin(), own.end());
  return all;
}

Tensor initial_step_bias(int64_t count) {
  const auto step = torch::exp(torch::empty({count}).uniform_(std::log(1e-3), std::log(1e-1))).clamp_min(1e-4);
  return step + torch::log(-torch::expm1(-step));
}

torch::nn::Linear wide_projection(torch::nn::Linear projection) {
  torch::NoGradGuard no_grad;
  const double bound = 1 / std::sqrt(static_cast<double>(projection->options.in_features()));
  projection->weight.uniform_(-bound, bound);
  return projection;
}

SelectiveSsmImpl::SelectiveSsmImpl(const SelectiveSsmConfig& c) : config_(c) {
  const double in_bound = 1 / std::sqrt(static_cast<double>(c.channels)),
               step_bound = 1 / std::sqrt(static_cast<double>(c.step_rank));
  x_proj_ = register_parameter(
      "x_proj", torch::empty({c.directions, c.step_rank + 2 * c.state_dim, c.channels}).uniform_(-in_bound, in_bound));
  step_proj_ = register_parameter(
      "step_proj", torch::empty({c.directions, c.channels, c.step_rank}).uniform_(-step_bound, step_bound));
  const int64_t channels = c.directions * c.channels;
  step_bias_ = register_parameter("step_bias", initial_step_bias(channels));
  a_log_ = register_parameter("a_log", torch::arange(1, c.state_dim + 1, torch::kFloat32).log().repeat({channels, 1}));
  skip_ = register_parameter("skip", torch::ones({channels}));
}

Tensor SelectiveSsmImpl::forward(const Tensor& x, const std::optional<Tensor>& z, const std::optional<Tensor>& hidden,
                                 Tensor* state, const std::optional<Tensor>& cu_seqlens) {
  const int64_t batch = x.size(0), tokens = x.size(1), paths = config_.directions, rank = config_.step_rank;
  // One product a direction: [K, B N, D] x [K, D, R + 2 N].
  const auto by_direction = x.permute({2, 0, 1, 3}).flatten(1, 2);
  const auto read = torch::bmm(by_direction, x_proj_.transpose(1, 2));
  auto step = torch::bmm(read.narrow(2, 0, rank), step_proj_.transpose(1, 2))
                  .view({paths, batch, tokens, config_.channels})
                  .permute({1, 2, 0, 3});
  // Softplus makes 0 of it, whatever the bias is.
  if (hidden) step = step.masked_fill(hidden->unsqueeze(3), -1e4);
  const auto coefficients = read.narrow(2, rank, 2 * config_.state_dim)
                                .view({paths, batch, tokens, 2 * config_.state_dim})
                                .permute({1, 2, 0, 3});
  const auto initial = state != nullptr && state->defined() ? std::optional(*state) : std::nullopt;
  const auto wide = [](const Tensor& t) { return t.scalar_type() == torch::kFloat64 ? t : t.to(torch::kFloat32); };
  const auto result = ops::selective_scan(
      x.flatten(2), step.flatten(2), -torch::exp(wide(a_log_)), coefficients.narrow(3, 0, config_.state_dim),
      coefficients.narrow(3, config_.state_dim, config_.state_dim), wide(skip_), z, wide(step_bias_), initial,
      {.delta_softplus = true, .cu_seqlens = cu_seqlens});
  if (state != nullptr) *state = result.state;
  return result.out.view({batch, tokens, paths, config_.channels});
}

}  // namespace heed::linear
