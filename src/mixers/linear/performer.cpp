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

class Performer final : public linear::LinearAttention {
 public:
  Performer(const HeadsConfig& config, int64_t features, uint64_t seed, std::string kind, double eps)
      : LinearAttention("performer", config), kind_(std::move(kind)), eps_(eps) {
    rows_ = register_buffer("rows", nn::orthogonal_rows(features, config.key_dim, seed));
  }

 protected:
  bool takes_memory() const override { return !causal_; }

  Tensor attend(RecurrentCall& call, const Heads& heads) override {
    require(causal_ || !call.input.cu_seqlens, "performer: cu_seqlens without causal is not accepted");
    return linear::performer_attention(call, 0, heads, {rows_, kind_, eps_}, causal_);
  }

 private:
  std::string kind_;
  double eps_;
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
               {"eps", 1e-4, "added to every feature, the largest of which is 1; not of relu"},
               {"seed", 0, "of the random rows"}}),
          .small = {{"dim", 24}, {"heads", 3}, {"features", 20}},
          .make = linear::heads_maker("performer", [](const HeadsConfig& config, ConfigReader& reader) {
            const auto features = reader.integer("features", 256, 1, 1 << 16), seed = reader.integer("seed", 0, 0);
            const auto kind = reader.choice("feature_kind", "softmax", {"softmax", "hyperbolic", "relu"});
            const double eps = reader.get("eps", 1e-4);
            require(eps >= 0 && eps < 1, "performer: eps = {}: 0 up to 1 is accepted", eps);
            return std::make_shared<Performer>(config, features, static_cast<uint64_t>(seed), kind, eps);
          })};
}

}  // namespace heed
