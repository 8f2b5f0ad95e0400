// Which slots of a cache the query rows of a (sequence, KV head) see: steps of those that some row sees.
#if defined(HEED_KERNELS_CPU_DECODE_SEEN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_DECODE_SEEN_INL_H_
#undef HEED_KERNELS_CPU_DECODE_SEEN_INL_H_
#else
#define HEED_KERNELS_CPU_DECODE_SEEN_INL_H_
#endif

#include <algorithm>
#include <bit>

#include "kernels/cpu/decode_call.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

/// Up to kStepSlots slots that some row sees.
struct SeenStep {
  int64_t count = 0, begin = 0, end = 0;
  bool partial = false;  ///< some row does not see all of them
  int64_t* slots = nullptr;
};

class SeenSlots {
 public:
  static constexpr int64_t kWords = kStepSlots / 64;

  /// `real`: slots of the cache, which the mask concerns. `bits` [query_rows][kWords].
  SeenSlots(const DecodeCall& call, int64_t row, bool real, int64_t length, uint64_t* bits)
      : call_(call),
        p_(call.p),
        row_(row),
        b_(row / call.kv_heads),
        h_(row % call.kv_heads),
        positions_(real && p_.slot_positions != nullptr ? p_.context_lengths[b_] : length),
        masked_(real && !p_.mask.everything()),
        bits_(bits) {}

  /// How many positions there are; the last query stands at the last.
  int64_t positions() const { return positions_; }

  int64_t position(int64_t s) const {
    return p_.slot_positions == nullptr ? s : p_.slot_positions[row_ * p_.slot_positions_stride + s];
  }

  /// The next slots that somebody sees, from `begin` on; count 0 when there are none before `end`.
  SeenStep find(int64_t begin, int64_t end, int64_t* slots) {
    SeenStep step{0, begin, begin, false, slots};
    while (step.count == 0 && step.end < end) {
      step.begin = step.end;
      step.end = std::min(step.begin + kStepSlots, end);
      const Coverage cover = masked_ ? classify(step.begin, step.end) : Coverage::full;
      if (cover == Coverage::full) {
        for (int64_t s = step.begin; s < step.end; ++s) slots[step.count++] = s;
      } else if (cover == Coverage::partial) {
        fill_bits(step.begin, step.end);
        list_visible(step);
      }
    }
    return step;
  }

  void fill_bits(int64_t begin, int64_t end) {
    for (int64_t r = 0; r < call_.query_rows; ++r) {
      const MaskScope mask_scope = scope(r);
      for (int64_t word = 0; word < kWords; ++word) {
        const int64_t first = begin + 64 * word;
        uint64_t bits = 0;
        if (p_.slot_positions == nullptr) {
          bits = first < end ? p_.mask.row_bits(mask_scope, r % call_.rows, first) : 0;
        } else {
          for (int64_t s = first; s < std::min(first + 64, end); ++s) {
            const bool visible = p_.mask.visible(mask_scope, r % call_.rows, position(s));
            bits |= static_cast<uint64_t>(visible) << (s - first);
          }
        }
        if (end - first < 64) bits &= end > first ? (uint64_t{1} << (end - first)) - 1 : 0;
        bits_[r * kWords + word] = bits;
      }
    }
  }

  /// After fill_bits of the step's slots.
  bool sees(const SeenStep& step, int64_t r, int64_t k) const {
    const int64_t at = step.slots[k] - step.begin;
    return (bits_[r * kWords + at / 64] >> (at % 64) & 1) != 0;
  }

 private:
  MaskScope scope(int64_t r) const { return {b_, h_ * call_.group + r / call_.rows, call_.rows, positions_}; }

  // Heads of a group differ by a user's predicate only, and of that the quick answer is "partial".
  Coverage classify(int64_t begin, int64_t end) const {
    if (p_.slot_positions != nullptr) return Coverage::partial;
    return p_.mask.classify_quickly(scope(0), 0, call_.rows, begin, end);
  }

  void list_visible(SeenStep& step) const {
    for (int64_t word = 0; word < kWords; ++word) {
      uint64_t any = 0;
      for (int64_t r = 0; r < call_.query_rows; ++r) any |= bits_[r * kWords + word];
      for (int64_t r = 0; r < call_.query_rows; ++r) step.partial |= bits_[r * kWords + word] != any;
      for (; any != 0; any &= any - 1) step.slots[step.count++] = step.begin + 64 * word + std::countr_zero(any);
    }
  }

  const DecodeCall& call_;
  const DecodeParams& p_;
  const int64_t row_, b_, h_, positions_;
  const bool masked_;
  uint64_t* bits_;
};

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
