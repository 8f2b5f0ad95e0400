// What a video model remembers of past frames: cells with keys and values, compressed when there are many (XMem, arXiv
// 2207.07115; ColorMNet, arXiv 2404.06251).
#pragma once

#include <torch/torch.h>

#include <vector>

namespace heed {

/// How alike memory cells and queries are, [B, N, M]: -(s_m / sqrt(C)) sum_c e_qc (k_mc - k_qc)^2. Keys k_m [B, M, C]
/// with shrinkage s_m [B, M, 1]; queries k_q with selection e_q, [B, N, C].
torch::Tensor weighted_distance_scores(const torch::Tensor& k_m, const torch::Tensor& s_m, const torch::Tensor& k_q,
                                       const torch::Tensor& e_q);

struct PropagationMemoryConfig {
  int64_t top = 30;          ///< cells that a query reads
  int64_t working = 5;       ///< frames held as they are, behind the first
  int64_t newest = 2;        ///< of these stay when the others are compressed
  int64_t prototypes = 128;  ///< cells that they are compressed to
  int64_t capacity = 512;    ///< compressed cells; the least used are given up
};

class PropagationMemory {
 public:
  explicit PropagationMemory(const PropagationMemoryConfig& config = {});

  /// A frame of n cells: keys [B, n, C], shrinkages [B, n, 1], values [B, n, D]. The first frame stays for ever.
  void add(const torch::Tensor& k, const torch::Tensor& s, const torch::Tensor& v);
  /// Values [B, N, D] of the `top` most alike cells, by a softmax over them. Counts who was read. Throws heed::Error
  /// where nothing was added.
  torch::Tensor read(const torch::Tensor& k, const torch::Tensor& e);

  int64_t cells() const;

 private:
  /// Cells with what they were read, and for how many queries' frames.
  struct Cells {
    torch::Tensor k, s, v;     ///< [B, M, ...]
    torch::Tensor usage, age;  ///< [B, M]
    int64_t count() const { return k.defined() ? k.size(1) : 0; }
    torch::Tensor worth() const { return usage / age.clamp_min(1); }
    Cells pick(const torch::Tensor& index) const;
    static Cells join(const std::vector<Cells>& parts);
  };
  void compress();

  PropagationMemoryConfig config_;
  Cells first_, long_;
  std::vector<Cells> working_;
};

}  // namespace heed
