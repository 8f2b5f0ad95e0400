#include "heed/ops/toeplitz_fft.h"

#include <fmt/ranges.h>
#include <torch/library.h>

#include "ops/scan_call.h"

namespace heed::ops {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr char kToeplitz[] = "toeplitz_fft";

/// The smallest length of at least `length` whose only prime factors are 2, 3 and 5.
int64_t fast_length(int64_t length) {
  int64_t best = INT64_MAX;
  for (int64_t fives = 1; fives < 2 * length; fives *= 5) {
    for (int64_t threes = fives; threes < 2 * length; threes *= 3) {
      int64_t size = threes;
      while (size < length) size *= 2;
      best = std::min(best, size);
    }
  }
  return best;
}

/// The circle on which a product with a T x T Toeplitz matrix is a convolution. Time is the last dimension.
struct Circle {
  Circle(int64_t tokens, bool causal) : tokens(tokens), size(fast_length(2 * tokens - 1)), causal(causal) {}

  /// Lag k stands at k modulo the size.
  Tensor spectrum_of_coefficients(const Tensor& c) const {
    if (causal) return torch::fft_rfft(c, size);
    const auto ahead = c.narrow(-1, tokens - 1, tokens), behind = c.narrow(-1, 0, tokens - 1);
    auto gap = c.sizes().vec();
    gap.back() = size - 2 * tokens + 1;
    return torch::fft_rfft(torch::cat({ahead, torch::zeros(gap, c.options()), behind}, -1), size);
  }
  Tensor coefficients_of(const Tensor& spectrum) const {
    const auto circle = torch::fft_irfft(spectrum, size);
    if (causal) return circle.narrow(-1, 0, tokens);
    return torch::cat({circle.narrow(-1, size - tokens + 1, tokens - 1), circle.narrow(-1, 0, tokens)}, -1);
  }
  Tensor spectrum(const Tensor& x) const { return torch::fft_rfft(x, size); }
  Tensor values(const Tensor& spectrum) const { return torch::fft_irfft(spectrum, size).narrow(-1, 0, tokens); }

  const int64_t tokens, size;
  const bool causal;
};

/// [..., T, D] with time last, in a type that the FFT takes.
Tensor for_fft(const Tensor& tensor, torch::ScalarType type) { return tensor.to(type).transpose(-1, -2); }

struct ToeplitzFunction : torch::autograd::Function<ToeplitzFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& c, const Tensor& x, bool causal) {
    const auto type = side_dtype(x);
    const Circle circle(x.size(-2), causal);
    const auto product = circle.spectrum_of_coefficients(for_fft(c, type)) * circle.spectrum(for_fft(x, type));
    ctx->save_for_backward({c, x});
    ctx->saved_data["causal"] = causal;
    return circle.values(product).transpose(-1, -2).to(x.scalar_type()).contiguous();
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &c = saved[0], &x = saved[1];
    const auto type = side_dtype(x);
    const Circle circle(x.size(-2), ctx->saved_data["causal"].toBool());
    const auto d_y = circle.spectrum(for_fft(grads[0], type));
    variable_list result(3);
    if (ctx->needs_input_grad(0)) {
      auto sizes = c.sizes().vec();
      std::swap(sizes[sizes.size() - 1], sizes[sizes.size() - 2]);
      sizes.back() = d_y.size(-1);
      const auto spectrum = (d_y * torch::conj(circle.spectrum(for_fft(x, type)))).sum_to_size(sizes);
      result[0] = circle.coefficients_of(spectrum).transpose(-1, -2).to(c.scalar_type());
    }
    if (ctx->needs_input_grad(1)) {
      const auto spectrum = d_y * torch::conj(circle.spectrum_of_coefficients(for_fft(c, type)));
      result[1] = circle.values(spectrum).transpose(-1, -2).to(x.scalar_type());
    }
    return result;
  }
};

void check(const Tensor& c, const Tensor& x, bool causal) {
  require(x.dim() >= 2, "{}: x has {} dimensions; [..., tokens, columns] is accepted", kToeplitz, x.dim());
  scan_input(x, kToeplitz, "x", x.dim(), "");
  scan_input(c, kToeplitz, "c", x.dim(), "as many as x has");
  require((x.scalar_type() == torch::kFloat64) == (c.scalar_type() == torch::kFloat64),
          "{}: c is {} and x is {}; float64 beside float64 is accepted", kToeplitz, toString(c.scalar_type()),
          toString(x.scalar_type()));
  const int64_t tokens = x.size(-2), lags = causal ? tokens : std::max<int64_t>(2 * tokens - 1, 0);
  bool fits = c.size(-2) == lags;
  for (int64_t d = 0; d < x.dim(); ++d) fits &= d == x.dim() - 2 || c.size(d) == x.size(d) || c.size(d) == 1;
  require(fits, "{}: c is [{}] beside x [{}]; {} lags, and 1 or the size of x elsewhere, are accepted", kToeplitz,
          fmt::join(c.sizes(), ", "), fmt::join(x.sizes(), ", "), lags);
}

Tensor meta_toeplitz(const Tensor& c, const Tensor& x, bool causal) {
  check(c, x, causal);
  return torch::empty(x.sizes(), x.options());
}

}  // namespace

Tensor toeplitz_fft(const Tensor& c, const Tensor& x, bool causal) {
  if (x.defined() && x.is_meta()) return meta_toeplitz(c, x, causal);
  check(c, x, causal);
  if (x.numel() == 0) return x * 1;
  return ToeplitzFunction::apply(c, x, causal);
}

}  // namespace heed::ops

TORCH_LIBRARY_FRAGMENT(heed, library) { library.def("toeplitz_fft(Tensor c, Tensor x, bool causal) -> Tensor"); }
TORCH_LIBRARY_IMPL(heed, Autograd, library) { library.impl("toeplitz_fft", &heed::ops::toeplitz_fft); }
TORCH_LIBRARY_IMPL(heed, CPU, library) { library.impl("toeplitz_fft", &heed::ops::toeplitz_fft); }
TORCH_LIBRARY_IMPL(heed, Meta, library) { library.impl("toeplitz_fft", &heed::ops::meta_toeplitz); }
