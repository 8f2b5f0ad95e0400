// FAVOR+: softmax attention estimated by positive random features.
#include "heed/nn/random_features.h"
#include "mixers/linear/linear_attention.h"
#include "mixers/linear/performer_features.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

struct PerformerConfig {
  int64_t features = 256;
  std::string kind = "softmax";  ///< softmax, hyperbolic, relu
  uint64_t seed = 0;
};

class Performer final : public linear::LinearAttention {
 public:
  Performer(const HeadsConfig& config, PerformerConfig own)
      : LinearAttention("performer", config), own_(std::move(own)) {
    rows_ = register_buffer("rows", nn::orthogonal_rows(own_.features, config.key_dim, own_.seed));
  }

 protected:
  bool takes_memory() const override { return !causal_; }

  Tensor attend(RecurrentCall& call, const Heads& heads) override {
    const auto q = features(heads.q, true), k = features(heads.k, false);
    if (!causal_) {
      require(!call.input.cu_seqlens, "performer: cu_seqlens without causal is not accepted");
      return ops::linear_noncausal(q, k, heads.v, call.input.key_padding, true);
    }
    ops::LinearChunkOptions options;
    options.normalize = true;
    return call.linear(0, q, k, heads.v, std::nullopt, options);
  }

 private:
  Tensor features(const Tensor& t, bool queries) const {
    return linear::performer_features(t, rows_, own_.kind, queries);
  }

  PerformerConfig own_;
  Tensor rows_;  // [features, key_dim]
};

}  // namespace

RegistryRow rows::performer() {
  return {.name = "performer",
          .family = "exact_and_systems",
          .paper = "Rethinking Attention with Performers (arXiv 2009.14794)",
          .year = 2020,
          .patterns = {true, true, true, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .core = true,
          .cost = "O(N m)",
          .parameters = linear::heads_parameters(
              {{"features", 256, "random features m"},
               {"feature_kind", "softmax", "softmax (positive features), hyperbolic (w and -w), relu"},
               {"seed", 0, "of the random rows"}}),
          .small = {{"dim", 24}, {"heads", 3}, {"features", 20}},
          .make = linear::heads_maker("performer", [](const HeadsConfig& config, ConfigReader& reader) {
            PerformerConfig own;
            own.features = reader.integer("features", own.features, 1, 1 << 16);
            own.kind = reader.choice("feature_kind", own.kind, {"softmax", "hyperbolic", "relu"});
            own.seed = static_cast<uint64_t>(reader.integer("seed", 0, 0));
            return std::make_shared<Performer>(config, own);
          })};
}

}  // namespace heed
