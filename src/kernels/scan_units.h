// Sequences, or chunks of them, as the scans' threads take them.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/scan_problem.h"

namespace heed::kernels {

/// A sequence or, where chunks are scanned by themselves, a chunk of one.
struct ScanUnit {
  int64_t sequence, batch, begin, end;
  bool first, last;  ///< of its sequence

  TokenSpan span() const { return {batch, begin, end}; }
};

/// Tokens of the longest sequence.
template <class Params>
int64_t longest_span(const Params& p, const AnyView& tokens) {
  int64_t longest = 0;
  for (int64_t s = 0; s < count_spans(p, tokens); ++s) longest = std::max(longest, span_at(p, tokens, s).length());
  return longest;
}

/// Tokens of the units of a call whose sequences are `items` pieces of work each: what the call asks for, unless that
/// is 0. Units cost a second pass over their inputs, so sequences are cut only where fewer than `idle` items in all
/// would leave threads idle, and then into units of at least `least` tokens. A function of the shapes.
template <class Params>
int64_t unit_tokens(const Params& p, const AnyView& tokens, int64_t asked, int64_t items, int64_t idle, int64_t least) {
  constexpr int64_t kMostUnits = 32;
  if (asked > 0) return asked;
  const int64_t longest = std::max<int64_t>(longest_span(p, tokens), 1);
  const bool idles = count_spans(p, tokens) * items < idle && longest >= 2 * least;
  return idles ? std::max(least, (longest - 1) / kMostUnits + 1) : longest;
}

/// The sequences of a call in units of at most so many tokens; an empty one is a unit, too.
template <class Params>
std::vector<ScanUnit> units_of(const Params& p, const AnyView& tokens, int64_t most) {
  std::vector<ScanUnit> units;
  for (int64_t s = 0; s < count_spans(p, tokens); ++s) {
    const TokenSpan span = span_at(p, tokens, s);
    int64_t t = span.begin;
    do {
      const int64_t end = std::min(span.end, t + most);
      units.push_back({s, span.batch, t, end, t == span.begin, end == span.end});
      t = end;
    } while (t < span.end);
  }
  return units;
}

}  // namespace heed::kernels
