// Sparsely-sharded attention (arXiv 2407.17678): every head sees a local band and its own strided share of the past.
#include "heed/error.h"
#include "heed/nn/block_pattern.h"
#include "heed/nn/ragged_kv.h"
#include "heed/ops/cache.h"
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

/// Every KV head holds its own blocks.
struct ShardState : KvState {
  nn::RaggedKv held;

  void append(const torch::Tensor& k, const torch::Tensor& v) override {
    held.append(k, v, tokens);
    tokens += k.size(2);
  }
  // By token; 0 where a block is gone.
  torch::Tensor keys() const override {
    return by_token([this](int64_t row) { return held.keys(row); });
  }
  torch::Tensor values() const override {
    return by_token([this](int64_t row) { return held.values(row); });
  }
  int64_t slots() const override { return tokens; }
  int64_t bytes() const override { return held.bytes() + padding_bytes(); }

  std::unique_ptr<MixerState> clone() const override {
    auto copy = std::make_unique<ShardState>(*this);
    copy->held = held.clone();
    if (padding.defined()) copy->padding = padding.clone();
    return copy;
  }

  void truncate(int64_t length) override {
    require(length >= 0 && length <= tokens, "truncate to {} tokens: 0 to {} is accepted", length, tokens);
    require(length == 0 || length == tokens || (held.uniform() && held.longest() == tokens),
            "truncate to {} tokens: blocks of the {} seen were evicted, so only 0 is accepted", length, tokens);
    if (length == 0) held = {};
    if (length < tokens && length > 0) held.shorten(length);
    if (padding.defined()) padding = padding.narrow(1, 0, length).clone();
    tokens = length;
  }

 private:
  template <class Rows>
  torch::Tensor by_token(const Rows& rows) const {
    std::vector<torch::Tensor> spread;
    for (int64_t r = 0; r < held.rows(); ++r) {
      const auto row = rows(r);
      spread.push_back(torch::zeros({tokens, row.size(1)}, row.options()).index_copy_(0, held.positions(r), row));
    }
    return torch::stack(spread).unflatten(0, {held.batch(), held.heads()});
  }
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

  std::unique_ptr<MixerState> make_state(int64_t batch) const override {
    AttentionMixer::make_state(batch);  // refuses what has no step
    return std::make_unique<ShardState>();
  }

 protected:
  // A block that has left the band of a head is either never seen again or always.
  void evict(KvState& state) const override {
    auto& held = static_cast<ShardState&>(state).held;
    const int64_t next = state.tokens / shards_.block;
    std::vector<std::vector<int64_t>> kept(held.rows());
    for (int64_t r = 0; r < held.rows(); ++r) {
      const int64_t kv_head = r % held.heads();
      const auto positions = held.positions(r);
      const auto* position = positions.data_ptr<int64_t>();
      for (int64_t slot = 0; slot < held.length(r); ++slot)
        if (has_dense_head(kv_head) || visible(true, held.heads(), kv_head, next, position[slot] / shards_.block))
          kept[r].push_back(slot);
    }
    held.keep(kept);
  }

  // All that a head holds is what its newest query sees.
  std::optional<torch::Tensor> mix_held(const CoreInput& in, const KvState& state) override {
    const bool heads_differ = (config_.heads - shards_.num_dense_heads) % config_.group() != 0;
    if (in.q.size(2) != 1 || in.key_padding || heads_differ || in.report) return std::nullopt;
    const auto options = options_for(in);
    if (options.bias || options.alibi_slopes || options.dropout > 0) return std::nullopt;
    const auto& held = static_cast<const ShardState&>(state).held;
    auto cache = held.pages(nn::RaggedKv::kPage);
    cache.lengths = held.lengths();
    cache.table = held.page_table();
    ops::DecodeOptions read;
    read.scale = options.scale;
    read.softcap = options.softcap;
    read.mask = {};
    return ops::decode(in.q, cache, read).out;
  }

 private:
  bool has_dense_head(int64_t kv_head) const {
    return (kv_head + 1) * config_.group() > config_.heads - shards_.num_dense_heads;
  }

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
