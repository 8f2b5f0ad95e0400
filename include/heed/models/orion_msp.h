// A classifier of tables that learns in context: columns, rows at several scales, a memory of the training rows, and a
// transformer over rows (Orion-MSP, arXiv 2511.02818).
#pragma once

#include <torch/torch.h>

#include <vector>

namespace heed {

struct OrionConfig {
  int64_t dim = 128;          ///< E, of a cell
  int64_t column_blocks = 3;  ///< induced attention over the rows of a column
  int64_t inducing = 128;     ///< points of each, which see training rows alone
  int64_t column_heads = 4;
  std::vector<int64_t> scales{1, 4, 8};  ///< features that become one token of a row
  int64_t row_blocks = 3;                ///< over all scales, rounded up
  int64_t row_heads = 8;
  int64_t window = 4;         ///< tokens on either side that a token of a row sees
  int64_t random_links = 0;   ///< further ones it sees, drawn by `seed`
  int64_t latents = 16;       ///< of the memory; 0: none
  int64_t memory_blocks = 2;  ///< that write it, and that read it
  int64_t icl_blocks = 12, icl_heads = 4;
  int64_t classes = 10;  ///< most that are told apart
  double temperature = 0.9;
  uint64_t seed = 0;
};

/// bool [n, n] of a row's tokens: 4 class tokens and 2 global ones see and are seen by all, the others the window
/// around them and their random links.
torch::Tensor orion_row_mask(int64_t tokens, const OrionConfig& config);

/// x + attention of x over a source, and x + perceptron(x), each behind a norm.
class SetBlockImpl : public torch::nn::Module {
 public:
  /// `rope`: q and k are rotated by their places, with this base; 0: they have none.
  SetBlockImpl(int64_t dim, int64_t heads, double rope = 0);
  /// x [B, N, dim] over source [B, M, dim]; `visible` bool [N, M] or undefined.
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& source, const torch::Tensor& visible = {});

 private:
  int64_t heads_;
  double rope_;
  torch::nn::LayerNorm norm_{nullptr}, mlp_norm_{nullptr};
  torch::nn::Linear q_{nullptr}, kv_{nullptr}, o_{nullptr}, up_{nullptr}, down_{nullptr};
};
TORCH_MODULE(SetBlock);

class OrionMspImpl : public torch::nn::Module {
 public:
  explicit OrionMspImpl(OrionConfig config);

  /// table float [B, T, m], the labels int64 [B, train] of its first rows, each below `classes` -> logits [B, T -
  /// train, classes] of the others. A row without a label changes no other row's logits. Throws heed::Error for what
  /// does not fit.
  torch::Tensor forward(const torch::Tensor& table, const torch::Tensor& labels);
  /// Probabilities of `classes` classes, the mean over `draws` orders of features and classes drawn by `seed`, no
  /// gradient.
  torch::Tensor probabilities(const torch::Tensor& table, const torch::Tensor& labels, int64_t classes,
                              int64_t draws = 32, uint64_t seed = 0);

  /// The stages of forward: cells [B, T, m, E], rows [B, T, 4 E], and what the training rows wrote, [B, latents, 4 E].
  torch::Tensor columns(const torch::Tensor& table, int64_t train);
  torch::Tensor rows(const torch::Tensor& cells);
  torch::Tensor memory(const torch::Tensor& rows, int64_t train);

  const OrionConfig& config() const { return config_; }

 private:
  torch::Tensor scaled_rows(const torch::Tensor& cells, size_t scale);

  OrionConfig config_;
  std::vector<SetBlock> column_points_, column_cells_, write_, read_, icl_;
  std::vector<std::vector<SetBlock>> row_blocks_;  // by scale
  torch::Tensor inducing_, special_, latents_;
  torch::nn::Linear cell_in_{nullptr}, cell_out_{nullptr}, head_in_{nullptr}, head_out_{nullptr};
  torch::nn::LayerNorm row_norm_{nullptr};
  torch::nn::Embedding labels_{nullptr};
};
TORCH_MODULE(OrionMsp);

}  // namespace heed
