// Scores of a range of slots: products in steps that stay in cache, then the reduction over heads.
#include <cmath>
#include <numeric>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/slot_scores.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/decode_logits-inl.h"
#include "kernels/cpu/decode_products-inl.h"
#include "kernels/cpu/decode_queries-inl.h"
#include "kernels/cpu/decode_stage-inl.h"
#include "kernels/cpu/slot_scores_call.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

struct ScoresScratch {
  ScoresScratch(Arena& arena, const SlotScoresCall& call)
      : q_stride(round_up(call.decode.d, 16)), padded_rows(call.decode.query_rows + RowState::kRowPadding) {
    q = arena.take<float>(call.heads_per_item * padded_rows * q_stride);
    query_shift = arena.take<float>(call.heads_per_item * padded_rows);
    x = arena.take<float>(padded_rows * kStepSlots);
    reduced = arena.take<float>(padded_rows * kStepSlots);
    // The last products of a step may read up to kSums rows beyond it.
    key_rows = arena.take<const char*>(kStepSlots + kSums);
    next_rows = arena.take<const char*>(kStepSlots);
    slots = arena.take<int64_t>(kStepSlots);
    next_slots = arena.take<int64_t>(kStepSlots);
    key_scale = arena.take<float>(kStepSlots);
    key_zero = arena.take<float>(kStepSlots);
    if (stages_keys(call.decode, call.decode.keys, true)) staged = arena.take<float>(kStepSlots * q_stride);
    angles = arena.take<double>(3 * call.decode.rotation.half);
  }

  int64_t q_stride, padded_rows;
  float *q, *query_shift;  ///< [heads_per_item][padded_rows][q_stride], [heads_per_item][padded_rows]
  float *x, *reduced;      ///< [padded_rows][kStepSlots]
  int64_t *slots, *next_slots;
  const char **key_rows, **next_rows;
  float *key_scale, *key_zero, *staged = nullptr;
  double* angles;
};

/// to = max(to, x) with any NaN, or to + x.
HWY_INLINE void join_scores(HeadReduction reduction, const float* HWY_RESTRICT x, float* HWY_RESTRICT to,
                            int64_t count) {
  const Lanes d;
  for (int64_t j = 0; j < count; j += kLanes) {
    const Vector a = hn::Load(d, to + j), b = hn::Load(d, x + j);
    Vector joined = hn::Add(a, b);
    if (reduction == HeadReduction::max) joined = hn::IfThenElse(hn::Or(hn::Gt(b, a), hn::IsNaN(b)), b, a);
    hn::Store(joined, d, to + j);
  }
}

class ScoresItem {
 public:
  ScoresItem(const SlotScoresCall& call, int64_t index, bool second_pass, const ScoresScratch& scratch)
      : call_(call),
        decode_(call.decode),
        p_(call.p),
        keys_(call.decode.keys),
        s_(scratch),
        chunk_(index % call.chunks),
        b_(index / call.chunks / (decode_.kv_heads / call.heads_per_item)),
        first_head_(index / call.chunks % (decode_.kv_heads / call.heads_per_item) * call.heads_per_item),
        length_(decode_.lengths[b_ * decode_.kv_heads + first_head_]),
        second_pass_(second_pass),
        writes_(second_pass || !p_.softmax),
        rotator_(decode_.rotation, p_.rotation, scratch.angles) {}

  void run() {
    const int64_t begin = chunk_ * kItemSlots, end = std::min(begin + kItemSlots, p_.scores.size[3]);
    if (second_pass_) {
      find_totals();
    } else {
      for (int64_t h = 0; h < call_.heads_per_item; ++h) {
        pack_queries(decode_, keys_, b_, first_head_ + h, queries(h), s_.q_stride, shifts(h));
      }
    }
    for (int64_t s = begin; s < end; s += kStepSlots) step(s, std::min(s + kStepSlots, end));
  }

 private:
  float* queries(int64_t h) const { return s_.q + h * s_.padded_rows * s_.q_stride; }
  /// First pass: what packed queries owe zero points.
  float* shifts(int64_t h) const { return s_.query_shift + h * s_.padded_rows; }
  RowMass* masses(int64_t h, int64_t r) const {
    return call_.masses + call_.row_index(b_, first_head_ + h, r) * call_.steps;
  }
  float* weight_row(int64_t h, int64_t r) const {
    return call_.weights + call_.row_index(b_, first_head_ + h, r) * call_.weight_stride;
  }

  /// Slots of a step that are candidates of some query row.
  SlotRange any_candidate(int64_t begin, int64_t end) const {
    SlotRange any{end, begin};
    for (int64_t n = 0; n < decode_.rows; ++n) {
      const SlotRange range = candidates(p_, length_, n);
      const int64_t from = std::max(range.begin, begin), to = std::min(range.end, end);
      if (from < to) any = {std::min(any.begin, from), std::max(any.end, to)};
    }
    return any;
  }

  void step(int64_t begin, int64_t end) {
    const SlotRange some = any_candidate(begin, end);
    if (some.begin >= some.end) {
      for (int64_t h = 0; p_.softmax && !second_pass_ && h < call_.heads_per_item; ++h) {
        for (int64_t r = 0; r < decode_.query_rows; ++r) masses(h, r)[begin / kStepSlots] = {-INFINITY, 0};
      }
      if (writes_) write_nothing(begin, end);
      return;
    }
    const int64_t count = some.end - some.begin;
    for (int64_t h = 0; h < call_.heads_per_item; ++h) {
      if (second_pass_) {
        weigh(h, some);
      } else {
        multiply(h, some);
        hide(some);
        if (p_.softmax) keep(h, some);
      }
      if (writes_ && p_.heads != HeadReduction::none) reduce(h, count);
    }
    if (!writes_) return;
    write_nothing(begin, some.begin);
    write(some);
    write_nothing(some.end, end);
  }

  /// s_.x = scores of a head's query rows.
  void multiply(int64_t h, const SlotRange& some) {
    const int64_t head = first_head_ + h, count = some.end - some.begin;
    std::iota(s_.slots, s_.slots + count, some.begin);
    const char** rows = s_.key_rows;
    DType dtype = keys_.cache.data.dtype;
    keys_.rows(b_, head, s_.slots, count, rows);
    if (s_.staged != nullptr) {
      dtype = DType::f32;
      const bool rotates = p_.rotation.inverse_frequencies != nullptr, direct = rotates && rotator_.reads(keys_);
      if (!direct) stage_slots(keys_, b_, head, s_.slots, rows, count, s_.staged, s_.q_stride);
      if (rotates) {
        rotator_.rotate(s_.slots, rotation_positions(head), count, direct ? rows : nullptr, keys_.width, s_.staged,
                        s_.q_stride, [](int64_t) {});
      }
      for (int64_t k = 0; k < count; ++k) rows[k] = reinterpret_cast<const char*>(s_.staged + k * s_.q_stride);
    }
    for (int64_t k = count; k < count + kSums; ++k) rows[k] = rows[count - 1];
    const int64_t vectors = round_up(decode_.d, kLanes) / kLanes;
    Ahead ahead = next_keys(h, some);
    for (int64_t r = 0; r < decode_.query_rows;) {
      const int64_t block = block_rows(decode_.query_rows - r);
      row_kernels(dtype, block)
          .keys(queries(h) + r * s_.q_stride, s_.q_stride, rows, count, vectors, s_.x + r * kStepSlots, kStepSlots,
                ahead);
      ahead.count = 0;
      r += block;
    }
    add_scales(h, count);
  }

  /// The keys that come after those of a head's step, to be brought closer: the next head's, or those of the next step.
  Ahead next_keys(int64_t h, const SlotRange& some) const {
    const bool next_head = h + 1 < call_.heads_per_item;
    const int64_t begin = next_head ? some.begin : some.end,
                  end = next_head ? some.end : std::min(some.end + kStepSlots, length_);
    if (begin >= end) return {};
    std::iota(s_.next_slots, s_.next_slots + (end - begin), begin);
    keys_.rows(b_, first_head_ + (next_head ? h + 1 : 0), s_.next_slots, end - begin, s_.next_rows);
    return {s_.next_rows, end - begin, 0, (keys_.row_bytes() + 63) / 64};
  }

  const int64_t* rotation_positions(int64_t head) const {
    const ReadRotation& rotation = p_.rotation;
    const int64_t row = b_ * decode_.kv_heads + head;
    return rotation.positions == nullptr ? nullptr : rotation.positions + row * rotation.positions_stride;
  }

  void add_scales(int64_t h, int64_t count) {
    const CacheView& cache = keys_.cache;
    if (keys_.scale_use == ScaleUse::per_slot) {
      keys_.numbers(cache.scale, b_, first_head_ + h, s_.slots, count, s_.key_scale);
      if (cache.zero) keys_.numbers(cache.zero, b_, first_head_ + h, s_.slots, count, s_.key_zero);
    }
    for (int64_t r = 0; r < decode_.query_rows; ++r) {
      float* x = s_.x + r * kStepSlots;
      if (keys_.scale_use == ScaleUse::per_slot) {
        scale_slots(x, s_.key_scale, cache.zero ? s_.key_zero : nullptr, shifts(h)[r], count);
      } else if (keys_.scale_use == ScaleUse::per_channel && cache.zero) {
        for (int64_t k = 0; k < count; ++k) x[k] += shifts(h)[r];
      }
    }
  }

  /// -inf for slots that are candidates of other query rows only.
  void hide(const SlotRange& some) const {
    if (p_.row_limits == nullptr) return;
    for (int64_t r = 0; r < decode_.query_rows; ++r) {
      const SlotRange range = candidates(p_, length_, r % decode_.rows);
      const int64_t from = std::clamp(range.end, some.begin, some.end);
      std::fill(s_.x + r * kStepSlots + from - some.begin, s_.x + r * kStepSlots + some.end - some.begin, -INFINITY);
    }
  }

  /// Exponentials against the step's own maximum, for the second pass.
  void keep(int64_t h, const SlotRange& some) const {
    const int64_t count = some.end - some.begin;
    for (int64_t r = 0; r < decode_.query_rows; ++r) {
      float* x = s_.x + r * kStepSlots;
      const float top = pad_and_maximize(x, count);
      masses(h, r)[some.begin / kStepSlots] = {top, exponentiate_row(x, top, count)};
      std::copy_n(x, count, weight_row(h, r) + some.begin);
    }
  }

  /// Second pass: the largest logit of each row, and the reciprocal of the sum over its steps in order.
  void find_totals() const {
    for (int64_t h = 0; h < call_.heads_per_item; ++h) {
      for (int64_t r = 0; r < decode_.query_rows; ++r) {
        float top = -INFINITY;
        const RowMass* all = masses(h, r);
        for (int64_t step = 0; step < call_.steps; ++step) top = all[step].top > top ? all[step].top : top;
        double sum = 0;
        for (int64_t step = 0; step < call_.steps; ++step) sum += all[step].sum * share_of(all[step], top);
        tops(h)[r] = top;
        shifts(h)[r] = sum == 0 ? 0 : static_cast<float>(1 / sum);
      }
    }
  }
  /// Second pass: queries are not needed any more; their place holds the rows' largest logits, `shifts` the
  /// reciprocals.
  float* tops(int64_t h) const { return queries(h); }

  /// What brings exponentials of a step to those against `top`. A step of nothing but -inf or NaN keeps what it has.
  static float share_of(const RowMass& mass, float top) {
    return mass.top == top || mass.top == -INFINITY ? 1 : std::exp(mass.top - top);
  }

  void weigh(int64_t h, const SlotRange& some) const {
    const Lanes d;
    const int64_t count = some.end - some.begin;
    for (int64_t r = 0; r < decode_.query_rows; ++r) {
      float* x = s_.x + r * kStepSlots;
      std::copy_n(weight_row(h, r) + some.begin, count, x);
      const Vector factor = hn::Set(d, share_of(masses(h, r)[some.begin / kStepSlots], tops(h)[r]) * shifts(h)[r]);
      for (int64_t j = 0; j < count; j += kLanes) hn::Store(hn::Mul(hn::Load(d, x + j), factor), d, x + j);
      // A slot that is no candidate has no share in a row of NaN either.
      const SlotRange range = candidates(p_, length_, r % decode_.rows);
      std::fill(x + std::clamp(range.end, some.begin, some.end) - some.begin, x + count, 0.0f);
    }
  }

  /// The rows of one KV head join those of the heads before: s_.reduced holds one row a query index.
  void reduce(int64_t h, int64_t count) const {
    const Lanes d;
    for (int64_t r = 0; r < decode_.query_rows; ++r) {
      const float* x = s_.x + r * kStepSlots;
      float* to = s_.reduced + r % decode_.rows * kStepSlots;
      if (h == 0 && r < decode_.rows) {
        std::copy_n(x, round_up(count, kLanes), to);
      } else {
        join_scores(p_.heads, x, to, count);
      }
    }
    if (p_.heads != HeadReduction::mean || h + 1 != call_.heads_per_item) return;
    const Vector share = hn::Set(d, static_cast<float>(heads_per_score(p_)));
    for (int64_t n = 0; n < decode_.rows; ++n) {
      float* to = s_.reduced + n * kStepSlots;
      for (int64_t j = 0; j < count; j += kLanes) hn::Store(hn::Div(hn::Load(d, to + j), share), d, to + j);
    }
  }

  /// Calls visit(row of the output, row of the step) for every row that the item writes.
  template <class Visit>
  void each_row(const Visit& visit) const {
    if (p_.heads == HeadReduction::none) {
      for (int64_t r = 0; r < decode_.query_rows; ++r) {
        visit(p_.scores.row(b_, first_head_ * decode_.group + r / decode_.rows, r % decode_.rows),
              s_.x + r * kStepSlots);
      }
      return;
    }
    for (int64_t n = 0; n < decode_.rows; ++n) {
      visit(p_.scores.row(b_, call_.all_heads ? 0 : first_head_, n), s_.reduced + n * kStepSlots);
    }
  }
  void write(const SlotRange& some) const {
    each_row([&](float* to, const float* from) { std::copy_n(from, some.end - some.begin, to + some.begin); });
  }
  void write_nothing(int64_t begin, int64_t end) const {
    each_row([&](float* to, const float*) { std::fill(to + begin, to + end, p_.softmax ? 0.0f : -INFINITY); });
  }

  const SlotScoresCall& call_;
  const DecodeCall& decode_;
  const SlotScoresParams& p_;
  const SlotSource& keys_;
  const ScoresScratch& s_;
  const int64_t chunk_, b_, first_head_, length_;
  const bool second_pass_, writes_;
  Rotator rotator_;
};

void RunScoresItem(const SlotScoresCall& call, int64_t index, bool second_pass, void* block) {
  Arena arena(block);
  const ScoresScratch scratch(arena, call);
  ScoresItem(call, index, second_pass, scratch).run();
}

int64_t ScoresBytes(const SlotScoresCall& call) {
  Arena arena;
  const ScoresScratch scratch(arena, call);
  return arena.used();
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(RunScoresItem);
HWY_EXPORT(ScoresBytes);

void run_scores_item(const SlotScoresCall& call, int64_t index, bool second_pass, void* scratch) {
  HEED_DISPATCH(RunScoresItem)(call, index, second_pass, scratch);
}
int64_t scores_scratch_bytes(const SlotScoresCall& call) { return HEED_DISPATCH(ScoresBytes)(call); }

}  // namespace heed::kernels
#endif  // HWY_ONCE
