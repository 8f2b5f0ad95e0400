#include <algorithm>

#include "heed/kernels/softmax_scan.h"
#include "kernels/scan_problem.h"

namespace heed::kernels {
namespace {

constexpr char kOp[] = "softmax_scan";

std::array<int64_t, 4> state_size(const SoftmaxScanParams& p) {
  return {count_spans(p, p.v), std::max(p.scores.size[1], p.v.size[1]), 1, p.v.size[3] + 2};
}

void check_state(const SoftmaxScanParams& p, const AnyView& view, const char* name) {
  if (is_absent(view)) return;
  check_type(kOp, view, name, p.v.dtype, Storage::side);
  check_shape(kOp, view, name, state_size(p));
}

}  // namespace

void check(const SoftmaxScanParams& p) {
  const auto& v = p.v.size;
  require(p.v.dtype != DType::i8, "{}: v is int8; float32, float16, bfloat16 or float64 is accepted", kOp);
  check_shape(kOp, p.v, "v", v);
  check_type(kOp, p.scores, "scores", p.v.dtype, Storage::floating);
  const int64_t heads = std::max(p.scores.size[1], v[1]);
  require(p.scores.size[1] >= 1 && v[1] >= 1 && heads % p.scores.size[1] == 0 && heads % v[1] == 0,
          "{}: {} heads of scores and {} of v; one a multiple of the other is accepted", kOp, p.scores.size[1], v[1]);
  check_shape(kOp, p.scores, "scores", {v[0], p.scores.size[1], v[2], 1});
  check_spans(kOp, p, p.v);
  require(p.out.dtype == p.v.dtype, "{}: out is {}; {} is accepted", kOp, name_of(p.out.dtype), name_of(p.v.dtype));
  check_shape(kOp, p.out, "out", {v[0], heads, v[2], v[3]});
  check_type(kOp, p.lse, "lse", p.v.dtype, Storage::side);
  check_shape(kOp, p.lse, "lse", {v[0], heads, v[2], 1});
  check_state(p, p.initial_state, "initial_state");
  check_state(p, p.final_state, "final_state");
  require(p.chunk >= 0, "{}: a chunk of {} tokens; at least 1, or 0 for a choice by shapes, is accepted", kOp, p.chunk);
}

void check(const SoftmaxScanParams& p, const SoftmaxScanGrads& g) {
  check(p);
  AnyView state{nullptr, p.lse.dtype, state_size(p), {}};
  check_gradient(kOp, g.d_out, "d_out", p.out);
  check_gradient(kOp, g.d_lse, "d_lse", p.lse);
  check_gradient(kOp, g.d_final_state, "d_final_state", state);
  check_gradient(kOp, g.d_scores, "d_scores", p.scores);
  check_gradient(kOp, g.d_v, "d_v", p.v);
  check_gradient(kOp, g.d_initial_state, "d_initial_state", state);
  require(!g.d_final_state || p.final_state, "{}: d_final_state without the forward's final_state", kOp);
}

}  // namespace heed::kernels
