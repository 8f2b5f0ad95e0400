// S4D: diagonal state-space models. A whole sequence is a convolution with a Vandermonde product.
#include <cmath>

#include "heed/error.h"
#include "heed/ops/toeplitz_fft.h"
#include "mixers/linear/state_space.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::StateSpaceConfig;
using torch::Tensor;

/// exp(z) - 1 of complex z, as exact near 0 as elsewhere.
Tensor exp_minus_one(const Tensor& z) {
  const auto x = torch::real(z), y = torch::imag(z), half = torch::sin(y / 2);
  return torch::complex(torch::expm1(x) * torch::cos(y) - 2 * half * half, torch::exp(x) * torch::sin(y));
}

Tensor initial_frequencies(const std::string& kind, int64_t pairs) {
  const auto n = torch::arange(pairs, torch::kFloat32);
  const double states = 2.0 * static_cast<double>(pairs);
  if (kind == "lin") return M_PI * n;
  if (kind == "inv") return states / M_PI * (states / (2 * n + 1) - 1);
  return torch::zeros({pairs});
}

class S4d final : public linear::StateSpaceMixer {
 public:
  S4d(const StateSpaceConfig& c, const std::string& init) : StateSpaceMixer("s4d", c) {
    const std::vector<int64_t> size{directions(), c.dim, c.pairs()};
    const auto decay =
        init == "real" ? torch::arange(1, c.pairs() + 1, torch::kFloat32) : torch::full({c.pairs()}, 0.5);
    log_decay_ = register_parameter("log_decay", decay.log().expand(size).clone());
    frequency_ = register_parameter("frequency", initial_frequencies(init, c.pairs()).expand(size).clone());
    c_ = register_parameter("c", torch::randn({directions(), c.dim, c.pairs(), 2}) * std::sqrt(0.5));
  }

 protected:
  Tensor kernel(int64_t tokens, int64_t direction) override {
    const System system = system_of(direction);
    std::vector<Tensor> parts;
    // The powers of many tokens at once would take a multiple of the tokens' own memory.
    for (int64_t t = 0; t < tokens; t += kPiece) {
      const auto powers =
          torch::exp(system.rate.unsqueeze(0) *
                     torch::arange(t, std::min(tokens, t + kPiece)).to(system.rate.scalar_type()).view({-1, 1, 1}));
      parts.push_back(2 * torch::real((powers * (system.c * system.b)).sum(2)));
    }
    return torch::cat(parts);
  }

  Tensor recurrence(const Tensor& u, Tensor& state) override {
    const System system = system_of(0);
    const auto inputs = u.to(system.rate.scalar_type());
    auto h =
        state.defined() ? torch::view_as_complex(state) : inputs.new_zeros({u.size(0), u.size(2), system.c.size(1)});
    std::vector<Tensor> parts;
    for (int64_t t = 0; t < u.size(1); t += kPiece) {
      const int64_t count = std::min(kPiece, u.size(1) - t);
      const auto piece = inputs.narrow(1, t, count);  // [B, n, C]
      const auto powers = torch::exp(system.rate.unsqueeze(0) *
                                     torch::arange(count + 1).to(system.rate.scalar_type()).view({-1, 1, 1}));
      // What the state before gives, and the convolution of the piece itself.
      auto y = 2 * torch::real(torch::einsum("bcp,lcp->blc", {h, powers.slice(0, 1) * system.c}));
      const auto response = 2 * torch::real((powers.slice(0, 0, count) * (system.c * system.b)).sum(2));
      parts.push_back(y + ops::toeplitz_fft(response.unsqueeze(0), torch::real(piece).contiguous(), true));
      h = powers[count] * h + torch::einsum("lcp,blc->bcp", {powers.slice(0, 0, count).flip(0) * system.b, piece});
    }
    state = torch::view_as_real(h).contiguous();
    return torch::cat(parts, 1).to(u.scalar_type());
  }

 private:
  static constexpr int64_t kPiece = 256;

  /// Of one direction, complex [C, N / 2]: dt A, Bd = (exp(dt A) - 1) / A for B = 1, and C.
  struct System {
    Tensor rate, b, c;
  };
  System system_of(int64_t direction) const {
    const auto wide = [&](const Tensor& t) {
      return t.scalar_type() == torch::kFloat64 ? t[direction] : t[direction].to(torch::kFloat32);
    };
    const auto a = torch::complex(-torch::exp(wide(log_decay_)), wide(frequency_));
    const auto rate = a * wide(steps()).unsqueeze(1);
    return {rate, exp_minus_one(rate) / a, torch::view_as_complex(wide(c_).contiguous())};
  }

  Tensor log_decay_, frequency_, c_;
};

}  // namespace

RegistryRow rows::s4d() {
  return {.name = "s4d",
          .family = "linear_and_recurrent",
          .paper = "On the Parameterization and Initialization of Diagonal State Space Models (arXiv 2206.11893)",
          .year = 2022,
          .patterns = {true, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .spectral = true,
          .cost = "O(N log N)",
          .parameters = linear::state_space_parameters({{"init", "lin", "lin, inv or real: where the poles start"}}),
          .small = {{"dim", 12}, {"state_dim", 8}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("s4d", json);
            const auto config = StateSpaceConfig::read(reader);
            const auto init = reader.choice("init", "lin", {"lin", "inv", "real"});
            reader.finish();
            return std::make_shared<S4d>(config, init);
          }};
}

}  // namespace heed
