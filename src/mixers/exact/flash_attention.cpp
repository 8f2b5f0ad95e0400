// The block-sparse form of FlashAttention (arXiv 2205.14135): exact attention inside a fixed pattern of blocks.
#include <bit>

#include "heed/nn/block_pattern.h"
#include "mixers/rows.h"

namespace heed {
namespace {

/// Flat butterfly, the paper's default: blocks whose indices differ in at most one bit. Not verified in the paper's
/// code: the paper names the butterfly of Pixelated Butterfly (arXiv 2112.00029), whose flat form this is.
std::vector<int32_t> butterfly(const nn::BlockScope& scope, int64_t, int64_t query_block) {
  std::vector<int32_t> seen{int32_t(query_block)};
  for (int64_t bit = 1; bit < int64_t(std::bit_ceil(uint64_t(std::max(scope.key_blocks, query_block + 1)))); bit *= 2)
    seen.push_back(int32_t(query_block ^ bit));
  return seen;
}

std::vector<int32_t> everything(const nn::BlockScope& scope, int64_t, int64_t) {
  std::vector<int32_t> seen(scope.key_blocks);
  for (size_t j = 0; j < seen.size(); ++j) seen[j] = int32_t(j);
  return seen;
}

class FlashAttention final : public AttentionMixer {
 public:
  FlashAttention(const AttentionConfig& config, const std::string& pattern, int64_t block)
      : AttentionMixer("flash_attention", config),
        rule_(pattern == "butterfly" ? butterfly : everything),
        block_(block) {}

  torch::Tensor mix(const CoreInput& in) override {
    return nn::block_attention(in.q, in.k, in.v, options_for(in), rule_, block_, config_.causal, in.report);
  }

 private:
  nn::BlockRule rule_;
  int64_t block_;
};

}  // namespace

RegistryRow rows::flash_attention() {
  return {.name = "flash_attention",
          .family = "exact_and_systems",
          .paper = "FlashAttention, block-sparse form (arXiv 2205.14135)",
          .year = 2022,
          .patterns = {true, true, false, false},
          .step = true,
          .core = true,
          .training_free = true,
          .cost = "O(N^2 s)",
          .parameters = attention_parameters(
              {{"pattern", "butterfly", "butterfly: blocks whose indices differ in at most one bit; all: every block"},
               {"block", 64, "tokens a block"}}),
          .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"block", 4}},
          .make = attention_maker("flash_attention", [](const AttentionConfig& config, ConfigReader& reader) {
            const auto pattern = reader.choice("pattern", "butterfly", {"butterfly", "all"});
            return std::make_shared<FlashAttention>(config, pattern, reader.integer("block", 64, 1, 1 << 20));
          })};
}

}  // namespace heed
