#include "heed/steer/flow_cut.h"

#include <algorithm>
#include <cmath>

#include "heed/error.h"
#include "heed/mixers/attention_mixer.h"
#include "heed/mixers/taps.h"
#include "heed/tasks/random.h"

namespace heed::steer {
namespace {

using torch::Tensor;

/// What a layer's attention tells of the patches.
struct Flow : Taps {
  void core_input(const LayerContext&, CoreInput& core) override {
    const auto wide = [](const Tensor& x) { return x.to(torch::kFloat32); };
    const int64_t group = core.q.size(1) / core.k.size(1);
    const auto q = wide(core.q), k = wide(core.k).repeat_interleave(group, 1), v = wide(core.v);
    const auto own = [&](const Tensor& x) { return class_token ? x.narrow(2, 0, 1) : x.mean(2, true); };
    const auto patches = [&](const Tensor& x) { return class_token ? x.slice(-1, 1) : x; };
    const double factor = scale != 0 ? scale : 1 / std::sqrt(double(q.size(3)));
    auto logits = factor * own(q).matmul(k.transpose(2, 3));
    if (softcap > 0) logits = softcap * torch::tanh(logits / softcap);
    weights = patches(logits.softmax(3).mean(1).squeeze(1));
    const auto likeness = patches(own(v).matmul(v.transpose(2, 3)).softmax(3).mean(1).squeeze(1));
    const auto size = patches(v.mean(1).abs().sum(2));
    const auto share = [](const Tensor& x) { return x / x.sum(1, true).clamp_min(1e-12); };
    score = (share(weights) + share(likeness)) * size;
  }

  bool class_token = true;
  double scale = 0, softcap = 0;
  Tensor weights, score;  // float [B, N] of the patches
};

/// Layers one after the other over patches that may leave in between.
class Encoder {
 public:
  Encoder(VisionTransformer& model, const Tensor& x, const FlowCutOptions& o) : model_(model), x_(x) {
    const auto& config = model->config();
    const auto layers = int64_t(model->blocks.size());
    select_ = o.select < 0 ? layers + o.select : o.select;
    require(select_ >= 0 && select_ < layers, "flow_cut: select = {} of {} layers", o.select, layers);
    require(o.target >= 1, "flow_cut: target = {}: 1 or more is accepted", o.target);
    require(config.positions.kind == "none", "flow_cut: {} positions would follow the patches that are left",
            config.positions.kind);
    require(x.dim() == 3 && x.size(1) > int64_t(config.class_token) && x.size(2) == config.dim,
            "flow_cut: tokens [batch, patches, {}] are accepted", config.dim);
    first_ = config.class_token;
    flow_.class_token = config.class_token;
    kept_ = torch::arange(patches()).expand({x.size(0), patches()});
  }

  int64_t select() const { return select_; }
  int64_t patches() const { return x_.size(1) - first_; }
  const Flow& flow() const { return flow_; }

  void run(int64_t layer) {
    const auto* mixer = dynamic_cast<const AttentionMixer*>(model_->blocks[size_t(layer)]->mixer.get());
    require(mixer, "flow_cut: layer {} is no softmax attention", layer);
    flow_.scale = mixer->config().scale;
    flow_.softcap = mixer->config().softcap;
    MixerInput input;
    input.x = x_;
    input.layer = {layer, int64_t(model_->blocks.size())};
    input.taps = &flow_;
    x_ = model_->blocks[size_t(layer)]->forward(input);
  }

  /// The `count` patches with the largest scores [B, N] remain, of equals the first, in their order; returns where they
  /// were.
  Tensor keep(const Tensor& scores, int64_t count) {
    const auto best = scores.argsort(/*stable=*/true, 1, /*descending=*/true).narrow(1, 0, count);
    const auto index = std::get<0>(best.sort(1));
    kept_ = kept_.gather(1, index);
    const auto of = index.unsqueeze(2).expand({-1, -1, x_.size(2)});
    x_ = torch::cat({x_.slice(1, 0, first_), x_.slice(1, first_).gather(1, of)}, 1);
    return index;
  }

  FlowCut finish(std::vector<int64_t> counts) {
    FlowCut cut;
    cut.features = x_.slice(1, first_);
    cut.kept = kept_;
    cut.counts = std::move(counts);
    for (int64_t l = select_ + 1; l < int64_t(model_->blocks.size()); ++l) run(l);
    cut.hidden = model_->finish(x_);
    return cut;
  }

 private:
  VisionTransformer& model_;
  Tensor x_, kept_;
  Flow flow_;
  int64_t select_ = 0, first_ = 1;
};

/// All layers up to the features over all patches, then those that `scores` favours.
template <class Scores>
FlowCut cut_at_the_end(VisionTransformer& model, const Tensor& x, const FlowCutOptions& options, Scores scores) {
  torch::NoGradGuard no_grad;
  model->eval();
  Encoder encoder(model, x, options);
  std::vector<int64_t> counts;
  for (int64_t l = 0; l <= encoder.select(); ++l) {
    encoder.run(l);
    counts.push_back(encoder.patches());
  }
  encoder.keep(scores(encoder), std::min(options.target, encoder.patches()));
  counts.back() = encoder.patches();
  return encoder.finish(std::move(counts));
}

}  // namespace

int64_t patches_to_cut(const Tensor& class_weights, int64_t target, int64_t left) {
  const int64_t n = class_weights.size(1);
  if (n <= target) return 0;
  if (left <= 0) return n - target;
  const auto w = class_weights.to(torch::kFloat64);
  const auto p = (w / w.sum(1, true)).clamp_min(1e-12);
  const auto entropy = -(p * p.log()).sum(1) / std::log(double(n));
  const double least = std::clamp(entropy.min().item<double>(), 0.0, 1.0);
  return std::llround(double(n - target) / std::sqrt(double(left)) * (1 - least * least));
}

FlowCut flow_cut(VisionTransformer& model, const Tensor& x, const FlowCutOptions& options) {
  torch::NoGradGuard no_grad;
  model->eval();
  Encoder encoder(model, x, options);
  Tensor score;
  std::vector<int64_t> counts;
  for (int64_t l = 0; l <= encoder.select(); ++l) {
    encoder.run(l);
    const auto& now = encoder.flow().score;
    score = score.defined() ? 0.5 * score + 0.5 * now : now;
    const int64_t left = encoder.select() - l - 1;
    if (left >= 0 && left % 2 == 0) {
      const int64_t cut = patches_to_cut(encoder.flow().weights, options.target, left);
      if (cut > 0) score = score.gather(1, encoder.keep(score, encoder.patches() - cut));
    }
    counts.push_back(encoder.patches());
  }
  return encoder.finish(std::move(counts));
}

FlowCut cut_by_class_attention(VisionTransformer& model, const Tensor& x, const FlowCutOptions& options) {
  return cut_at_the_end(model, x, options, [](const Encoder& encoder) { return encoder.flow().weights; });
}

FlowCut cut_at_random(VisionTransformer& model, const Tensor& x, const FlowCutOptions& options, uint64_t seed) {
  return cut_at_the_end(model, x, options, [&](const Encoder& encoder) {
    auto scores = torch::empty({x.size(0), encoder.patches()});
    tasks::Random random(tasks::hash64("patches"), seed);
    for (int64_t i = 0; i < scores.numel(); ++i) scores.data_ptr<float>()[i] = float(random.uniform());
    return scores;
  });
}

}  // namespace heed::steer
