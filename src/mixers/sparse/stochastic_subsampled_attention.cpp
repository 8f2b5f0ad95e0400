// Dense attention that, while it learns, sees a random part of the keys: another one every step and layer.
#include "heed/error.h"
#include "heed/mixers/subsampling.h"
#include "heed/nn/subsample.h"
#include "mixers/sparse/sparse_mixer.h"

namespace heed {
namespace {

class StochasticSubsampledAttention final : public AttentionMixer, public Subsampling {
 public:
  StochasticSubsampledAttention(const AttentionConfig& config, nn::SubsampleOptions subsample)
      : AttentionMixer("stochastic_subsampled_attention", config), subsample_(subsample) {
    require(config.positions.kind != "alibi" && config.positions.kind != "t5",
            "stochastic_subsampled_attention: positions {} are terms of distance; none, rope, learned or sinusoidal is "
            "accepted",
            config.positions.kind);
  }

  torch::Tensor mix(const CoreInput& in) override {
    const bool drawn = subsampled == When::always || (subsampled == When::training && is_training());
    // What stands behind a state is a step, which sees all.
    if (!drawn || (config_.causal && in.q.size(2) != in.k.size(2))) return AttentionMixer::mix(in);
    require(!in.cu_seqlens && !in.key_sizes,
            "stochastic_subsampled_attention: no cu_seqlens and no sizes are accepted while keys are drawn");
    AttentionOptions options;
    options.scale = config_.scale;
    options.softcap = config_.softcap;
    if (is_training()) options.dropout = config_.dropout;
    options.seed = in.seed;
    return nn::subsampled_attention(in.q, in.k, in.v, options, subsample_, config_.causal, in.seed,
                                    in.key_padding.value_or(torch::Tensor()));
  }

 protected:
  bool serves_caches() const override { return subsampled != When::always; }

 private:
  nn::SubsampleOptions subsample_;
};

}  // namespace

int64_t set_subsampling(torch::nn::Module& model, Subsampling::When when) {
  int64_t layers = 0;
  for (const auto& module : model.modules())
    if (auto* layer = dynamic_cast<Subsampling*>(module.get())) {
      layer->subsampled = when;
      ++layers;
    }
  return layers;
}

SubsamplingScope::SubsamplingScope(torch::nn::Module& model, Subsampling::When when) {
  for (const auto& module : model.modules())
    if (auto* layer = dynamic_cast<Subsampling*>(module.get()))
      before_.emplace_back(module, std::exchange(layer->subsampled, when));
}

SubsamplingScope::~SubsamplingScope() {
  for (const auto& [module, when] : before_) dynamic_cast<Subsampling&>(*module).subsampled = when;
}

RegistryRow rows::stochastic_subsampled_attention() {
  return {.name = "stochastic_subsampled_attention",
          .kind = Kind::strategy,
          .family = "sparse_and_vision",
          .paper = "The Information Pathways Hypothesis: Transformers are Dynamic Self-Ensembles (arXiv 2306.01705)",
          .year = 2023,
          .patterns = {true, true, true, true},
          .step = true,
          .training_free = true,
          .cost = "O(N^2 / c) in training",
          .parameters = attention_parameters(
              {{"reduction", 4, "c: in training every token sees N / c of them"},
               {"sampler", "unbiased", "unbiased: any of them; local: tokens sorted by i + sigma eps, cut into parts"},
               {"sigma", 32.0, "of the local sampler; 0: fixed windows"},
               {"leading", 0, "tokens at the begin that see and are seen by all (class token)"},
               {"evaluate", "dense", "dense, or subsampled: draws of a self-ensemble"}}),
          .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}},
          .make = attention_maker(
              "stochastic_subsampled_attention", [](const AttentionConfig& config, ConfigReader& reader) {
                nn::SubsampleOptions subsample;
                subsample.reduction = reader.integer("reduction", subsample.reduction, 1, 1 << 20);
                const auto sampler = reader.choice("sampler", "unbiased", {"unbiased", "local"});
                const double sigma = reader.get("sigma", 32.0);
                require(sigma >= 0, "stochastic_subsampled_attention: sigma = {}: 0 or more is accepted", sigma);
                subsample.sigma = sampler == "local" ? sigma : -1;
                subsample.leading = reader.integer("leading", 0, 0, 1 << 20);
                auto mixer = std::make_shared<StochasticSubsampledAttention>(config, subsample);
                if (reader.choice("evaluate", "dense", {"dense", "subsampled"}) == "subsampled")
                  mixer->subsampled = Subsampling::When::always;
                return mixer;
              })};
}

}  // namespace heed
