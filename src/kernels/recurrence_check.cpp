// One place that checks the problems of linear_chunk and delta_chunk.
#include <algorithm>
#include <cmath>

#include "kernels/recurrence_problem.h"

namespace heed::kernels {
namespace {

/// A tensor of tokens whose heads may be shared by those of the output.
void check_tokens(const char* op, const AnyView& view, const char* name, const AnyView& q, int64_t heads,
                  int64_t columns) {
  require(view.size[1] >= 1 && heads % view.size[1] == 0,
          "{}: {} has {} heads and the output {}; a divisor of that is accepted", op, name, view.size[1], heads);
  check_shape(op, view, name, {q.size[0], view.size[1], q.size[2], columns});
}

void check_decay(const char* op, const AnyView& g, const AnyView& q, int64_t heads, bool channels) {
  if (is_absent(g)) return;
  check_type(op, g, "log_decay", q.dtype, Storage::side);
  const int64_t batch = q.size[0], tokens = q.size[2], d = q.size[3];
  const bool constant = g.size[0] == 1 && g.size[2] == 1 && g.size[3] == 1;
  const bool of_tokens = g.size[0] == batch && g.size[2] == tokens && (g.size[3] == 1 || (channels && g.size[3] == d));
  require(constant || of_tokens,
          "{}: log_decay is [{}, {}, {}, {}]; [1, heads, 1, 1] or [{}, heads, {}, {}] is accepted", op, g.size[0],
          g.size[1], g.size[2], g.size[3], batch, tokens, channels ? fmt::format("1 or {}", d) : "1");
  require(g.size[1] >= 1 && heads % g.size[1] == 0,
          "{}: log_decay has {} heads and the output {}; a divisor of that is accepted", op, g.size[1], heads);
  check_shape(op, g, "log_decay", g.size);
}

void check_segment(const LinearChunkParams& p) {
  require(p.segment >= 0, "linear_chunk: segments of {} tokens; 1 or more, or 0 to let shapes choose, is accepted",
          p.segment);
}

void check_coefficients(const LinearChunkParams& p) {
  const auto& [pairs, reads, writes, carries] = p.coefficients;
  const std::pair<const AnyView*, const char*> views[] = {
      {&pairs, "pairs"}, {&reads, "reads"}, {&writes, "writes"}, {&carries, "carries"}};
  if (std::ranges::all_of(views, [](const auto& named) { return is_absent(*named.first); })) return;
  require(is_absent(p.log_decay), "linear_chunk: coefficients beside log_decay; one of them is accepted");
  require(p.cu_seqlens == nullptr,
          "linear_chunk: coefficients of packed sequences; a sequence a batch item is accepted");
  const int64_t batch = p.q.size[0], heads = p.out.size[1], tokens = p.q.size[2];
  for (const auto& [view, name] : views) {
    require(!is_absent(*view) || batch * tokens == 0,
            "linear_chunk: coefficients without {}; pairs, reads, writes and carries are accepted together", name);
    check_type("linear_chunk", *view, name, p.q.dtype, Storage::side);
    require(view->size[1] >= 1 && heads % view->size[1] == 0,
            "linear_chunk: {} has {} heads and the output {}; a divisor of that is accepted", name, view->size[1],
            heads);
    const int64_t rows = view == &carries ? (tokens + p.chunk - 1) / p.chunk : tokens;
    check_shape("linear_chunk", *view, name, {batch, view->size[1], rows, view == &pairs ? p.chunk : 1});
  }
}

template <class Params>
void check_common(const char* op, const Params& p, bool channels, bool with_out) {
  for (const auto& [view, name] : {std::pair{&p.q, "q"}, {&p.k, "k"}, {&p.v, "v"}}) {
    check_type(op, *view, name, p.q.dtype, Storage::floating);
    require(view->dtype == p.q.dtype, "{}: {} is {} and q {}; one type is accepted", op, name, name_of(view->dtype),
            name_of(p.q.dtype));
  }
  const int64_t batch = p.q.size[0], heads = p.out.size[1], tokens = p.q.size[2], d = p.q.size[3], dv = p.v.size[3];
  require(d >= 1 && dv >= 1, "{}: head sizes are {} and {}; 1 or more is accepted", op, d, dv);
  require(heads >= 1, "{}: {} heads; 1 or more is accepted", op, heads);
  check_tokens(op, p.q, "q", p.q, heads, d);
  check_tokens(op, p.k, "k", p.q, heads, d);
  check_tokens(op, p.v, "v", p.q, heads, dv);
  require(std::isfinite(p.scale), "{}: scale is {}; a finite number is accepted", op, p.scale);
  require(p.chunk >= 1 && p.chunk <= kMostChunk, "{}: chunks of {} tokens; 1 to {} is accepted", op, p.chunk,
          kMostChunk);
  check_spans(op, p, p.q);
  check_decay(op, p.log_decay, p.q, heads, channels);
  if (with_out) {
    require(p.out.dtype == p.q.dtype || (p.out.dtype == DType::f32 && p.q.dtype != DType::f64),
            "{}: out is {}; {} is accepted", op, name_of(p.out.dtype), name_of(p.q.dtype));
    check_shape(op, p.out, "out", {batch, heads, tokens, dv});
  }
  for (const auto& [state, name] : {std::pair{&p.initial_state, "initial_state"}, {&p.final_state, "final_state"}}) {
    if (is_absent(*state)) continue;
    check_type(op, *state, name, p.q.dtype, Storage::side);
    check_shape(op, *state, name, {count_spans(p, p.q), heads, d, dv});
  }
}

template <class Params, class Grads>
void check_common_grads(const char* op, const Params& p, const Grads& g) {
  require(g.d_out.dtype == p.q.dtype || (g.d_out.dtype == DType::f32 && p.q.dtype != DType::f64),
          "{}: d_out is {}; {} is accepted", op, name_of(g.d_out.dtype), name_of(p.q.dtype));
  check_shape(op, g.d_out, "d_out", {p.q.size[0], p.out.size[1], p.q.size[2], p.v.size[3]});
  const std::array<int64_t, 4> state{count_spans(p, p.q), p.out.size[1], p.q.size[3], p.v.size[3]};
  for (const auto& [view, name] :
       {std::pair{&g.d_final_state, "d_final_state"}, {&g.d_initial_state, "d_initial_state"}}) {
    if (is_absent(*view)) continue;
    check_type(op, *view, name, p.q.dtype, Storage::side);
    check_shape(op, *view, name, state);
  }
  check_gradient(op, g.d_q, "d_q", p.q);
  check_gradient(op, g.d_k, "d_k", p.k);
  check_gradient(op, g.d_v, "d_v", p.v);
  check_gradient(op, g.d_log_decay, "d_log_decay", p.log_decay);
}

void check_delta(const DeltaChunkParams& p, bool with_out) {
  check_common("delta_chunk", p, false, with_out);
  check_type("delta_chunk", p.beta, "beta", p.q.dtype, Storage::side);
  check_tokens("delta_chunk", p.beta, "beta", p.q, p.out.size[1], 1);
}

}  // namespace

void check(const LinearChunkParams& p) {
  check_common("linear_chunk", p, true, true);
  check_segment(p);
  check_coefficients(p);
}

void check(const LinearChunkParams& p, const LinearChunkGrads& g) {
  check_common("linear_chunk", p, true, false);
  check_segment(p);
  check_coefficients(p);
  check_common_grads("linear_chunk", p, g);
  const auto& [pairs, reads, writes, carries] = g.d_coefficients;
  check_gradient("linear_chunk", pairs, "d_pairs", p.coefficients.pairs);
  check_gradient("linear_chunk", reads, "d_reads", p.coefficients.reads);
  check_gradient("linear_chunk", writes, "d_writes", p.coefficients.writes);
  check_gradient("linear_chunk", carries, "d_carries", p.coefficients.carries);
}

void check(const DeltaChunkParams& p) { check_delta(p, true); }

void check(const DeltaChunkParams& p, const DeltaChunkGrads& g) {
  check_delta(p, false);
  check_common_grads("delta_chunk", p, g);
  check_gradient("delta_chunk", g.d_beta, "d_beta", p.beta);
}

void check_not_positive(const char* op, const AnyView& g) {
  for (int64_t b = 0; b < g.size[0]; ++b) {
    for (int64_t h = 0; h < g.size[1]; ++h) {
      for (int64_t t = 0; t < g.size[2]; ++t) {
        for (int64_t d = 0; d < g.size[3]; ++d) {
          const double value = load_element(g, b, h, t, d);
          require(!(value > 0), "{}: log_decay is {} at [{}, {}, {}, {}]; at most 0 is accepted", op, value, b, h, t,
                  d);
        }
      }
    }
  }
}

}  // namespace heed::kernels
