// Exact attention inside blocks that do not overlap: what early layers of TransNormer have before linear ones.
#include "heed/error.h"
#include "heed/nn/block_pattern.h"
#include "heed/nn/norm.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

std::vector<int32_t> own_block(const nn::BlockScope&, int64_t, int64_t query_block) {
  return {static_cast<int32_t>(query_block)};
}

class DiagAttention final : public AttentionMixer {
 public:
  DiagAttention(const AttentionConfig& config, int64_t block, bool relu)
      : AttentionMixer("diag_attention", config), block_(block), relu_(relu) {
    if (relu) norm_ = register_module("norm", nn::Norm(formats::NormKind::rms, config.heads * config.head_dim, 1e-6));
  }

  Tensor mix(const CoreInput& in) override {
    if (relu_) return rectified(in);
    return nn::block_attention(in.q, in.k, in.v, options_for(in), own_block, block_, config_.causal, in.report);
  }

 protected:
  Tensor after_core(const MixerInput&, Tensor heads) override {
    if (!relu_) return heads;
    return norm_(heads.transpose(1, 2).flatten(2)).unflatten(2, {config_.heads, -1}).transpose(1, 2);
  }

  void evict(KvState& state) const override {
    // Whole blocks, so that the first key held begins one.
    state.erase(0, state.kv.length() - state.tokens % block_);
  }

 private:
  /// Weights relu(q . k) without a sum to divide by (ReLA, arXiv 2104.07012), block by block.
  Tensor rectified(const CoreInput& in) const {
    require(!in.cu_seqlens, "diag_attention: cu_seqlens with normalizer = relu is not accepted");
    const auto& c = config_;
    const int64_t n = in.q.size(2), m = in.k.size(2), first = m - n, padded = (m + block_ - 1) / block_ * block_;
    const auto blocks = [&](const Tensor& t, int64_t before) {
      const auto whole = torch::constant_pad_nd(t, {0, 0, before, padded - before - t.size(2)});
      return whole.unflatten(2, {-1, block_});  // [B, H, blocks, block, D]
    };
    const auto shared = [&](const Tensor& t) { return t.repeat_interleave(c.group(), 1); };
    const double scale = c.scale > 0 ? c.scale : 1 / std::sqrt(static_cast<double>(in.q.size(3)));
    auto weights = torch::relu(torch::matmul(blocks(in.q, first) * scale, blocks(shared(in.k), 0).transpose(3, 4)));
    if (c.causal) weights = weights.tril();
    if (in.key_padding) {
      const auto hidden = torch::constant_pad_nd(*in.key_padding, {0, padded - m}, true);
      weights = weights.masked_fill(hidden.view({-1, 1, padded / block_, 1, block_}), 0);
    }
    return torch::matmul(weights, blocks(shared(in.v), 0)).flatten(2, 3).narrow(2, first, n);
  }

  int64_t block_;
  bool relu_;
  nn::Norm norm_{nullptr};
};

}  // namespace

RegistryRow rows::diag_attention() {
  return {.name = "diag_attention",
          .family = "linear_and_recurrent",
          .paper = "The Devil in Linear Transformer (arXiv 2210.10340)",
          .year = 2022,
          .patterns = {true, true, false, false},
          .step = true,
          .core = true,
          .training_free = true,
          .cost = "O(N w)",
          .parameters = attention_parameters(
              {{"block", 64, "tokens a block"},
               {"normalizer", "softmax", "softmax, or relu: weights relu(q . k) and a norm of the output"}}),
          .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"block", 8}},
          .make = attention_maker("diag_attention", [](const AttentionConfig& config, ConfigReader& reader) {
            const auto block = reader.integer("block", 64, 1, 1 << 20);
            const bool relu = reader.choice("normalizer", "softmax", {"softmax", "relu"}) == "relu";
            return std::make_shared<DiagAttention>(config, block, relu);
          })};
}

}  // namespace heed
