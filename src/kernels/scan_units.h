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
};

/// The units of a call whose sequences are `items` pieces of work each. Chunks cost a second pass over their inputs, so
/// unless the call asks for them they are taken only where fewer than `idle` items in all would leave threads idle, and
/// then of at least `least` tokens. A function of the shapes.
template <class Params>
std::vector<ScanUnit> scan_units(const Params& p, const AnyView& tokens, int64_t items, int64_t idle, int64_t least) {
  constexpr int64_t kMostChunks = 32;
  const int64_t sequences = count_spans(p, tokens);
  int64_t longest = 1;
  for (int64_t s = 0; s < sequences; ++s) longest = std::max(longest, span_at(p, tokens, s).length());
  int64_t chunk = p.chunk;
  if (chunk == 0)
    chunk =
        sequences * items < idle && longest >= 2 * least ? std::max(least, (longest - 1) / kMostChunks + 1) : longest;
  std::vector<ScanUnit> units;
  for (int64_t s = 0; s < sequences; ++s) {
    const TokenSpan span = span_at(p, tokens, s);
    int64_t t = span.begin;
    do {
      const int64_t end = std::min(span.end, t + chunk);
      units.push_back({s, span.batch, t, end, t == span.begin, end == span.end});
      t = end;
    } while (t < span.end);
  }
  return units;
}

}  // namespace heed::kernels
