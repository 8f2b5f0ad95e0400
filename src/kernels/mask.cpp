#include "heed/kernels/mask.h"

#include <algorithm>
#include <limits>

#include "heed/error.h"
#include "kernels/mask_reach.h"

namespace heed::kernels {
namespace {

int64_t shift_of(Alignment alignment, const MaskScope& scope) {
  return alignment == Alignment::bottom_right ? scope.num_keys - scope.num_queries : 0;
}

// Kleene's three values: what is known of a set of pairs.
Coverage both(Coverage a, Coverage b) {
  if (a == Coverage::empty || b == Coverage::empty) return Coverage::empty;
  return a == Coverage::full && b == Coverage::full ? Coverage::full : Coverage::partial;
}
Coverage inverse(Coverage a) {
  if (a == Coverage::partial) return a;
  return a == Coverage::full ? Coverage::empty : Coverage::full;
}
Coverage either(Coverage a, Coverage b) { return inverse(both(inverse(a), inverse(b))); }

// Bits [begin, end) of a word, for any begin and end.
uint64_t bit_range(int64_t begin, int64_t end) {
  begin = std::clamp<int64_t>(begin, 0, 64);
  end = std::clamp<int64_t>(end, 0, 64);
  if (begin >= end) return 0;
  const uint64_t upto_end = end == 64 ? ~uint64_t{0} : (uint64_t{1} << end) - 1;
  return upto_end & ~((uint64_t{1} << begin) - 1);
}

int64_t floor_mod(int64_t a, int64_t step) {
  const int64_t r = a % step;
  return r < 0 ? r + step : r;
}

}  // namespace

// Everything a term answers.
struct MaskTerms {
  using Op = Mask::Op;
  using Term = Mask::Term;

  static bool is_interval(const Term& term) { return term.op <= Op::prefix; }

  /// Visible keys of query i for an interval term, clipped to the scope.
  static KeyRange interval(const Term& term, const MaskScope& scope, int64_t i) {
    const int64_t own = i + shift_of(term.alignment, scope), keys = scope.num_keys;
    int64_t begin = 0, end = keys;
    switch (term.op) {
      case Op::causal:
        end = own + 1;
        break;
      case Op::window:
        begin = own - term.a;
        end = own + term.b + 1;
        break;
      case Op::sink:
        end = term.a;
        break;
      default:
        end = static_cast<const int64_t*>(term.p)[scope.batch];
        break;
    }
    return {std::clamp<int64_t>(begin, 0, keys), std::clamp<int64_t>(end, 0, keys)};
  }

  static Coverage tile(const Term& term, const MaskScope& scope, int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
    const int64_t shift = shift_of(term.alignment, scope);
    switch (term.op) {
      case Op::causal:
      case Op::window:
      case Op::sink:
      case Op::prefix: {
        // Both ends of the interval grow with i, so the first and the last row decide.
        const KeyRange first = interval(term, scope, i0), last = interval(term, scope, i1 - 1);
        const bool first_full = first.begin <= j0 && j1 <= first.end, last_full = last.begin <= j0 && j1 <= last.end;
        if (first_full && last_full) return Coverage::full;
        return last.end <= j0 || first.begin >= j1 ? Coverage::empty : Coverage::partial;
      }
      case Op::documents: {
        const auto* q = static_cast<const int32_t*>(term.p) + scope.batch * term.a;
        const auto* k = static_cast<const int32_t*>(term.r) + scope.batch * term.b;
        int32_t q_low = q[i0], q_high = q[i0], k_low = k[j0], k_high = k[j0];
        for (int64_t i = i0; i < i1; ++i) q_low = std::min(q_low, q[i]), q_high = std::max(q_high, q[i]);
        for (int64_t j = j0; j < j1; ++j) k_low = std::min(k_low, k[j]), k_high = std::max(k_high, k[j]);
        if (q_high < k_low || k_high < q_low) return Coverage::empty;
        return q_low == k_high && q_high == k_low ? Coverage::full : Coverage::partial;
      }
      case Op::dilation: {
        if (term.a == 1) return Coverage::full;
        const int64_t low = i0 + shift - (j1 - 1), high = i1 - 1 + shift - j0;
        const int64_t first = low + floor_mod(-low, term.a);
        if (first > high) return Coverage::empty;
        return low == high ? Coverage::full : Coverage::partial;
      }
      default:
        return Coverage::partial;
    }
  }

  static bool pair(const Term& term, const MaskScope& scope, int64_t i, int64_t j) {
    switch (term.op) {
      case Op::documents:
        return static_cast<const int32_t*>(term.p)[scope.batch * term.a + i] ==
               static_cast<const int32_t*>(term.r)[scope.batch * term.b + j];
      case Op::dilation:
        return (i + shift_of(term.alignment, scope) - j) % term.a == 0;
      case Op::predicate:
        return term.visible(term.p, scope.batch, scope.head, i, j);
      default: {
        const KeyRange keys = interval(term, scope, i);
        return keys.begin <= j && j < keys.end;
      }
    }
  }

  static uint64_t bits(const Term& term, const MaskScope& scope, int64_t i, int64_t j0) {
    const int64_t count = std::min<int64_t>(64, scope.num_keys - j0);
    uint64_t word = 0;
    switch (term.op) {
      case Op::documents: {
        const int32_t id = static_cast<const int32_t*>(term.p)[scope.batch * term.a + i];
        const auto* k = static_cast<const int32_t*>(term.r) + scope.batch * term.b + j0;
        for (int64_t c = 0; c < count; ++c) word |= static_cast<uint64_t>(k[c] == id) << c;
        return word;
      }
      case Op::dilation:
        for (int64_t c = floor_mod(i + shift_of(term.alignment, scope) - j0, term.a); c < count; c += term.a) {
          word |= uint64_t{1} << c;
        }
        return word;
      case Op::predicate:
        for (int64_t c = 0; c < count; ++c) {
          word |= static_cast<uint64_t>(term.visible(term.p, scope.batch, scope.head, i, j0 + c)) << c;
        }
        return word;
      default: {
        const KeyRange keys = interval(term, scope, i);
        return bit_range(keys.begin - j0, keys.end - j0);
      }
    }
  }

  /// bits of rows [i0, i0 + rows): the interval of each row is that of the first, moved on.
  static void interval_bits(const Term& term, const MaskScope& scope, int64_t i0, int64_t rows, int64_t j0,
                            uint64_t* words) {
    const auto below = [](int64_t end) {  // the bits below `end`
      const uint64_t some = (uint64_t{1} << (end & 63)) - 1;
      return end <= 0 ? 0 : end >= 64 ? ~uint64_t{0} : some;
    };
    const int64_t own = i0 + shift_of(term.alignment, scope) - j0;
    if (term.op == Op::causal || term.op == Op::window) {
      const bool open = term.op == Op::causal;
      const int64_t left = open ? 0 : term.a, right = open ? 0 : term.b;
      for (int64_t r = 0; r < rows; ++r) {
        const uint64_t hidden = open ? 0 : below(own + r - left);
        words[r] = below(own + r + right + 1) & ~hidden;
      }
    } else {
      const int64_t end = term.op == Op::sink ? term.a : static_cast<const int64_t*>(term.p)[scope.batch];
      std::fill_n(words, rows, below(end - j0));
    }
  }

  /// Runs the postfix program; `leaf` gives a term's value.
  template <class Value, class Leaf, class And, class Or, class Not>
  static Value run(const Mask& mask, const Leaf& leaf, const And& all_of, const Or& any_of, const Not& none_of) {
    std::array<Value, Mask::kMaxTerms> stack;
    int top = 0;
    for (int t = 0; t < mask.size_; ++t) {
      const Term& term = mask.terms_[t];
      switch (term.op) {
        case Op::all_of:
          --top, stack[top - 1] = all_of(stack[top - 1], stack[top]);
          break;
        case Op::any_of:
          --top, stack[top - 1] = any_of(stack[top - 1], stack[top]);
          break;
        case Op::none_of:
          stack[top - 1] = none_of(stack[top - 1]);
          break;
        default:
          stack[top++] = leaf(term);
      }
    }
    return stack[0];
  }

  template <class Leaf>
  static Coverage run_coverage(const Mask& mask, const Leaf& leaf) {
    return run<Coverage>(mask, leaf, both, either, inverse);
  }

  /// Cuts row i's keys [j0, j1) where an interval term begins or ends; in each piece those terms are constant.
  /// Calls visit(begin, end, coverage), partial only where a term of another kind decides.
  template <class Visit>
  static void pieces(const Mask& mask, const MaskScope& scope, int64_t i, int64_t j0, int64_t j1, const Visit& visit) {
    std::array<int64_t, 2 * Mask::kMaxTerms + 2> cuts;
    size_t size = 0;
    cuts[size++] = j0, cuts[size++] = j1;
    for (int t = 0; t < mask.size_; ++t) {
      if (!is_interval(mask.terms_[t])) continue;
      const KeyRange keys = interval(mask.terms_[t], scope, i);
      cuts[size++] = std::clamp(keys.begin, j0, j1), cuts[size++] = std::clamp(keys.end, j0, j1);
    }
    std::sort(cuts.begin(), cuts.begin() + size);
    for (size_t c = 0; c + 1 < size; ++c) {
      const int64_t begin = cuts[c], end = cuts[c + 1];
      if (begin == end) continue;
      const Coverage known = run_coverage(mask, [&](const Term& term) {
        if (!is_interval(term)) return Coverage::partial;
        const KeyRange keys = interval(term, scope, i);
        return keys.begin <= begin && begin < keys.end ? Coverage::full : Coverage::empty;
      });
      if (!visit(begin, end, known)) return;
    }
  }
};

Mask::Mask(const Causal& causal) { push({.op = Op::causal, .alignment = causal.alignment}); }
Mask::Mask(const Window& window) {
  // Bounds beyond any sequence are cut, so that no sum of a bound and a position overflows.
  constexpr int64_t kFar = int64_t{1} << 60;
  const int64_t left = std::clamp(window.left, -kFar, kFar), right = std::clamp(window.right, -kFar, kFar);
  require(left + right >= 0, "window ({}, {}) holds no key; left + right >= 0 is accepted", window.left, window.right);
  push({.op = Op::window, .alignment = window.alignment, .a = left, .b = right});
}
Mask::Mask(const SinkTokens& sink) {
  require(sink.count >= 0, "sink tokens: {}; a count of 0 or more is accepted", sink.count);
  push({.op = Op::sink, .a = sink.count});
}
Mask::Mask(const Prefix& prefix) {
  require(prefix.lengths != nullptr, "prefix mask without lengths; a pointer to one length per batch item is accepted");
  push({.op = Op::prefix, .p = prefix.lengths});
}
Mask::Mask(const DocumentIds& ids) {
  require(ids.q_ids != nullptr && ids.k_ids != nullptr,
          "document mask without ids; ids of queries and of keys are needed");
  push({.op = Op::documents, .a = ids.q_stride, .b = ids.k_stride, .p = ids.q_ids, .r = ids.k_ids});
}
Mask::Mask(const Dilation& dilation) {
  require(dilation.step >= 1, "dilation of step {}; 1 or more is accepted", dilation.step);
  push({.op = Op::dilation, .alignment = dilation.alignment, .a = dilation.step});
}
Mask::Mask(const Predicate& predicate) {
  require(predicate.visible != nullptr, "predicate mask without a function");
  push({.op = Op::predicate, .p = predicate.context, .visible = predicate.visible});
}

void Mask::push(const Term& term) {
  require(size_ < kMaxTerms, "mask of more than {} terms and operators", kMaxTerms);
  terms_[size_++] = term;
}

Mask operator&(const Mask& a, const Mask& b) {
  if (a.everything()) return b;
  if (b.everything()) return a;
  Mask result = a;
  for (int t = 0; t < b.size_; ++t) result.push(b.terms_[t]);
  result.push({.op = Mask::Op::all_of});
  return result;
}

Mask operator|(const Mask& a, const Mask& b) {
  if (a.everything() || b.everything()) return {};
  Mask result = a;
  for (int t = 0; t < b.size_; ++t) result.push(b.terms_[t]);
  result.push({.op = Mask::Op::any_of});
  return result;
}

Mask operator~(const Mask& a) {
  if (a.everything()) return SinkTokens{0};
  Mask result = a;
  result.push({.op = Mask::Op::none_of});
  return result;
}

bool Mask::visible(const MaskScope& scope, int64_t i, int64_t j) const {
  if (everything()) return true;
  return MaskTerms::run<bool>(
      *this, [&](const Term& term) { return MaskTerms::pair(term, scope, i, j); },
      [](bool a, bool b) { return a && b; }, [](bool a, bool b) { return a || b; }, [](bool a) { return !a; });
}

Coverage Mask::classify_quickly(const MaskScope& scope, int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
  i0 = std::max<int64_t>(i0, 0), i1 = std::min(i1, scope.num_queries);
  j0 = std::max<int64_t>(j0, 0), j1 = std::min(j1, scope.num_keys);
  if (i0 >= i1 || j0 >= j1) return Coverage::empty;
  if (everything()) return Coverage::full;
  return MaskTerms::run_coverage(*this, [&](const Term& term) { return MaskTerms::tile(term, scope, i0, i1, j0, j1); });
}

KeyRange mask_reach(const Mask& mask, const MaskScope& scope, int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
  i0 = std::max<int64_t>(i0, 0), i1 = std::min(i1, scope.num_queries);
  j0 = std::max<int64_t>(j0, 0), j1 = std::min(j1, scope.num_keys);
  const KeyRange none{j0, j0}, all{j0, std::max(j0, j1)};
  if (i0 >= i1) return none;
  if (mask.everything()) return all;
  const auto common = [&](KeyRange a, KeyRange b) {
    const KeyRange both{std::max(a.begin, b.begin), std::min(a.end, b.end)};
    return both.begin < both.end ? both : none;
  };
  return MaskTerms::run<KeyRange>(
      mask,
      [&](const MaskTerms::Term& term) {
        if (!MaskTerms::is_interval(term)) return all;
        // Both ends of the interval grow with i.
        const int64_t begin = MaskTerms::interval(term, scope, i0).begin,
                      end = MaskTerms::interval(term, scope, i1 - 1).end;
        return common(all, {begin, end});
      },
      common,
      [](KeyRange a, KeyRange b) {
        if (a.begin == a.end) return b;
        if (b.begin == b.end) return a;
        return KeyRange{std::min(a.begin, b.begin), std::max(a.end, b.end)};
      },
      [&](KeyRange) { return all; });
}

Coverage Mask::classify(const MaskScope& scope, int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
  const Coverage quick = classify_quickly(scope, i0, i1, j0, j1);
  if (quick != Coverage::partial) return quick;
  i0 = std::max<int64_t>(i0, 0), i1 = std::min(i1, scope.num_queries);
  j0 = std::max<int64_t>(j0, 0), j1 = std::min(j1, scope.num_keys);
  bool seen = false, hidden = false;
  for (int64_t i = i0; i < i1 && !(seen && hidden); ++i) {
    MaskTerms::pieces(*this, scope, i, j0, j1, [&](int64_t begin, int64_t end, Coverage known) {
      if (known != Coverage::partial) {
        (known == Coverage::full ? seen : hidden) = true;
        return !(seen && hidden);
      }
      for (int64_t j = begin; j < end && !(seen && hidden); j += 64) {
        const uint64_t valid = bit_range(0, end - j), word = row_bits(scope, i, j) & valid;
        seen |= word != 0, hidden |= word != valid;
      }
      return !(seen && hidden);
    });
  }
  if (seen && hidden) return Coverage::partial;
  return seen ? Coverage::full : Coverage::empty;
}

uint64_t Mask::row_bits(const MaskScope& scope, int64_t i, int64_t j0) const {
  const uint64_t valid = bit_range(0, scope.num_keys - j0);
  if (everything()) return valid;
  const uint64_t word = MaskTerms::run<uint64_t>(
      *this, [&](const Term& term) { return MaskTerms::bits(term, scope, i, j0); },
      [](uint64_t a, uint64_t b) { return a & b; }, [](uint64_t a, uint64_t b) { return a | b; },
      [](uint64_t a) { return ~a; });
  return word & valid;
}

void Mask::block_bits(const MaskScope& scope, int64_t i0, int64_t rows, int64_t j0, uint64_t* bits) const {
  require(rows <= 64, "mask bits of {} rows; at most 64 are accepted", rows);
  const uint64_t valid = bit_range(0, scope.num_keys - j0);
  // The program runs once, each operation over all rows.
  std::array<std::array<uint64_t, 64>, (kMaxTerms + 1) / 2> stack;
  stack[0].fill(~uint64_t{0});
  int top = 0;
  for (int t = 0; t < size_; ++t) {
    const Term& term = terms_[t];
    if (term.op == Op::none_of) {
      for (int64_t r = 0; r < rows; ++r) stack[top - 1][r] = ~stack[top - 1][r];
    } else if (term.op == Op::all_of || term.op == Op::any_of) {
      --top;
      const bool all = term.op == Op::all_of;
      for (int64_t r = 0; r < rows; ++r) {
        const uint64_t a = stack[top - 1][r], b = stack[top][r];
        stack[top - 1][r] = all ? a & b : a | b;
      }
    } else if (MaskTerms::is_interval(term)) {
      MaskTerms::interval_bits(term, scope, i0, rows, j0, stack[top].data());
      ++top;
    } else {
      for (int64_t r = 0; r < rows; ++r) stack[top][r] = MaskTerms::bits(term, scope, i0 + r, j0);
      ++top;
    }
  }
  for (int64_t r = 0; r < rows; ++r) bits[r] = stack[0][r] & valid;
}

int64_t Mask::area(const MaskScope& scope) const {
  if (everything()) return scope.num_queries * scope.num_keys;
  int64_t area = 0;
  for (int64_t i = 0; i < scope.num_queries; ++i) {
    MaskTerms::pieces(*this, scope, i, 0, scope.num_keys, [&](int64_t begin, int64_t end, Coverage known) {
      if (known == Coverage::full) area += end - begin;
      if (known != Coverage::partial) return true;
      for (int64_t j = begin; j < end; j += 64) {
        area += __builtin_popcountll(row_bits(scope, i, j) & bit_range(0, end - j));
      }
      return true;
    });
  }
  return area;
}

}  // namespace heed::kernels
