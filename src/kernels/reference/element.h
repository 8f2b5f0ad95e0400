// One element of an erased view as a double: the slow, obvious access of references and checks.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "heed/kernels/view.h"

namespace heed::kernels {

/// Value of `exponent_bits`/`mantissa_bits` floating-point storage.
inline double decode_small_float(uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

/// Rounded once, to nearest even.
inline uint16_t encode_small_float(double value, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const uint16_t infinity = static_cast<uint16_t>(((1 << exponent_bits) - 1) << mantissa_bits);
  if (std::isnan(value)) return sign | infinity | static_cast<uint16_t>(1 << (mantissa_bits - 1));
  const double magnitude = std::fabs(value);
  if (std::isinf(magnitude)) return sign | infinity;
  if (magnitude == 0) return sign;
  int exponent = std::ilogb(magnitude);
  if (exponent < 1 - bias) exponent = 1 - bias;
  const double units = std::nearbyint(std::ldexp(magnitude, mantissa_bits - exponent));
  // A mantissa that rounds up to the next power of two carries into the exponent field by itself.
  const double field = units + std::ldexp(exponent + bias - 1, mantissa_bits);
  return field >= infinity ? static_cast<uint16_t>(sign | infinity)
                           : static_cast<uint16_t>(sign | static_cast<uint16_t>(field));
}

inline double load_element(const void* data, DType dtype, int64_t offset) {
  switch (dtype) {
    case DType::f64:
      return static_cast<const double*>(data)[offset];
    case DType::f32:
      return static_cast<const float*>(data)[offset];
    case DType::f16:
      return decode_small_float(static_cast<const uint16_t*>(data)[offset], 5, 10);
    case DType::bf16:
      return decode_small_float(static_cast<const uint16_t*>(data)[offset], 8, 7);
    case DType::i8:
      return static_cast<const int8_t*>(data)[offset];
  }
  return 0;
}

inline void store_element(void* data, DType dtype, int64_t offset, double value) {
  switch (dtype) {
    case DType::f64:
      static_cast<double*>(data)[offset] = value;
      break;
    case DType::f32:
      static_cast<float*>(data)[offset] = static_cast<float>(value);
      break;
    case DType::f16:
      static_cast<uint16_t*>(data)[offset] = encode_small_float(value, 5, 10);
      break;
    case DType::bf16:
      static_cast<uint16_t*>(data)[offset] = encode_small_float(value, 8, 7);
      break;
    case DType::i8:
      static_cast<int8_t*>(data)[offset] = static_cast<int8_t>(std::nearbyint(value));
      break;
  }
}

/// Offset of an element; a size of 1 broadcasts, whatever its stride.
inline int64_t offset_of(const AnyView& view, int64_t b, int64_t h, int64_t n, int64_t d) {
  const int64_t index[4] = {b, h, n, d};
  int64_t offset = 0;
  for (int axis = 0; axis < 4; ++axis) {
    if (view.size[axis] != 1) offset += index[axis] * view.stride[axis];
  }
  return offset;
}

inline double load_element(const AnyView& view, int64_t b, int64_t h, int64_t n, int64_t d = 0) {
  return load_element(view.data, view.dtype, offset_of(view, b, h, n, d));
}

inline void store_element(const AnyView& view, int64_t b, int64_t h, int64_t n, int64_t d, double value) {
  store_element(view.data, view.dtype, offset_of(view, b, h, n, d), value);
}

inline bool is_empty(const AnyView& view) {
  return view.size[0] == 0 || view.size[1] == 0 || view.size[2] == 0 || view.size[3] == 0;
}

/// Sets every element of a view.
inline void fill(const AnyView& view, double value) {
  for (int64_t b = 0; b < view.size[0]; ++b) {
    for (int64_t h = 0; h < view.size[1]; ++h) {
      for (int64_t n = 0; n < view.size[2]; ++n) {
        for (int64_t d = 0; d < view.size[3]; ++d) store_element(view, b, h, n, d, value);
      }
    }
  }
}

}  // namespace heed::kernels
