// Where a sequence of keys is cut into chunks, so that no query needs to know what stands behind it.
#pragma once

#include <torch/torch.h>

namespace heed::sparse {

struct BorderRule {
  int64_t least = 16, most = 128;  ///< tokens of a chunk
  int64_t lag = 0;                 ///< a border before token i is known to queries from i + lag on
};

/// A chunk ends where it has `least` tokens and a candidate follows, or where it has `most`. candidates bool [B, M]: a
/// border may stand before the token. Returns bool [B, M]: it does; none before the first. Where the candidates go on
/// from tokens before them, `begins` int64 [B] says where the chunk that is open began, 0 or less; undefined: 0.
torch::Tensor choose_borders(const torch::Tensor& candidates, const BorderRule& rule, const torch::Tensor& begins = {});

/// cos of the means of the `window` features before and from each token on: features [B, M, F] -> [B, M]; 1 where
/// either side is short of tokens.
torch::Tensor side_similarity(const torch::Tensor& features, int64_t window);
/// Local minima of values [B, M] that lie below `bound`; among equals the first.
torch::Tensor dips(const torch::Tensor& values, double bound);

}  // namespace heed::sparse
