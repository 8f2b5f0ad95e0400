// Softmax attention with MHA, GQA or MQA heads: the reference that every mechanism is compared with
// (arXiv 1706.03762, 1911.02150, 2305.13245).
#include "mixers/rows.h"

namespace heed {
namespace {

class Dense final : public AttentionMixer {
 public:
  explicit Dense(const AttentionConfig& config) : AttentionMixer("dense", config) {}
};

}  // namespace

RegistryRow rows::dense() {
  return {
      .name = "dense",
      .family = "exact_and_systems",
      .paper = "Attention Is All You Need; Fast Transformer Decoding; GQA (arXiv 1706.03762, 1911.02150, 2305.13245)",
      .year = 2017,
      .patterns = {true, true, true, true},
      .step = true,
      .core = true,
      .training_free = true,
      .exact = true,
      .cost = "O(N^2)",
      .parameters = attention_parameters(),
      .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}},
      .make = attention_maker(
          "dense", [](const AttentionConfig& config, ConfigReader&) { return std::make_shared<Dense>(config); })};
}

}  // namespace heed
