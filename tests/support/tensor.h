// Tensors for kernel tests: any layout, NaN in every fresh element, guard bytes around the buffer, values through
// double.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "heed/kernels/view.h"
#include "kernels/reference/element.h"

namespace heed::testing {

using kernels::AnyView;
using kernels::DType;

enum class Layout {
  dense,       ///< [B, H, N, D]
  heads_last,  ///< stored [B, N, H, D]
  sliced,      ///< every second row of a wider tensor, with unused columns between rows
  reversed,    ///< rows stored last to first
  dim_first,   ///< stored [B, H, D, N]: the last dimension is strided
};

/// Fresh elements are NaN, so that reading what was never written shows; `check_guards` finds writes outside.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, std::array<int64_t, 4> size, Layout layout = Layout::dense) {
    const auto [b, h, n, d] = size;
    std::array<int64_t, 4> stride = kernels::dense_strides(size);
    int64_t elements = b * h * n * d, first = 0;
    if (layout == Layout::heads_last) stride = {n * h * d, d, h * d, 1};
    if (layout == Layout::sliced) {
      stride = {h * n * 2 * (d + 3), n * 2 * (d + 3), 2 * (d + 3), 1};
      elements = b * h * n * 2 * (d + 3);
    }
    if (layout == Layout::reversed && n > 0) {
      stride[2] = -d;
      first = (n - 1) * d;
    }
    if (layout == Layout::dim_first) stride = {h * n * d, n * d, 1, n};
    bytes_.assign(2 * kGuard + elements * kernels::size_of(dtype), kPattern);
    for (int64_t e = 0; e < elements; ++e)
      kernels::store_element(begin(), dtype, e, std::numeric_limits<double>::quiet_NaN());
    offset_ = kGuard + first * static_cast<int64_t>(kernels::size_of(dtype));
    view_ = {nullptr, dtype, size, stride};
    pristine_ = bytes_;
  }

  AnyView view() const {
    AnyView v = view_;
    v.data = bytes_.empty() ? nullptr : const_cast<unsigned char*>(bytes_.data()) + offset_;
    return v;
  }
  operator AnyView() const { return view(); }
  explicit operator bool() const { return !bytes_.empty(); }
  const std::array<int64_t, 4>& size() const { return view_.size; }

  double at(int64_t b, int64_t h, int64_t n, int64_t d = 0) const { return kernels::load_element(view(), b, h, n, d); }
  void set(int64_t b, int64_t h, int64_t n, int64_t d, double value) {
    kernels::store_element(view(), b, h, n, d, value);
  }

  template <class F>
  void each(const F& f) const {
    for (int64_t b = 0; b < view_.size[0]; ++b) {
      for (int64_t h = 0; h < view_.size[1]; ++h) {
        for (int64_t n = 0; n < view_.size[2]; ++n) {
          for (int64_t d = 0; d < view_.size[3]; ++d) f(b, h, n, d);
        }
      }
    }
  }
  Tensor& fill(const std::function<double()>& value) {
    each([&](int64_t b, int64_t h, int64_t n, int64_t d) { set(b, h, n, d, value()); });
    return *this;
  }
  Tensor& normal(std::mt19937_64& random, double deviation = 1, double mean = 0) {
    std::normal_distribution<double> distribution(mean, deviation);
    return fill([&] { return distribution(random); });
  }

  /// Same values (rounded once) in another dtype, dense.
  Tensor as(DType dtype) const {
    Tensor result(dtype, view_.size);
    each([&](int64_t b, int64_t h, int64_t n, int64_t d) { result.set(b, h, n, d, at(b, h, n, d)); });
    return result;
  }

  /// Fails when a byte outside the view's elements has changed.
  void check_guards(const char* name) const {
    std::vector<char> owned(bytes_.size(), 0);
    each([&](int64_t b, int64_t h, int64_t n, int64_t d) {
      const int64_t byte =
          offset_ + kernels::offset_of(view_, b, h, n, d) * static_cast<int64_t>(kernels::size_of(view_.dtype));
      std::memset(owned.data() + byte, 1, kernels::size_of(view_.dtype));
    });
    for (size_t i = 0; i < bytes_.size(); ++i) {
      if (owned[i]) continue;
      ASSERT_EQ(bytes_[i], pristine_[i]) << name << " was written outside its elements, at byte " << i;
    }
  }
  bool same_bits(const Tensor& other) const { return bytes_ == other.bytes_; }

 private:
  static constexpr int64_t kGuard = 256;
  static constexpr unsigned char kPattern = 0xA7;
  unsigned char* begin() { return bytes_.data() + kGuard; }
  std::vector<unsigned char> bytes_, pristine_;
  int64_t offset_ = 0;
  AnyView view_;
};

/// ||a - b|| / ||b||, with NaN and infinities equal only to their like. An all-zero b asks for an all-zero a.
inline double relative_error(const Tensor& a, const Tensor& b) {
  double difference = 0, norm = 0;
  bool alike = true;
  b.each([&](int64_t i, int64_t j, int64_t k, int64_t l) {
    const double x = a.at(i, j, k, l), y = b.at(i, j, k, l);
    if (!std::isfinite(x) || !std::isfinite(y)) {
      alike &= (std::isnan(x) && std::isnan(y)) || x == y;
      return;
    }
    difference += (x - y) * (x - y), norm += y * y;
  });
  if (!alike) return std::numeric_limits<double>::infinity();
  if (norm == 0) return difference == 0 ? 0 : std::numeric_limits<double>::infinity();
  return std::sqrt(difference / norm);
}

/// A generator whose seed is named in the output of a failing test.
#define HEED_SEED(name, seed_value)                             \
  const uint64_t name##_seed = (seed_value);                    \
  SCOPED_TRACE(::testing::Message() << "seed " << name##_seed); \
  std::mt19937_64 name(name##_seed)

}  // namespace heed::testing
