// Sparsely-sharded attention (arXiv 2407.17678): every head sees a local band and its own strided share of the past.
#include "heed/error.h"
#include "heed/nn/block_pattern.h"
#include "mixers/rows.h"

namespace heed {
namespace {

struct ShardConfig {
  int64_t block = 64;
  int64_t local_blocks = 4;
  int64_t stride = 4;  ///< vertical stride, in blocks
  int64_t offset = 0;
  int64_t num_dense_heads = 0;  ///< the last query heads see everything
};

class S2Attention final : public AttentionMixer {
 public:
  S2Attention(const AttentionConfig& config, const ShardConfig& shards)
      : AttentionMixer("s2_attention", config), shards_(shards) {}

  torch::Tensor mix(const CoreInput& in) override {
    // Sharding goes by KV head, so that a group reads the same pages.
    const int64_t kv_heads = in.k.size(1), group = in.q.size(1) / kv_heads,
                  dense_from = in.q.size(1) - shards_.num_dense_heads;
    const auto rule = [=, this](const nn::BlockScope& scope, int64_t head, int64_t query_block) {
      std::vector<int32_t> seen;
      for (int64_t j = 0; j < scope.key_blocks; ++j)
        if (head >= dense_from || visible(scope.causal, kv_heads, head / group, query_block, j))
          seen.push_back(int32_t(j));
      return seen;
    };
    return nn::block_attention(in.q, in.k, in.v, options_for(in), rule, shards_.block, config_.causal, in.report);
  }

 private:
  bool visible(bool causal, int64_t kv_heads, int64_t kv_head, int64_t query_block, int64_t key_block) const {
    const int64_t distance = query_block - key_block, step = std::max<int64_t>(1, shards_.stride / kv_heads);
    if (causal)
      return distance < shards_.local_blocks || (key_block + kv_head * step + shards_.offset) % shards_.stride == 0;
    const int64_t outside = std::abs(distance) - shards_.local_blocks;  // from the band's edge, on either side
    return outside < 0 || (outside + kv_head * step + shards_.offset) % shards_.stride == 0;
  }

  ShardConfig shards_;
};

}  // namespace

RegistryRow rows::s2_attention() {
  return {.name = "s2_attention",
          .family = "exact_and_systems",
          .paper =
              "Efficient LLM Training and Serving with Heterogeneous Context Sharding among Attention Heads (arXiv "
              "2407.17678)",
          .year = 2024,
          .patterns = {true, true, false, false},
          .step = true,
          .core = true,
          .cost = "O(N^2 / stride + N local)",
          .parameters =
              attention_parameters({{"block", 64, "tokens a block"},
                                    {"local_blocks", 4, "blocks of the band, the own one included"},
                                    {"stride", 4, "every stride-th block of the past is seen, shifted by KV head"},
                                    {"offset", 0, "shift of the strided blocks, all heads"},
                                    {"num_dense_heads", 0, "the last query heads see everything"}}),
          .small = {{"dim", 24},
                    {"heads", 4},
                    {"kv_heads", 4},
                    {"block", 4},
                    {"local_blocks", 2},
                    {"stride", 4},
                    {"num_dense_heads", 1}},
          .make = attention_maker("s2_attention", [](const AttentionConfig& config, ConfigReader& reader) {
            ShardConfig shards;
            shards.block = reader.integer("block", shards.block, 1, 1 << 20);
            shards.local_blocks = reader.integer("local_blocks", shards.local_blocks, 1);
            shards.stride = reader.integer("stride", shards.stride, 1);
            shards.offset = reader.integer("offset", shards.offset, 0);
            shards.num_dense_heads = reader.integer("num_dense_heads", 0, 0, config.heads);
            return std::make_shared<S2Attention>(config, shards);
          })};
}

}  // namespace heed
