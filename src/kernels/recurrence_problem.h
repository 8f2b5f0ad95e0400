// What linear_chunk and delta_chunk share before any arithmetic: heads that share tensors, kinds of decay, checks.
#pragma once

#include "heed/kernels/delta_chunk.h"
#include "kernels/reference/element.h"
#include "kernels/scan_problem.h"

namespace heed::kernels {

enum class DecayKind : uint8_t {
  none,
  constant,
  scalar,
  channel,
  given,  ///< coefficients
};

/// Of a call that check() accepts.
inline DecayKind decay_kind(const AnyView& log_decay, int64_t d) {
  if (is_absent(log_decay)) return DecayKind::none;
  if (log_decay.size[3] == d && d > 1) return DecayKind::channel;
  // A constant of one token in one sequence is the decay of that token.
  return log_decay.size[0] == 1 && log_decay.size[2] == 1 ? DecayKind::constant : DecayKind::scalar;
}

inline bool has_coefficients(const LinearChunkParams& p) { return !is_absent(p.coefficients.pairs); }

/// Channels that decay by themselves meet in pairs inside so many tokens.
inline constexpr int64_t kMostChannelChunk = 16;

/// The head of `view` that head h of `heads` reads.
inline int64_t shared_head(const AnyView& view, int64_t h, int64_t heads) { return h * view.size[1] / heads; }

/// Throws heed::Error naming the first log decay above 0, if there is one.
void check_not_positive(const char* op, const AnyView& log_decay);

}  // namespace heed::kernels
