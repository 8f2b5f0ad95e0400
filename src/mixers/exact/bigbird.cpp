// Window, global and random blocks (arXiv 2007.14062), internal-transformer form: the first and the last block are
// global.
#include <algorithm>
#include <random>

#include "heed/nn/block_pattern.h"
#include "mixers/rows.h"

namespace heed {
namespace {

struct BigBirdConfig {
  int64_t block = 64;
  int64_t window_blocks = 3;  ///< the own block and its neighbours; odd
  int64_t global_blocks = 1;  ///< at either end; causal: at the begin only
  int64_t random_blocks = 3;
  int64_t seed = 0;
};

/// A number from the seed, the head and the query block: the layout of training is the layout of tests.
uint64_t layout_seed(int64_t seed, int64_t head, int64_t query_block) {
  uint64_t x = uint64_t(seed) * 0x9E3779B97F4A7C15ull + uint64_t(head) * 0xBF58476D1CE4E5B9ull +
               uint64_t(query_block) * 0x94D049BB133111EBull;
  x = (x ^ (x >> 31)) * 0xD6E8FEB86659FD93ull;
  return x ^ (x >> 32);
}

class BigBird final : public AttentionMixer {
 public:
  BigBird(const AttentionConfig& config, const BigBirdConfig& blocks)
      : AttentionMixer("bigbird", config), blocks_(blocks) {}

  torch::Tensor mix(const CoreInput& in) override {
    const auto rule = [this](const nn::BlockScope& scope, int64_t head, int64_t query_block) {
      return seen(scope, head, query_block);
    };
    return nn::block_attention(in.q, in.k, in.v, options_for(in), rule, blocks_.block, config_.causal, in.report);
  }

 private:
  std::vector<int32_t> seen(const nn::BlockScope& scope, int64_t head, int64_t query_block) const {
    const int64_t end = scope.causal ? std::min(query_block + 1, scope.key_blocks) : scope.key_blocks;
    const auto global = [&](int64_t j) {
      return j < blocks_.global_blocks || (!scope.causal && j >= scope.key_blocks - blocks_.global_blocks);
    };
    std::vector<int32_t> result, others;
    for (int64_t j = 0; j < end; ++j) {
      const bool near = std::abs(query_block - j) <= blocks_.window_blocks / 2;
      (global(query_block) || global(j) || near ? result : others).push_back(int32_t(j));
    }
    // The first blocks of a seeded permutation; drawn by hand, since distributions differ between standard libraries.
    std::mt19937_64 random(layout_seed(blocks_.seed, head, query_block));
    for (int64_t r = 0; r < blocks_.random_blocks && r < int64_t(others.size()); ++r) {
      std::swap(others[r], others[r + random() % (others.size() - r)]);
      result.push_back(others[r]);
    }
    return result;
  }

  BigBirdConfig blocks_;
};

}  // namespace

RegistryRow rows::bigbird() {
  return {.name = "bigbird",
          .family = "exact_and_systems",
          .paper = "Big Bird: Transformers for Longer Sequences (arXiv 2007.14062)",
          .year = 2020,
          .patterns = {true, true, false, false},
          .step = true,
          .core = true,
          .cost = "O(N (w + g + r))",
          .parameters = attention_parameters(
              {{"block", 64, "tokens a block"},
               {"window_blocks", 3, "the own block and its neighbours; odd"},
               {"global_blocks", 1, "global blocks at either end; causal: at the begin"},
               {"random_blocks", 3, "random blocks of a query block, fixed by seed, head and block"},
               {"seed", 0, "of the random blocks; a model gives each layer its own"}}),
          .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"block", 4}, {"random_blocks", 2}},
          .make = attention_maker("bigbird", [](const AttentionConfig& config, ConfigReader& reader) {
            BigBirdConfig blocks;
            blocks.block = reader.integer("block", blocks.block, 1, 1 << 20);
            blocks.window_blocks = reader.integer("window_blocks", blocks.window_blocks, 1);
            require(blocks.window_blocks % 2 == 1, "bigbird: window_blocks = {}: an odd number is accepted",
                    blocks.window_blocks);
            blocks.global_blocks = reader.integer("global_blocks", blocks.global_blocks, 0);
            blocks.random_blocks = reader.integer("random_blocks", blocks.random_blocks, 0);
            blocks.seed = reader.integer("seed", blocks.seed, 0);
            return std::make_shared<BigBird>(config, blocks);
          })};
}

}  // namespace heed
