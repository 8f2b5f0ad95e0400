// Which chunks a query attends to, by their scores and a budget of tokens.
#pragma once

#include <span>

#include "heed/ops/panel_attention.h"
#include "mixers/sparse/chunked_keys.h"

namespace heed::sparse {

/// A chunk, and how many of its tokens are taken: the last ones.
struct TakenChunk {
  int64_t chunk, tokens;
};

/// Of chunks [1, sizes.size()) those of the largest scores, ties the earlier ones, as long as the budget lasts, of the
/// last one only what is left; before them chunk 0, whole. Chunks of no token or a score of NaN are not taken.
std::vector<TakenChunk> take_chunks(const double* scores, std::span<const int64_t> sizes, int64_t budget);

/// The panels of the last asked.size(2) tokens: each sees what is open to it, and of the closed chunks those that
/// `asked` [B, Hq, n, D] scores highest, as many tokens as are left of the budget.
ops::KeyPanels chunk_panels(const ChunkedKeys& chunks, const torch::Tensor& asked, int64_t budget);

}  // namespace heed::sparse
