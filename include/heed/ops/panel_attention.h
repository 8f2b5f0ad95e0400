// Attention of blocks of queries to keys of their own, differentiable.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <vector>

#include "heed/kernels/panel_attention.h"

namespace heed::ops {

/// The keys of every block of queries and who of it sees them, as heed/kernels/panel_attention.h has them.
struct KeyPanels {
  torch::Tensor offsets;  ///< int64
  torch::Tensor keys;     ///< int32
  torch::Tensor seen;     ///< int64, bits
  int64_t batch = 1, choosers = 1, queries = 0, block = 64;

  kernels::KeyPanels view() const;
};

/// One block while its keys are chosen: `keys` first, ascending and without repeats, then who sees them.
class KeyPanel {
 public:
  KeyPanel(int64_t rows, std::vector<int32_t> keys);
  /// Query `row` of the block sees keys [begin, end) of this panel.
  void see(int64_t row, int64_t begin, int64_t end);
  /// The bits of a query, in `words()` words.
  uint64_t* row(int64_t row) { return seen_.data() + row * words_; }
  int64_t words() const { return words_; }

  const std::vector<int32_t>& keys() const { return keys_; }
  const std::vector<uint64_t>& seen() const { return seen_; }

 private:
  std::vector<int32_t> keys_;
  int64_t words_;
  std::vector<uint64_t> seen_;  ///< [rows][words]
};

/// The panels that choose(b, chooser, first, count) gives for queries [first, first + count) of every chooser; `choose`
/// runs in parallel and gives panels of `block` rows, of which those from `count` on see nothing.
using PanelChoice = std::function<KeyPanel(int64_t b, int64_t chooser, int64_t first, int64_t count)>;
KeyPanels key_panels(int64_t batch, int64_t choosers, int64_t queries, int64_t block, const PanelChoice& choose);

struct PanelResult {
  torch::Tensor out;  ///< [B, Hq, N, Dv], dtype of q
  torch::Tensor lse;  ///< [B, Hq, N]; float32, of float64 calls float64; -inf where nothing is seen
};

/// Softmax attention of q [B, Hq, N, D] to the keys k [B, Hk, M, D], v [B, Hk, M, Dv] that its panels show it; float32,
/// bfloat16, float16 or float64. `scale` 0: 1 / sqrt(D); `softcap` c > 0: logits become c tanh(s / c). Differentiable
/// once in q, k and v. Throws heed::Error for what does not fit.
PanelResult panel_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                            const KeyPanels& panels, double scale = 0, double softcap = 0);

}  // namespace heed::ops
