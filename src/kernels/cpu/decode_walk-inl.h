// The query rows of a (sequence, KV head) against a range of its slots, in steps that stay in cache.
#if defined(HEED_KERNELS_CPU_DECODE_WALK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_DECODE_WALK_INL_H_
#undef HEED_KERNELS_CPU_DECODE_WALK_INL_H_
#else
#define HEED_KERNELS_CPU_DECODE_WALK_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <functional>

#include "kernels/cpu/decode_logits-inl.h"
#include "kernels/cpu/decode_products-inl.h"
#include "kernels/cpu/decode_queries-inl.h"
#include "kernels/cpu/decode_seen-inl.h"
#include "kernels/cpu/decode_stage-inl.h"
#include "kernels/cpu/decode_states-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

/// Whether values cannot be multiplied as they are stored.
inline bool stages_values(const DecodeCall& call, const SlotSource& values) {
  return call.dv % kLanes != 0 || values.scale_use == ScaleUse::general;
}

struct RowScratch {
  RowScratch(Arena& arena, const DecodeCall& call)
      : q_stride(round_up(call.d, 16)), q(arena.take<float>((call.query_rows + RowState::kRowPadding) * q_stride)) {
    const int64_t rows = call.query_rows + RowState::kRowPadding;
    query_shift = arena.take<float>(rows);
    factor = arena.take<float>(rows);
    logits = arena.take<float>(rows * kStepSlots);
    bits = arena.take<uint64_t>(rows * SeenSlots::kWords);
    for (const char**& list :
         {std::ref(key_rows), std::ref(next_key_rows), std::ref(value_rows), std::ref(some_rows)}) {
      list = arena.take<const char*>(kStepSlots + kSums);
    }
    for (float*& list :
         {std::ref(key_scale), std::ref(key_zero), std::ref(value_scale), std::ref(position), std::ref(some_weights)}) {
      list = arena.take<float>(kStepSlots);
    }
    slots = arena.take<int64_t>(kStepSlots);
    next_slots = arena.take<int64_t>(kStepSlots);
    // Only what this call needs: pages that are touched for the first time in every call would cost more than the work.
    staged_keys = stages_keys(call, call.keys, true) ? arena.take<float>(kStepSlots * q_stride) : nullptr;
    value_stride = round_up(call.dv, 16);
    staged_values = stages_values(call, call.values) ? arena.take<float>(kStepSlots * value_stride) : nullptr;
    angles = arena.take<double>(3 * call.rotation.half);
    synthetic = RowState(arena, call.query_rows, call.dv);
  }

  int64_t q_stride, value_stride;
  float* q;  ///< [rows][q_stride], scaled, zero beyond d
  float *query_shift, *factor, *logits;
  uint64_t* bits;  ///< [rows][SeenSlots::kWords]: which slots of a step a row sees
  const char **key_rows, **next_key_rows, **value_rows, **some_rows;
  float *key_scale, *key_zero, *value_scale, *position, *some_weights;
  int64_t *slots, *next_slots;
  float *staged_keys, *staged_values;
  double* angles;
  RowState synthetic;
};

/// The walk over slots. `kReal`: slots of the cache, which masks, ALiBi, rotation and the functionals concern.
template <bool kReal>
class SlotWalk {
 public:
  SlotWalk(const DecodeCall& call, int64_t row, const RowState& state, const RowScratch& scratch)
      : call_(call),
        p_(call.p),
        keys_(kReal ? call.keys : call.synthetic_keys),
        values_(kReal ? call.values : call.synthetic_values),
        bias_(kReal ? p_.slot_bias : p_.synthetic_bias),
        row_(row),
        b_(row / call.kv_heads),
        h_(row % call.kv_heads),
        length_(kReal ? call.lengths[row] : p_.synthetic_k.size[2]),
        seen_slots_(call, row, kReal, length_, scratch.bits),
        rotates_(kReal && p_.rotation.inverse_frequencies != nullptr),
        stages_keys_(stages_keys(call, keys_, kReal)),
        stages_values_(stages_values(call, values_)),
        state_(state),
        s_(scratch),
        rotator_(call.rotation, p_.rotation, scratch.angles) {
    clear(call, state);
  }

  int64_t run(int64_t begin, int64_t end) {
    if (begin >= end) return 0;
    pack_queries(call_, keys_, b_, h_, s_.q, s_.q_stride, s_.query_shift);
    if (kReal && call_.logits != nullptr) {
      for (int64_t r = 0; r < call_.query_rows; ++r) std::fill(logit_row(r) + begin, logit_row(r) + end, -INFINITY);
    }
    int64_t visited = 0;
    Step step = find(begin, end, s_.slots, s_.key_rows);
    while (step.count > 0) {
      const Step next = find(step.end, end, step.slots == s_.slots ? s_.next_slots : s_.slots,
                             step.key_rows == s_.key_rows ? s_.next_key_rows : s_.key_rows);
      take(step, next);
      visited += step.count;
      step = next;
    }
    finish_values();
    return visited;
  }

 private:
  struct Step : SeenStep {
    const char** key_rows = nullptr;
  };

  float* logit_row(int64_t r) const { return call_.logits + call_.logit_begin[row_] + r * length_; }

  int64_t position(int64_t s) const { return seen_slots_.position(s); }

  /// The next slots that somebody sees, with the rows of their keys.
  Step find(int64_t begin, int64_t end, int64_t* slots, const char** key_rows) {
    Step step{seen_slots_.find(begin, end, slots)};
    if (step.count == 0) return step;
    keys_.rows(b_, h_, slots, step.count, key_rows);
    for (int64_t k = 0; k < kSums; ++k) key_rows[step.count + k] = key_rows[step.count - 1];
    step.key_rows = key_rows;
    return step;
  }

  /// `next` is only looked at to bring its keys closer.
  void take(const Step& step, const Step& next) {
    if (step.partial) seen_slots_.fill_bits(step.begin, step.end);
    values_.rows(b_, h_, step.slots, step.count, s_.value_rows);
    multiply_keys(step);
    fill_slot_terms(step);
    for (int64_t r = 0; r < call_.query_rows; ++r) weigh(step, r);
    multiply_values(step, next);
  }

  static int64_t lines_of(const SlotSource& source) { return (source.row_bytes() + 63) / 64; }

  void multiply_keys(const Step& step) {
    const char** rows = step.key_rows;
    DType dtype = keys_.cache.data.dtype;
    Ahead ahead{s_.value_rows, step.count, 0, lines_of(values_)};
    if (rotates_ && rotator_.reads(keys_)) return multiply_rotated_keys(step, ahead);
    if (stages_keys_) {
      stage_slots(keys_, b_, h_, step.slots, step.key_rows, step.count, s_.staged_keys, s_.q_stride);
      if (rotates_) {
        // Memory is idle meanwhile: the values come closer.
        rotator_.rotate(step.slots, rotation_positions(), step.count, nullptr, keys_.width, s_.staged_keys, s_.q_stride,
                        [&](int64_t k) HWY_ATTR { ahead.touch(k); });
        ahead.count = 0;
      }
      rows = s_.some_rows;
      dtype = DType::f32;
      for (int64_t k = 0; k < step.count + kSums; ++k) {
        rows[k] = reinterpret_cast<const char*>(s_.staged_keys + std::min(k, step.count - 1) * s_.q_stride);
      }
    }
    multiply_rows(dtype, rows, step.count, s_.logits, ahead);
  }

  /// Keys are rotated a few at a time, so that they are still in the first cache when they are multiplied.
  void multiply_rotated_keys(const Step& step, const Ahead& ahead) {
    constexpr int64_t kAtOnce = 16;
    for (int64_t k = 0; k < kAtOnce + kSums; ++k) {
      s_.some_rows[k] = reinterpret_cast<const char*>(s_.staged_keys + std::min(k, kAtOnce - 1) * s_.q_stride);
    }
    for (int64_t first = 0; first < step.count; first += kAtOnce) {
      const int64_t count = std::min(kAtOnce, step.count - first);
      rotator_.rotate(step.slots + first, rotation_positions(), count, step.key_rows + first, keys_.width,
                      s_.staged_keys, s_.q_stride, [&](int64_t k) HWY_ATTR { ahead.touch(first + k); });
      multiply_rows(DType::f32, s_.some_rows, count, s_.logits + first, {});
    }
  }

  void multiply_rows(DType dtype, const char* const* rows, int64_t count, float* logits, Ahead ahead) {
    for (int64_t r = 0; r < call_.query_rows;) {
      const int64_t block = block_rows(call_.query_rows - r);
      row_kernels(dtype, block)
          .keys(s_.q + r * s_.q_stride, s_.q_stride, rows, count, round_up(call_.d, kLanes) / kLanes,
                logits + r * kStepSlots, kStepSlots, ahead);
      ahead.count = 0;
      r += block;
    }
  }

  const int64_t* rotation_positions() const {
    const ReadRotation& rotation = p_.rotation;
    return rotation.positions == nullptr ? nullptr : rotation.positions + row_ * rotation.positions_stride;
  }

  /// What the slots of a step contribute to every row alike.
  void fill_slot_terms(const Step& step) {
    const auto fill = [&](const SlotSource& source, const View<const float>& view, float* to) {
      source.numbers(view, b_, h_, step.slots, step.count, to);
    };
    if (keys_.scale_use == ScaleUse::per_slot) {
      fill(keys_, keys_.cache.scale, s_.key_scale);
      if (keys_.cache.zero) fill(keys_, keys_.cache.zero, s_.key_zero);
    }
    if (values_.scale_use == ScaleUse::per_slot) fill(values_, values_.cache.scale, s_.value_scale);
    if (kReal && p_.alibi_slopes != nullptr) {
      for (int64_t k = 0; k < step.count; ++k) {
        s_.position[k] = static_cast<float>(position(step.slots[k]) - (seen_slots_.positions() - call_.rows));
      }
    }
  }

  /// From products to weights, and the running softmax of one query row.
  void weigh(const Step& step, int64_t r) {
    float* x = s_.logits + r * kStepSlots;
    const int64_t head = h_ * call_.group + r / call_.rows, count = step.count;
    if (keys_.scale_use == ScaleUse::per_slot) {
      scale_slots(x, s_.key_scale, keys_.cache.zero ? s_.key_zero : nullptr, s_.query_shift[r], count);
    } else if (keys_.scale_use == ScaleUse::per_channel && keys_.cache.zero) {
      for (int64_t k = 0; k < count; ++k) x[k] += s_.query_shift[r];
    }
    if (p_.softcap > 0) soft_cap(x, p_.softcap, count);
    if (bias_) {
      const float* bias = bias_.data + (bias_.size[0] == 1 ? 0 : b_ * bias_.stride[0]) +
                          (bias_.size[1] == 1 ? 0 : head * bias_.stride[1]);
      const int64_t stride = bias_.size[3] == 1 ? 0 : bias_.stride[3];
      for (int64_t k = 0; k < count; ++k) x[k] += bias[step.slots[k] * stride];
    }
    if (kReal && p_.alibi_slopes != nullptr) {
      add_alibi(x, p_.alibi_slopes[head], static_cast<float>(r % call_.rows), s_.position, count);
    }
    if (step.partial) {
      for (int64_t k = 0; k < count; ++k) x[k] = seen_slots_.sees(step, r, k) ? x[k] : -INFINITY;
    }
    if (kReal && call_.logits != nullptr) {
      for (int64_t k = 0; k < count; ++k) logit_row(r)[step.slots[k]] = x[k];
    }
    const float before = state_.maximum[r], top = pad_and_maximize(x, count);
    if (kReal && p_.arg_max && top > state_.best[r]) {
      state_.best[r] = top;
      state_.best_slot[r] = step.slots[std::find(x, x + count, top) - x];
    }
    const float maximum = top > before ? top : before;
    s_.factor[r] = before == maximum ? 1 : std::exp(before - maximum);
    state_.maximum[r] = maximum;
    state_.sum[r] = state_.sum[r] * s_.factor[r] + exponentiate_row(x, maximum, count);
    if (values_.scale_use == ScaleUse::per_slot) {
      for (int64_t k = 0; k < count; ++k) x[k] *= s_.value_scale[k];
    }
  }

  void multiply_values(const Step& step, const Step& next) {
    const char** rows = s_.value_rows;
    DType dtype = values_.cache.data.dtype;
    if (stages_values_) {
      dtype = DType::f32;
      stage_slots(values_, b_, h_, step.slots, rows, step.count, s_.staged_values, s_.value_stride);
      for (int64_t k = 0; k < step.count; ++k)
        rows[k] = reinterpret_cast<const char*>(s_.staged_values + k * s_.value_stride);
    }
    const int64_t vectors = round_up(call_.dv, kLanes) / kLanes;
    Ahead ahead{next.key_rows, next.count, 0, lines_of(keys_)};
    if (!step.partial) {
      std::fill_n(s_.factor + call_.query_rows, RowState::kRowPadding, 0.0f);
      for (int64_t r = 0; r < call_.query_rows;) {
        const int64_t block = block_rows(call_.query_rows - r);
        row_kernels(dtype, block)
            .values(s_.logits + r * kStepSlots, kStepSlots, rows, step.count, vectors, s_.factor + r,
                    state_.o + r * state_.stride, state_.stride, ahead);
        ahead.count = 0;
        r += block;
      }
      return;
    }
    // A value that a row does not see is no part of its sum, not even with weight 0: it may be NaN.
    for (int64_t r = 0; r < call_.query_rows; ++r) {
      int64_t count = 0;
      for (int64_t k = 0; k < step.count; ++k) {
        if (!seen_slots_.sees(step, r, k)) continue;
        s_.some_rows[count] = rows[k];
        s_.some_weights[count++] = s_.logits[r * kStepSlots + k];
      }
      row_kernels(dtype, 1).values(s_.some_weights, kStepSlots, s_.some_rows, count, vectors, s_.factor + r,
                                   state_.o + r * state_.stride, state_.stride, ahead);
      ahead.count = 0;
    }
  }

  /// Channel scales of values are applied to the sum, once.
  void finish_values() {
    if (values_.scale_use != ScaleUse::per_channel) return;
    const CacheView& cache = values_.cache;
    for (int64_t r = 0; r < call_.query_rows; ++r) {
      float* o = state_.o + r * state_.stride;
      join_channels(cache.scale, values_.channels(cache.scale, {b_, h_, 0}), cache.channel_group, call_.dv, o,
                    [](float x, float y) { return x * y; });
      if (!cache.zero) continue;
      const float sum = state_.sum[r];
      join_channels(cache.zero, values_.channels(cache.zero, {b_, h_, 0}), cache.channel_group, call_.dv, o,
                    [sum](float x, float y) { return x + sum * y; });
    }
  }

  const DecodeCall& call_;
  const DecodeParams& p_;
  const SlotSource &keys_, &values_;
  const View<const float>& bias_;
  const int64_t row_, b_, h_, length_;
  SeenSlots seen_slots_;
  const bool rotates_, stages_keys_, stages_values_;
  const RowState& state_;
  const RowScratch& s_;
  Rotator rotator_;
};

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
