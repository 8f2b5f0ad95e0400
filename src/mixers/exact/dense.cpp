// Softmax attention with MHA, GQA or MQA heads: the reference that every mechanism is compared with
// (arXiv 1706.03762, 1911.02150, 2305.13245).
#include "heed/mixers/attention_mixer.h"
#include "mixers/rows.h"

namespace heed {
namespace {

class Dense final : public AttentionMixer {
 public:
  explicit Dense(const AttentionConfig& config) : AttentionMixer("dense", config) {}
};

}  // namespace

namespace rows {

std::vector<Parameter> attention_parameters(std::vector<Parameter> own) {
  std::vector<Parameter> all{{"dim", 64, "channels C of the tokens"},
                             {"heads", 4, "query heads"},
                             {"kv_heads", 0, "key and value heads; 0: as many as heads"},
                             {"head_dim", 0, "head size; 0: dim / heads"},
                             {"causal", true, "token i sees tokens up to i"},
                             {"bias", false, "biases on the projections"},
                             {"dropout", 0.0, "of attention weights, in training"},
                             {"max_length", 2048, "length that length constants are taken from"},
                             {"positions", "none", "none, rope, alibi, t5, learned, sinusoidal, or an object with kind and its options"}};
  all.insert(all.end(), own.begin(), own.end());
  return all;
}

RegistryRow dense() {
  return {.name = "dense",
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
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("dense", json);
            auto config = AttentionConfig::read(reader);
            reader.finish();
            return std::make_shared<Dense>(config);
          }};
}

}  // namespace rows
}  // namespace heed
