// Layers that attend alike share one map (EchoAtt, arXiv 2409.14595): which layers do, and the model in which they do.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <string>
#include <vector>

#include "heed/models/decoder_lm.h"

namespace heed::surgery {

/// How alike the attention maps of layers are: cos(vec A_l, vec A_l') of the same query head, mean over texts and
/// heads.
struct MapSimilarity {
  torch::Tensor whole;          ///< double [L, L], symmetric, 1 on the diagonal
  torch::Tensor without_first;  ///< of the maps without the column of the first token, which most heads attend to
};

/// Over texts int64 [B, N]. Layers that are no plain dense attention are like none but themselves.
MapSimilarity map_similarity(DecoderLm& model, const std::vector<torch::Tensor>& texts,
                             const std::function<void(int64_t done, int64_t total)>& progress = {});

/// Layers [begin, end), of which the first leads.
struct LayerBlock {
  int64_t begin = 0, end = 0;

  int64_t followers() const { return end - begin - 1; }
  bool operator==(const LayerBlock&) const = default;
};
/// "2-3,4-6", first and last layer of each. Throws heed::Error for anything else.
std::vector<LayerBlock> parse_blocks(const std::string& text);
std::string to_string(const std::vector<LayerBlock>& blocks);

/// Mean similarity of the pairs of a block; 1 for a block of one layer.
double mean_similarity(const torch::Tensor& similarity, const LayerBlock& block);

struct BlockChoice {
  int64_t first = 2, last = 2;  ///< layers at either end that are left alone
  int64_t size = 2;             ///< layers of a block; the last one may be shorter
  double least = 0.9;           ///< mean similarity from which a block shares its map
};
std::vector<LayerBlock> similar_blocks(const torch::Tensor& similarity, const BlockChoice& choice);

/// The model in which the first layer of each block leaves its attention weights to the others, which lose their
/// projections to q and k; all other weights are copied. Blocks of one layer change nothing. Throws heed::Error for
/// blocks that overlap or leave the model, and for layers that are no plain dense attention.
DecoderLm share_attention(DecoderLm& model, const std::vector<LayerBlock>& blocks);

}  // namespace heed::surgery
