// A norm of the output in the place of linear attention's denominator, whose gradient is then bounded.
#include "heed/nn/feature_map.h"
#include "heed/nn/norm.h"
#include "mixers/linear/linear_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

class NormAttention final : public linear::LinearAttention {
 public:
  NormAttention(const HeadsConfig& config, nn::FeatureMap feature_map, bool gated)
      : LinearAttention("norm_attention", config), feature_map_(feature_map) {
    norm_ = register_module("norm", nn::Norm(formats::NormKind::rms, config.values(), 1e-6));
    if (gated) gate_proj_ = project("gate_proj", config.dim, config.values());
    torch::NoGradGuard no_grad;
    for (auto* linear : {&q_proj_, &k_proj_, &v_proj_, &o_proj_}) torch::nn::init::xavier_uniform_((*linear)->weight);
  }

 protected:
  bool takes_memory() const override { return !causal_; }

  Tensor attend(RecurrentCall& call, const Heads& heads) override {
    const auto q = nn::apply(feature_map_, heads.q), k = nn::apply(feature_map_, heads.k);
    if (causal_) return call.linear(0, q, k, heads.v, std::nullopt);
    require(!call.input.cu_seqlens, "norm_attention: cu_seqlens without causal is not accepted");
    return ops::linear_noncausal(q, k, heads.v, call.input.key_padding);
  }

  Tensor before_output(RecurrentCall& call, Tensor joined) override {
    joined = norm_(joined);
    return gate_proj_.is_empty() ? joined : joined * torch::sigmoid(gate_proj_(call.x));
  }

 private:
  nn::FeatureMap feature_map_;
  nn::Norm norm_{nullptr};
  torch::nn::Linear gate_proj_{nullptr};
};

}  // namespace

RegistryRow rows::norm_attention() {
  return {.name = "norm_attention",
          .family = "linear_and_recurrent",
          .paper = "The Devil in Linear Transformer (arXiv 2210.10340)",
          .year = 2022,
          .patterns = {true, true, true, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .core = true,
          .cost = "O(N)",
          .parameters = linear::heads_parameters(
              {{"feature_map", "elu_plus_one", "of q and k: elu (T1), elu_plus_one (T2) or another; signs are fine"},
               {"gate", false, "the normed output is multiplied by sigmoid of a projection of x"}}),
          .small = {{"dim", 24}, {"heads", 3}, {"gate", true}},
          .make = linear::heads_maker("norm_attention", [](const HeadsConfig& config, ConfigReader& reader) {
            const auto map = reader.choice("feature_map", "elu_plus_one", nn::feature_map_names());
            return std::make_shared<NormAttention>(config, nn::feature_map(map), reader.get("gate", false));
          })};
}

}  // namespace heed
