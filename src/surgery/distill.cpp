#include "heed/surgery/distill.h"

#include "heed/error.h"
#include "heed/mixers/taps.h"

namespace heed::surgery {
namespace {

using torch::Tensor;

/// The residual stream behind chosen layers.
class Streams : public Taps {
 public:
  explicit Streams(const std::vector<int64_t>& layers) : layers_(layers) {}
  void block_output(const LayerContext& layer, Tensor& x) override {
    if (std::find(layers_.begin(), layers_.end(), layer.index) != layers_.end()) kept.push_back(x);
  }
  std::vector<Tensor> kept;

 private:
  const std::vector<int64_t>& layers_;
};

}  // namespace

Tensor distill_loss(DecoderLm& teacher, DecoderLm& student, const train::LmBatch& batch,
                    const std::vector<int64_t>& matched, const DistillWeights& w, uint64_t seed) {
  const auto tokens = batch.tokens.narrow(1, 0, batch.tokens.size(1) - 1);
  Streams wanted(matched), given(matched);
  Tensor wanted_logits;
  {
    torch::NoGradGuard no_grad;
    teacher->eval();
    wanted_logits = teacher->forward(tokens, nullptr, 0, &wanted).to(torch::kFloat32);
  }
  const auto logits = student->forward(tokens, nullptr, seed, &given).to(torch::kFloat32);
  require(wanted.kept.size() == matched.size() && given.kept.size() == matched.size(),
          "distillation: {} layers are to be matched, teacher and student have {} and {} of them", matched.size(),
          wanted.kept.size(), given.kept.size());
  const auto mean = [&](const Tensor& losses) {
    return (losses * batch.weights).sum() / batch.weights.sum().clamp_min(1e-6);
  };
  const auto p = wanted_logits.log_softmax(-1), q = logits.log_softmax(-1);
  auto loss = w.labels * mean(-q.gather(2, p.argmax(-1, true)).squeeze(2)) + w.kl * mean((p.exp() * (p - q)).sum(-1));
  for (size_t i = 0; i < matched.size(); ++i)
    loss = loss + w.hidden / double(matched.size()) * (given.kept[i] - wanted.kept[i]).square().mean();
  return loss;
}

}  // namespace heed::surgery
