// S4: state-space models whose matrix is diagonal plus low rank, from HiPPO. A whole sequence is a convolution whose
// kernel comes from its generating function.
#include <cmath>

#include "heed/error.h"
#include "heed/ops/toeplitz_fft.h"
#include "mixers/linear/hippo.h"
#include "mixers/linear/state_space.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::StateSpaceConfig;
using torch::Tensor;

/// Everything is computed in double: the bilinear form takes small differences of 2 / dt. A state is conjugate
/// symmetric in the eigenbasis, so half of it is kept.
class S4 final : public linear::StateSpaceMixer {
 public:
  explicit S4(const StateSpaceConfig& c) : StateSpaceMixer("s4", c) {
    const auto hippo = linear::hippo_legs(c.state_dim);
    const std::vector<int64_t> size{directions(), c.dim, c.pairs()}, pair_size{directions(), c.dim, c.pairs(), 2};
    const auto parameter = [&](const char* name, const Tensor& value, const std::vector<int64_t>& of) {
      return register_parameter(name, value.to(torch::kFloat32).expand(of).clone());
    };
    log_decay_ = parameter("log_decay", torch::log(-torch::real(hippo.eigenvalues)), size);
    frequency_ = parameter("frequency", torch::imag(hippo.eigenvalues), size);
    p_ = parameter("p", torch::view_as_real(hippo.p), pair_size);
    b_ = parameter("b", torch::view_as_real(hippo.b), pair_size);
    c_ = register_parameter("c", torch::randn(pair_size) * std::sqrt(0.5));
  }

 protected:
  Tensor kernel(int64_t tokens, int64_t direction) override {
    const System s = system_of(direction);
    // Rows of C (I - Ad^L), so that the sum over all powers of the generating function ends at L.
    const auto cut =
        s.c - torch::matmul(s.c.unsqueeze(1), torch::linalg_matrix_power(s.discrete().first, tokens)).squeeze(1);
    const auto turn = torch::arange(tokens / 2 + 1, torch::kFloat64) * (-2 * M_PI / static_cast<double>(tokens));
    const auto z = torch::polar(torch::ones_like(turn), turn), above = 1 + z;
    // r(a, b) = (1 + z) / 2 sum a b / ((1 - z) / dt - Lambda (1 + z) / 2): no pole where z = -1.
    const auto poles =
        (1 - z).view({1, 1, -1}) / s.step.view({-1, 1, 1}) - s.lambda.unsqueeze(2) * (above / 2).view({1, 1, -1});
    const auto sum = [&](const Tensor& a, const Tensor& b) { return ((a * b).unsqueeze(2) / poles).sum(1); };
    const auto p_row = torch::conj(s.p);
    const auto spectrum =
        sum(cut, s.b) - sum(cut, s.p) * sum(p_row, s.b) * (above / 2) / (1 + sum(p_row, s.p) * (above / 2));
    return torch::fft_irfft(spectrum, tokens, 1).t();
  }

  Tensor recurrence(const Tensor& u, Tensor& state) override {
    const System s = system_of(0);
    const auto inputs = u.to(torch::kFloat64);
    auto h = state.defined() ? torch::view_as_complex(state)
                             : torch::zeros({u.size(0), u.size(2), config_.pairs()}, s.b.options());
    const auto outputs = u.size(1) < kFewest ? walk(s, inputs, h) : by_pieces(s, inputs, h);
    state = torch::view_as_real(h).contiguous();
    return outputs.to(u.scalar_type());
  }

 private:
  /// Of one direction, complex [C, N]: A = diag(lambda) - p p^H.
  struct System {
    Tensor lambda, p, b, c, step;

    /// Ad = (2 / dt - A)^-1 (2 / dt + A), [C, N, N], and Bd = 2 (2 / dt - A)^-1 B, [C, N, 1]; the inverse is that of a
    /// diagonal with a rank more.
    std::pair<Tensor, Tensor> discrete() const {
      const auto rate = (2 / step).unsqueeze(1);
      const auto inverse = 1 / (rate - lambda), scaled = inverse * p, row = torch::conj(p);
      const auto left = torch::diag_embed(inverse) - scaled.unsqueeze(2) * (row * inverse).unsqueeze(1) /
                                                         (1 + (row * scaled).sum(1)).view({-1, 1, 1});
      return {torch::matmul(left, torch::diag_embed(rate + lambda) - p.unsqueeze(2) * row.unsqueeze(1)),
              torch::matmul(left, 2 * b.unsqueeze(2))};
    }
  };

  /// Token by token, O(N) each; h [B, C, N / 2] becomes the state after u [B, T, C].
  Tensor walk(const System& s, const Tensor& u, Tensor& h) const {
    const auto kept = [&](const Tensor& t) { return t.narrow(1, 0, config_.pairs()); };
    const auto lambda = kept(s.lambda), p = kept(s.p), b = kept(s.b), c = kept(s.c);
    // Sums over a state and its conjugate are real.
    const auto dot = [](const Tensor& a, const Tensor& x) { return 2 * torch::real((a * x).sum(-1, true)); };
    const auto rate = 2 / s.step.unsqueeze(1);
    const auto inverse = 1 / (rate - lambda), p_row = torch::conj(p);
    const auto correction = inverse * p / (1 + dot(p_row, inverse * p));
    std::vector<Tensor> outputs;
    for (int64_t t = 0; t < u.size(1); ++t) {
      const auto v = (rate + lambda) * h - p * dot(p_row, h) + 2 * b * u.select(1, t).unsqueeze(2);
      h = inverse * v - correction * dot(p_row, inverse * v);
      outputs.push_back(dot(c, h).squeeze(2));
    }
    return torch::stack(outputs, 1);
  }

  /// The same by pieces: a convolution of each, and what the state before it gives.
  Tensor by_pieces(const System& s, const Tensor& u, Tensor& h) const {
    const int64_t piece = std::min(u.size(1), kPiece), half = config_.pairs();
    const auto [step, input] = s.discrete();
    // Rows C Ad^t, t from 0 to the piece's length, and columns Ad^t Bd, by doubling.
    auto rows = s.c.unsqueeze(1), columns = input, power = step;
    while (rows.size(1) <= piece) {
      rows = torch::cat({rows, torch::matmul(rows, power)}, 1);
      columns = torch::cat({columns, torch::matmul(power, columns)}, 2);
      power = torch::matmul(power, power);
    }
    const auto response = torch::real(torch::matmul(rows.narrow(1, 0, piece), input)).squeeze(2).t();  // [piece, C]
    std::vector<Tensor> outputs;
    Tensor after;  // Ad^count
    for (int64_t t = 0; t < u.size(1); t += piece) {
      const int64_t count = std::min(piece, u.size(1) - t);
      const auto x = u.narrow(1, t, count);
      // Of conjugate pairs the first halves say all.
      const auto given =
          2 * torch::real(torch::einsum("ctn,bcn->btc", {rows.slice(1, 1, count + 1).narrow(2, 0, half), h}));
      outputs.push_back(given + ops::toeplitz_fft(response.narrow(0, 0, count).unsqueeze(0), x.contiguous(), true));
      if (count < piece || !after.defined()) after = torch::linalg_matrix_power(step, count).narrow(1, 0, half);
      h = torch::einsum("cmn,bcn->bcm", {after, torch::cat({h, torch::conj(h)}, 2)}) +
          torch::einsum("cmt,btc->bcm", {columns.narrow(1, 0, half).narrow(2, 0, count).flip(2),
                                         torch::complex(x, torch::zeros_like(x))});
    }
    return torch::cat(outputs, 1);
  }

  /// Fewer tokens are walked; a piece's tokens.
  static constexpr int64_t kFewest = 16, kPiece = 256;

  System system_of(int64_t direction) const {
    const auto with_conjugates = [](const Tensor& t) { return torch::cat({t, torch::conj(t)}, 1); };
    const auto number = [&](const Tensor& t) {
      return with_conjugates(torch::view_as_complex(t[direction].to(torch::kFloat64).contiguous()));
    };
    const auto lambda = torch::complex(-torch::exp(log_decay_[direction].to(torch::kFloat64)),
                                       frequency_[direction].to(torch::kFloat64));
    return {with_conjugates(lambda), number(p_), number(b_), number(c_), steps()[direction].to(torch::kFloat64)};
  }

  Tensor log_decay_, frequency_, p_, b_, c_;
};

}  // namespace

RegistryRow rows::s4() {
  return {.name = "s4",
          .family = "linear_and_recurrent",
          .paper = "Efficiently Modeling Long Sequences with Structured State Spaces (arXiv 2111.00396)",
          .year = 2021,
          .patterns = {true, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .spectral = true,
          .cost = "O(N log N)",
          .parameters = linear::state_space_parameters(),
          .small = {{"dim", 8}, {"state_dim", 8}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("s4", json);
            const auto config = StateSpaceConfig::read(reader);
            reader.finish();
            return std::make_shared<S4>(config);
          }};
}

}  // namespace heed
