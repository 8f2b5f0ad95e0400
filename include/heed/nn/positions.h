// How a model knows where a token stands: rotations of q and k, score terms, or tables added to the input.
#pragma once

#include <torch/torch.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "heed/attention.h"

namespace heed::nn {

/// Rotary embedding and its length scalings (arXiv 2104.09864, 2306.15595, 2309.00071, 2402.13753; Llama 3).
struct RopeConfig {
  double theta = 10000;
  int64_t rotary_dim = 0;        ///< rotated leading dimensions of a head; 0: all
  bool interleaved = false;      ///< false: pairs (j, j + d/2), Llama; true: pairs (2j, 2j + 1), GPT-J
  std::string scaling = "none";  ///< none, linear (PI), ntk, dynamic, yarn, llama3, longrope
  double factor = 1;             ///< f, the length is stretched by
  int64_t original_length = 0;   ///< L0; needed by dynamic, yarn, llama3, longrope
  double low_freq_factor = 1, high_freq_factor = 4;  ///< llama3
  double beta_fast = 32, beta_slow = 1;              ///< yarn
  double attention_factor = 0;  ///< yarn, longrope: cos and sin are multiplied by it; 0: see rope_magnitude
  /// longrope: divisors of the frequencies [rotary_dim / 2] of calls that reach up to L0 tokens, and beyond.
  std::vector<double> short_factors, long_factors;

  static RopeConfig from_json(const nlohmann::json& config, const std::string& owner);
  nlohmann::json to_json() const;
};

/// Inverse frequencies [rotary_dim / 2] in float64 for a sequence of `length` tokens (only `dynamic` and
/// `longrope` depend on it).
torch::Tensor rope_frequencies(const RopeConfig& config, int64_t head_dim, int64_t length = 0);
/// What cos and sin are multiplied by: `attention_factor` where given, else yarn 0.1 ln f + 1, longrope
/// sqrt(1 + ln f / ln L0), the others 1.
double rope_magnitude(const RopeConfig& config);

/// Rotates x [B, H, N, D] by positions [N] or [B, N]; angles in float64, result in x's dtype.
torch::Tensor apply_rope(const torch::Tensor& x, const torch::Tensor& positions, const RopeConfig& config);

/// ALiBi slopes [heads] (arXiv 2108.12409): 2^(-8 i / h); other than powers of two take every second slope of the next
/// power.
torch::Tensor alibi_slopes(int64_t heads);

/// T5 bucket of each pair of a query position [N] or [B, N] and a key position [M] or [B, M], int64 [N, M] or [B, N, M]
/// (arXiv 1910.10683).
torch::Tensor t5_buckets(const torch::Tensor& q_positions, const torch::Tensor& k_positions, bool causal,
                         int64_t buckets = 32, int64_t max_distance = 128);

/// Sinusoidal table rows [N, dim] for positions [N] (arXiv 1706.03762).
torch::Tensor sinusoidal(const torch::Tensor& positions, int64_t dim);

/// One of the encodings as a module: input, rotation and score sides; each does nothing where the kind has no such
/// side.
struct PositionsConfig {
  std::string kind = "none";  ///< none, rope, alibi, t5, learned, sinusoidal
  RopeConfig rope;
  int64_t max_length = 2048;  ///< learned: rows of the table

  static PositionsConfig from_json(const nlohmann::json& config, const std::string& owner);
  nlohmann::json to_json() const;
};

class PositionsImpl : public torch::nn::Module {
 public:
  PositionsImpl(PositionsConfig config, int64_t dim, int64_t heads, bool causal);

  /// learned, sinusoidal: x [B, N, dim] + table rows.
  torch::Tensor embed(const torch::Tensor& x, const torch::Tensor& positions);
  /// rope: rotated q or k [B, H, N, D].
  torch::Tensor rotate(const torch::Tensor& q_or_k, const torch::Tensor& positions) const;
  /// alibi, t5: adds the score term for queries and keys at these positions, [N] and [M] or [B, N] and [B, M].
  void score_terms(AttentionOptions& options, const torch::Tensor& q_positions, const torch::Tensor& k_positions) const;

  const PositionsConfig& config() const { return config_; }

 private:
  PositionsConfig config_;
  int64_t heads_;
  bool causal_;
  torch::Tensor table_;   // learned [max_length, dim], t5 [32, heads]
  torch::Tensor slopes_;  // alibi [heads]
};
TORCH_MODULE(Positions);

}  // namespace heed::nn
