// The largest numbers of every prefix of a sequence.
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// Each prefix of a row keeps its `count` largest entries, ties the earlier ones; an entry that is dropped never comes
/// back. scores float [B, H, M] -> int64 [B, H, M]: the first prefix (by its last index) that has dropped the entry, M
/// where none has. Entries of -inf are never kept: they count as dropped at 0. O(M log count) a row, no gradient.
/// Throws heed::Error for a count below 1.
torch::Tensor dropped_at(const torch::Tensor& scores, int64_t count);

}  // namespace heed::nn
