#include "mixers/linear/state_space.h"

#include <cmath>

#include "heed/error.h"
#include "heed/nn/gelu.h"
#include "heed/ops/toeplitz_fft.h"

namespace heed::linear {

using torch::Tensor;

StateSpaceConfig StateSpaceConfig::read(ConfigReader& reader) {
  StateSpaceConfig c;
  c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
  c.state_dim = reader.integer("state_dim", c.state_dim, 2, 1 << 12);
  require(c.state_dim % 2 == 0, "{}: state_dim = {}: even numbers are accepted", reader.owner(), c.state_dim);
  c.min_step = reader.get("min_step", c.min_step);
  c.max_step = reader.get("max_step", c.max_step);
  require(c.min_step > 0 && c.min_step <= c.max_step && std::isfinite(c.max_step),
          "{}: steps from {} to {}: positive numbers in order are accepted", reader.owner(), c.min_step, c.max_step);
  c.output = reader.choice("output", c.output, {"glu", "linear", "none"});
  c.causal = reader.get("causal", true);
  return c;
}

std::vector<Parameter> state_space_parameters(std::vector<Parameter> own) {
  std::vector<Parameter> all{{"dim", 64, "channels C of the tokens, each a system of its own"},
                             {"state_dim", 64, "real states of a channel, even"},
                             {"min_step", 1e-3, "smallest initial step; they are drawn log-uniformly"},
                             {"max_step", 1e-1, "largest initial step"},
                             {"output", "glu", "glu, linear or none: the layer behind the GELU"},
                             {"causal", true, "false: a second kernel runs backwards"}};
  all.insert(all.end(), own.begin(), own.end());
  return all;
}

StateSpaceMixer::StateSpaceMixer(std::string name, const StateSpaceConfig& c)
    : RecurrentMixer(std::move(name), c.dim, c.causal), config_(c) {
  log_step_ = register_parameter(
      "log_step", torch::empty({directions(), c.dim}).uniform_(std::log(c.min_step), std::log(c.max_step)));
  skip_ = register_parameter("skip", torch::randn({c.dim}));
  if (c.output != "none") output_ = project("output", c.dim, c.output == "glu" ? 2 * c.dim : c.dim, true);
}

Tensor StateSpaceMixer::convolve(const Tensor& u) {
  const int64_t tokens = u.size(1);
  const auto ahead = kernel(tokens, 0).to(u.scalar_type());
  if (config_.causal) return ops::toeplitz_fft(ahead.unsqueeze(0), u, true);
  // The kernel backwards begins one token behind.
  const auto back = kernel(tokens, 1).to(u.scalar_type()).narrow(0, 0, tokens - 1).flip(0);
  return ops::toeplitz_fft(torch::cat({back, ahead}).unsqueeze(0), u, false);
}

Tensor StateSpaceMixer::run(RecurrentCall& call) {
  const auto u = call.without_padding(call.x);
  Tensor y;
  if (call.tokens() == 0) {
    y = u;
  } else if (call.carries()) {
    y = recurrence(u, call.slot(0));
  } else if (call.input.cu_seqlens) {
    const auto bounds = call.input.cu_seqlens->to(torch::kInt64).contiguous();
    const auto* at = bounds.data_ptr<int64_t>();
    std::vector<Tensor> parts;
    for (int64_t s = 0; s + 1 < bounds.numel(); ++s)
      if (at[s + 1] > at[s]) parts.push_back(convolve(u.slice(1, at[s], at[s + 1])));
    y = torch::cat(parts, 1);
  } else {
    y = convolve(u);
  }
  y = nn::gelu(y + skip_ * u);
  if (!output_) return y;
  return config_.output == "glu" ? torch::glu(output_(y), 2) : output_(y);
}

}  // namespace heed::linear
