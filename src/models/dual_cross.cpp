#include "heed/models/dual_cross.h"

#include <cmath>

#include "heed/error.h"
#include "heed/nn/rollout.h"

namespace heed {
namespace {

using torch::Tensor;

/// Queries see the keys and values of another image behind their own, or none where it is -1.
class PairTaps final : public Taps {
 public:
  explicit PairTaps(const Tensor& partner) : partner_(partner.clamp_min(0)), alone_(partner < 0) {}
  void core_input(const LayerContext&, CoreInput& in) override {
    for (auto* rows : {&in.k, &in.v}) *rows = torch::cat({*rows, rows->index_select(0, partner_)}, 2);
    if (!alone_.any().item<bool>()) return;
    const auto hidden = alone_.unsqueeze(1).expand({-1, in.k.size(2) / 2});
    in.key_padding = torch::cat({torch::zeros_like(hidden), hidden}, 1);
  }

 private:
  Tensor partner_, alone_;
};

}  // namespace

DualCrossImpl::DualCrossImpl(const VisionSpec& spec, const DualCrossConfig& config) : config_(config) {
  spec.check();
  require(config.share > 0 && config.share <= 1, "dual_cross: share = {}: above 0 and at most 1 is accepted",
          config.share);
  for (const auto& layer : spec.base.layers)
    require(layer.mixer == "dense", "dual_cross: mixer {}: dense is accepted, whose maps and keys the branches use",
            layer.mixer);
  auto sizes = vision_config(spec);
  sizes.class_token = true;
  ++sizes.max_length;
  vit = register_module("vit", VisionTransformer(sizes));
  uncertainty = register_parameter("uncertainty", torch::zeros({3}));
  if (!config.local) return;
  TransformerConfig one = sizes;
  one.layers.resize(1);
  auto owner = register_module("local", std::make_shared<torch::nn::Module>("local"));
  local_block = make_blocks(*owner, one, false, torch::kFloat32)[0];
  local_norm = owner->register_module("norm", nn::Norm(one.block.norm, one.dim, one.norm_eps));
  local_classifier = owner->register_module("classifier", torch::nn::Linear(one.dim, spec.labels));
}

DualCrossImpl::Branches DualCrossImpl::branches(const Tensor& pixels, const Tensor& partner, uint64_t seed) {
  const auto run = [&](Taps& taps) {
    MixerInput input;
    input.x = vit->embed(pixels);
    input.taps = &taps;
    return run_blocks(vit->blocks, input, nullptr, seed);
  };
  const auto image = [](const Tensor& tokens) { return tokens.select(1, 0); };
  nn::WeightTaps watched;
  const auto tokens = run(watched);
  Branches result;
  result.self = image(vit->finish(tokens));
  if (config_.local) {
    const int64_t patches = tokens.size(1) - 1;
    const auto most = std::clamp<int64_t>(std::llround(config_.share * double(patches)), 1, patches);
    const auto scores = nn::rollout_row(watched.maps, 0).slice(1, 1);
    const auto asked = std::get<1>(scores.topk(most, 1)) + 1;
    const auto index = asked.unsqueeze(2).expand({-1, -1, tokens.size(2)});
    MixerInput input;
    input.x = torch::cat({tokens.narrow(1, 0, 1), tokens.gather(1, index)}, 1);
    input.memory = local_block->input_norm(tokens);
    result.local = image(local_norm(local_block->forward(input)));
  }
  if (partner.defined()) {
    const int64_t batch = pixels.size(0);
    require(partner.dim() == 1 && partner.size(0) == batch && partner.scalar_type() == torch::kInt64 &&
                (partner >= -1).all().item<bool>() && (partner < batch).all().item<bool>(),
            "dual_cross: partners of shape {}: int64 [{}] of images from 0 to {}, or -1, are accepted",
            c10::str(partner.sizes()), batch, batch - 1);
    PairTaps distracted(partner);
    result.pair = image(vit->finish(run(distracted)));
  }
  return result;
}

Tensor DualCrossImpl::states(const Tensor& pixels, uint64_t seed) {
  const int64_t batch = pixels.size(0);
  Tensor partner;
  if (is_training() && config_.pairs && batch > 1)
    partner = (torch::arange(batch) + 1 + int64_t(seed % uint64_t(batch - 1))) % batch;  // never the image itself
  last_ = branches(pixels, partner, seed);
  const auto states = config_.local ? torch::cat({last_.self, last_.local}, 1) : last_.self;
  if (!is_training()) last_ = {};
  return states.unsqueeze(1);
}

Tensor DualCrossImpl::answers(const Tensor& states) {
  if (!config_.local) return self_answers(states);
  const auto parts = states.chunk(2, -1);
  return torch::logaddexp(torch::log_softmax(self_answers(parts[0]), -1),
                          torch::log_softmax(local_classifier(parts[1]), -1));
}

Tensor DualCrossImpl::training_loss(const Tensor&, const Judge& judge) {
  require(last_.self.defined(), "dual_cross: a loss of training needs images in training");
  std::vector<Tensor> losses{judge(self_answers(last_.self))};
  std::vector<int64_t> which{0};
  if (last_.local.defined()) losses.push_back(judge(local_classifier(last_.local))), which.push_back(1);
  if (last_.pair.defined()) losses.push_back(judge(self_answers(last_.pair))), which.push_back(2);
  const auto w = uncertainty.index_select(0, torch::tensor(which));
  last_ = {};
  return 0.5 * (torch::stack(losses) * torch::exp(-w) + w).sum();
}

}  // namespace heed
