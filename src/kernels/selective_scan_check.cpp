#include "heed/kernels/selective_scan.h"
#include "kernels/scan_problem.h"

namespace heed::kernels {
namespace {

constexpr char kOp[] = "selective_scan";

void check_optional(const AnyView& view, const char* name, DType main, Storage storage,
                    const std::array<int64_t, 4>& want) {
  if (is_absent(view)) return;
  check_type(kOp, view, name, main, storage);
  check_shape(kOp, view, name, want);
}

void check_coefficients(const SelectiveScanParams& p, const AnyView& view, const char* name, int64_t width) {
  const auto& x = p.x.size;
  const int64_t groups = view.size[1];
  check_type(kOp, view, name, p.x.dtype, Storage::floating);
  require(groups >= 1 && x[3] % groups == 0, "{}: {} has {} groups for {} channels; a divisor is accepted", kOp, name,
          groups, x[3]);
  check_shape(kOp, view, name, {x[0], groups, x[2], width});
}

}  // namespace

void check(const SelectiveScanParams& p) {
  const auto& x = p.x.size;
  const DType type = p.x.dtype;
  require(type != DType::i8, "{}: x is int8; float32, float16, bfloat16 or float64 is accepted", kOp);
  check_shape(kOp, p.x, "x", {x[0], 1, x[2], x[3]});
  check_type(kOp, p.delta, "delta", type, Storage::floating);
  check_shape(kOp, p.delta, "delta", x);
  const int64_t width = p.a.size[3];
  check_type(kOp, p.a, "A", type, Storage::side);
  check_shape(kOp, p.a, "A", {1, 1, x[3], width});
  require(width >= 1, "{}: A has {} states; at least 1 is accepted", kOp, width);
  require(!p.complex || width % 2 == 0, "{}: complex A has {} floats a channel; pairs are accepted", kOp, width);
  check_coefficients(p, p.b, "B", width);
  check_coefficients(p, p.c, "C", width);
  check_optional(p.skip, "skip", type, Storage::side, {1, 1, 1, x[3]});
  check_optional(p.delta_bias, "delta_bias", type, Storage::side, {1, 1, 1, x[3]});
  check_optional(p.z, "z", type, Storage::floating, x);
  check_spans(kOp, p, p.x);
  const std::array<int64_t, 4> states{count_spans(p, p.x), 1, x[3], width};
  check_optional(p.initial_state, "initial_state", type, Storage::side, states);
  check_optional(p.final_state, "final_state", type, Storage::side, states);
  if (!is_absent(p.out)) {
    require(p.out.dtype == type, "{}: out is {}; {} is accepted", kOp, name_of(p.out.dtype), name_of(type));
    check_shape(kOp, p.out, "out", x);
  }
  require(p.chunk >= 0, "{}: a chunk of {} tokens; at least 1, or 0 for a choice by shapes, is accepted", kOp, p.chunk);
}

void check(const SelectiveScanParams& p, const SelectiveScanGrads& g) {
  check(p);
  AnyView state = p.a;
  state.size = {count_spans(p, p.x), 1, p.a.size[2], p.a.size[3]};
  const auto gradient = [](const AnyView& grad, const char* name, const AnyView& of) {
    check_gradient(kOp, grad, name, of);
  };
  gradient(g.d_out, "d_out", p.x);
  gradient(g.d_final_state, "d_final_state", state);
  gradient(g.d_initial_state, "d_initial_state", state);
  gradient(g.d_x, "d_x", p.x);
  gradient(g.d_delta, "d_delta", p.delta);
  gradient(g.d_a, "d_A", p.a);
  gradient(g.d_b, "d_B", p.b);
  gradient(g.d_c, "d_C", p.c);
  gradient(g.d_skip, "d_skip", p.skip);
  gradient(g.d_z, "d_z", p.z);
  gradient(g.d_delta_bias, "d_delta_bias", p.delta_bias);
}

}  // namespace heed::kernels
