// Linear attention as it began: positive features in the place of the exponential, divided by their sum.
#include "heed/error.h"
#include "heed/nn/feature_map.h"
#include "mixers/linear/linear_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

class PlainLinearAttention final : public linear::LinearAttention {
 public:
  PlainLinearAttention(const HeadsConfig& config, nn::FeatureMap map)
      : LinearAttention("linear_attention", config), map_(map) {}

 protected:
  bool takes_memory() const override { return !causal_; }

  Tensor attend(RecurrentCall& call, const Heads& given) override {
    const Heads heads = linear::wide(given);
    const auto q = nn::apply(map_, heads.q), k = nn::apply(map_, heads.k);
    return attend_features(call, q, k, heads.v).to(given.v.scalar_type());
  }

 private:
  Tensor attend_features(RecurrentCall& call, const Tensor& q, const Tensor& k, const Tensor& v) const {
    if (causal_) {
      ops::LinearChunkOptions options;
      options.normalize = true;
      return call.linear(0, q, k, v, std::nullopt, options);
    }
    require(!call.input.cu_seqlens, "linear_attention: cu_seqlens without causal is not accepted");
    return ops::linear_noncausal(q, k, v, call.input.key_padding, true);
  }

  nn::FeatureMap map_;
};

/// Those that a denominator may be made of.
std::vector<std::string> positive_feature_maps() {
  std::vector<std::string> names;
  for (const auto& name : nn::feature_map_names())
    if (nn::is_positive(nn::feature_map(name))) names.push_back(name);
  return names;
}

}  // namespace

RegistryRow rows::linear_attention() {
  return {
      .name = "linear_attention",
      .family = "linear_and_recurrent",
      .paper = "Transformers are RNNs (arXiv 2006.16236)",
      .year = 2020,
      .patterns = {true, true, true, false},
      .step = true,
      .fixed_state = true,
      .one_way = true,
      .core = true,
      .cost = "O(N)",
      .parameters = linear::heads_parameters(
          {{"feature_map", "elu_plus_one", "of q and k, never negative: elu_plus_one, relu, sigmoid, exp, softmax"}}),
      .small = {{"dim", 24}, {"heads", 3}},
      .make = linear::heads_maker("linear_attention", [](const HeadsConfig& config, ConfigReader& reader) {
        const auto map = reader.choice("feature_map", "elu_plus_one", positive_feature_maps());
        return std::make_shared<PlainLinearAttention>(config, nn::feature_map(map));
      })};
}

}  // namespace heed
