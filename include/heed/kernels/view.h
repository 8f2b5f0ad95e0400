// Typed and erased views of tensors: a pointer, four sizes, four strides. Nothing is owned.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace heed::kernels {

enum class DType : uint8_t { f32, f16, bf16, f64, i8 };

constexpr size_t size_of(DType type) {
  switch (type) {
    case DType::f64:
      return 8;
    case DType::f32:
      return 4;
    case DType::i8:
      return 1;
    default:
      return 2;
  }
}

constexpr std::string_view name_of(DType type) {
  switch (type) {
    case DType::f64:
      return "float64";
    case DType::f32:
      return "float32";
    case DType::f16:
      return "float16";
    case DType::bf16:
      return "bfloat16";
    case DType::i8:
      return "int8";
  }
  return "?";
}

/// IEEE binary16 and bfloat16 as stored bits; arithmetic happens in float.
struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

/// Four sizes and four strides in elements, usually [B, H, N, D]. A size of 1 may have stride 0 to broadcast;
/// strides may be negative.
template <class T>
struct View {
  T* data = nullptr;
  std::array<int64_t, 4> size{};
  std::array<int64_t, 4> stride{};

  explicit operator bool() const { return data != nullptr; }
  T* row(int64_t b, int64_t h, int64_t n) const { return data + b * stride[0] + h * stride[1] + n * stride[2]; }
  T& at(int64_t b, int64_t h, int64_t n, int64_t d = 0) const { return row(b, h, n)[d * stride[3]]; }
};

/// A view whose element type is known at run time.
struct AnyView {
  void* data = nullptr;
  DType dtype = DType::f32;
  std::array<int64_t, 4> size{};
  std::array<int64_t, 4> stride{};

  explicit operator bool() const { return data != nullptr; }
  template <class T>
  View<T> as() const {
    return {static_cast<T*>(data), size, stride};
  }
};

/// Row-major strides for `size`.
constexpr std::array<int64_t, 4> dense_strides(const std::array<int64_t, 4>& size) {
  return {size[1] * size[2] * size[3], size[2] * size[3], size[3], 1};
}

}  // namespace heed::kernels
