#include "mixers/vision/score_basis.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "heed/error.h"

namespace heed::vision {
namespace {

using torch::Tensor;

/// cos and sin of multiples by Chebyshev's recurrence: f_(m+1) = 2 cos(s) f_m - f_(m-1).
Tensor multiples_of_angles(const Tensor& s, int64_t size) {
  const auto cosine = torch::cos(s), sine = torch::sin(s);
  std::vector<Tensor> values{cosine, sine};
  auto cos_before = torch::ones_like(s), sin_before = torch::zeros_like(s);
  for (int64_t m = 1; m < size; ++m) {
    const auto cos_now = values[values.size() - 2], sin_now = values.back();
    values.push_back(2 * cosine * cos_now - cos_before);
    values.push_back(2 * cosine * sin_now - sin_before);
    cos_before = cos_now, sin_before = sin_now;
  }
  return torch::stack(values, 4);
}

/// SiLU, then splines about centres from one interval before the range to one behind it.
Tensor cubic_splines(const Tensor& s, int64_t size, double range) {
  const double interval = 2 * range / double(size);
  const auto centres = torch::arange(-1, size + 2, s.options()) * interval - range;
  const auto away = ((s.unsqueeze(4) - centres) / interval).abs();
  const auto splines = (torch::relu(2 - away).pow(3) - 4 * torch::relu(1 - away).pow(3)) / 6;
  return torch::cat({torch::silu(s).unsqueeze(4), splines}, 4);
}

/// (1 - t^2) e^(-t^2 / 2) of length 1, t = (s - centre) / width.
Tensor mexican_hats(const Tensor& s, const Tensor& shape) {
  const auto parts = shape.view({1, shape.size(0), 1, 1, -1}).chunk(2, 4);
  const auto t2 = ((s.unsqueeze(4) - parts[0]) * torch::exp(-parts[1])).square();
  return 2 / (std::sqrt(3.0) * std::pow(M_PI, 0.25)) * (1 - t2) * torch::exp(-t2 / 2);
}

Tensor fractions(const Tensor& s, const Tensor& shape, int64_t size) {
  std::vector<Tensor> powers{torch::ones_like(s)};
  for (int64_t m = 1; m <= size; ++m) powers.push_back(powers.back() * s);
  const auto stacked = torch::stack(powers, 4);
  const auto sum = (stacked.narrow(4, 1, shape.size(1)) * shape.view({1, shape.size(0), 1, 1, -1})).sum(4, true);
  return stacked / (1 + sum.abs());
}

}  // namespace

int64_t ScoreBasis::count() const {
  if (kind == "fourier") return 2 * size;
  if (kind == "spline") return size + 4;
  return kind == "wavelet" ? size : size + 1;
}

Tensor ScoreBasis::first_shape(int64_t heads) const {
  if (kind == "wavelet") {
    const double apart = 2 * range / double(size);
    const auto centres = (torch::arange(size) + 0.5) * apart - range;
    return torch::cat({centres, torch::full({size}, std::log(apart))}).repeat({heads, 1});
  }
  // Small, but not 0, where the absolute value has no slope.
  if (kind == "rational") return torch::empty({heads, std::max<int64_t>(1, size - 1)}).uniform_(-0.1, 0.1);
  return {};
}

Tensor ScoreBasis::values(const Tensor& scores, const Tensor& shape) const {
  if (kind == "fourier") return multiples_of_angles(scores, size);
  if (kind == "spline") return cubic_splines(scores, size, range);
  return kind == "wavelet" ? mexican_hats(scores, shape) : fractions(scores, shape, size);
}

}  // namespace heed::vision
