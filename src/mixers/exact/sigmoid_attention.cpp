// Element-wise sigmoid in place of the softmax (arXiv 2409.04431): no row statistics, a bias of -log n.
#include <cmath>

#include "mixers/rows.h"

namespace heed {
namespace {

struct SigmoidConfig {
  double sigmoid_bias = 0;
  bool learned_bias = false;
  bool out_norm = false;   ///< "hybrid norm": LayerNorm on the attention output
  double layer_scale = 0;  ///< initial value of a scale per channel on the output; 0: none
};

class SigmoidAttention final : public AttentionMixer {
 public:
  SigmoidAttention(const AttentionConfig& config, const SigmoidConfig& sigmoid)
      : AttentionMixer("sigmoid_attention", config) {
    const auto bias = torch::full({config.heads}, sigmoid.sigmoid_bias);
    bias_ = sigmoid.learned_bias ? register_parameter("sigmoid_bias", bias) : register_buffer("sigmoid_bias", bias);
    if (sigmoid.out_norm)
      out_norm_ = register_module("out_norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({config.dim})));
    if (sigmoid.layer_scale > 0)
      layer_scale_ = register_parameter("layer_scale", torch::full({config.dim}, sigmoid.layer_scale));
  }

  torch::Tensor forward(const MixerInput& input, MixerState* state) override {
    auto out = AttentionMixer::forward(input, state);
    if (out_norm_) out = out_norm_(out);
    return layer_scale_.defined() ? out * layer_scale_ : out;
  }

 protected:
  void customize(AttentionOptions& options, const CoreInput&) override {
    options.normalizer = NormalizerKind::sigmoid;
    options.sigmoid_bias = bias_;
  }

 private:
  torch::Tensor bias_, layer_scale_;
  torch::nn::LayerNorm out_norm_{nullptr};
};

}  // namespace

RegistryRow rows::sigmoid_attention() {
  return {.name = "sigmoid_attention",
          .family = "exact_and_systems",
          .paper = "Theory, Analysis, and Best Practices for Sigmoid Self-Attention (arXiv 2409.04431)",
          .year = 2024,
          .patterns = {true, true, true, true},
          .step = true,
          .core = true,
          .cost = "O(N^2)",
          .parameters = attention_parameters(
              {{"sigmoid_bias", nullptr, "b in sigmoid(s + b); default -log(max_length)"},
               {"learned_bias", false, "train the bias, one a head"},
               {"out_norm", false, "LayerNorm on the output (hybrid norm)"},
               {"layer_scale", 0.0,
                "initial value of a learned scale per channel on the output (the paper's 1e-4); 0: none"}}),
          .small = {{"dim", 24},
                    {"heads", 4},
                    {"kv_heads", 2},
                    {"max_length", 64},
                    {"learned_bias", true},
                    {"qk_norm", "layer"},
                    {"out_norm", true},
                    {"layer_scale", 0.5}},
          .make = attention_maker("sigmoid_attention", [](const AttentionConfig& config, ConfigReader& reader) {
            SigmoidConfig sigmoid;
            sigmoid.sigmoid_bias = reader.get("sigmoid_bias", -std::log(double(config.max_length)));
            sigmoid.learned_bias = reader.get("learned_bias", false);
            sigmoid.out_norm = reader.get("out_norm", false);
            sigmoid.layer_scale = reader.get("layer_scale", 0.0);
            return std::make_shared<SigmoidAttention>(config, sigmoid);
          })};
}

}  // namespace heed
