// What the checks and plans of the scans share: sequences inside a batch, and views against the shape they must have.
#pragma once

#include <array>
#include <initializer_list>
#include <string_view>

#include "heed/error.h"
#include "heed/kernels/view.h"

namespace heed::kernels {

/// Tokens [begin, end) of a batch item are a sequence of their own.
struct TokenSpan {
  int64_t batch, begin, end;
  int64_t length() const { return end - begin; }
};

template <class Params>
int64_t count_spans(const Params& p, const AnyView& tokens) {
  return p.cu_seqlens != nullptr ? p.num_sequences : tokens.size[0];
}

template <class Params>
TokenSpan span_at(const Params& p, const AnyView& tokens, int64_t sequence) {
  if (p.cu_seqlens == nullptr) return {sequence, 0, tokens.size[2]};
  return {0, p.cu_seqlens[sequence], p.cu_seqlens[sequence + 1]};
}

/// Bounds of packed sequences that cover the tokens in order.
template <class Params>
void check_spans(const char* op, const Params& p, const AnyView& tokens) {
  if (p.cu_seqlens == nullptr) return;
  require(tokens.size[0] == 1, "{}: packed sequences in a batch of {}; a batch of 1 is accepted", op, tokens.size[0]);
  require(p.num_sequences >= 1, "{}: {} packed sequences; at least 1 is accepted", op, p.num_sequences);
  require(p.cu_seqlens[0] == 0 && p.cu_seqlens[p.num_sequences] == tokens.size[2],
          "{}: cu_seqlens go from {} to {}; 0 to {} (the tokens) is accepted", op, p.cu_seqlens[0],
          p.cu_seqlens[p.num_sequences], tokens.size[2]);
  for (int64_t s = 0; s < p.num_sequences; ++s) {
    require(p.cu_seqlens[s] <= p.cu_seqlens[s + 1], "{}: cu_seqlens fall from {} to {} at sequence {}", op,
            p.cu_seqlens[s], p.cu_seqlens[s + 1], s);
  }
}

/// Which types a view may have in a call whose main tensor is `main`.
enum class Storage : uint8_t {
  floating,  ///< float32, float16, bfloat16; float64 in a float64 call
  side,      ///< float32; float64 in a float64 call
};

inline void check_type(const char* op, const AnyView& view, const char* name, DType main, Storage storage) {
  if (main == DType::f64) {
    require(view.dtype == DType::f64, "{}: {} is {} in a float64 call; float64 is accepted", op, name,
            name_of(view.dtype));
  } else if (storage == Storage::side) {
    require(view.dtype == DType::f32, "{}: {} is {}; float32 is accepted", op, name, name_of(view.dtype));
  } else {
    require(view.dtype == DType::f32 || view.dtype == DType::f16 || view.dtype == DType::bf16,
            "{}: {} is {}; float32, float16 or bfloat16 is accepted", op, name, name_of(view.dtype));
  }
}

inline bool has_elements(const std::array<int64_t, 4>& size) {
  return size[0] > 0 && size[1] > 0 && size[2] > 0 && size[3] > 0;
}

/// Shape, data and a dense last dimension.
inline void check_shape(const char* op, const AnyView& view, const char* name, const std::array<int64_t, 4>& want) {
  require(view.size == want, "{}: {} is [{}, {}, {}, {}]; [{}, {}, {}, {}] is accepted", op, name, view.size[0],
          view.size[1], view.size[2], view.size[3], want[0], want[1], want[2], want[3]);
  require(view.data != nullptr || !has_elements(want), "{}: {} has no data", op, name);
  require(want[3] <= 1 || !has_elements(want) || view.stride[3] == 1,
          "{}: the last dimension of {} has stride {}; 1 is accepted", op, name, view.stride[3]);
}

/// A view that may be absent, which is one without data and sizes.
inline bool is_absent(const AnyView& view) { return view.data == nullptr && !has_elements(view.size); }

/// A gradient has shape and type of its input.
inline void check_gradient(const char* op, const AnyView& grad, const char* name, const AnyView& of) {
  if (is_absent(grad)) return;
  require(grad.dtype == of.dtype, "{}: {} is {}; {} is accepted", op, name, name_of(grad.dtype), name_of(of.dtype));
  check_shape(op, grad, name, of.size);
}

}  // namespace heed::kernels
