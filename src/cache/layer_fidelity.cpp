#include "heed/cache/layer_fidelity.h"

#include <algorithm>
#include <cmath>

#include "heed/error.h"

namespace heed::cache {
namespace {

using torch::Tensor;

/// A full cache that gives what it sees to a policy's cache of the same layer, and compares.
class Compared : public LayerCache {
 public:
  Compared(std::unique_ptr<MixerState> policy, int64_t k)
      : state_(std::move(policy)), policy_(dynamic_cast<LayerCache*>(state_.get())), k_(k) {
    policy_->record_reads(true);
  }

  LayerLoss loss() const {
    const double n = double(std::max<int64_t>(count_, 1));
    return {layer_, mass_ / n, kl_ / n, recall_ / n, error_ / n};
  }

 protected:
  Tensor attend_chunk(const Chunk& chunk) override {
    policy_->attend(chunk.call);
    return LayerCache::attend_chunk(chunk);
  }

  Tensor attend_step(const Chunk& chunk) override {
    layer_ = chunk.call.layer.index;
    const auto given = policy_->attend(chunk.call).to(torch::kFloat64);
    const auto result = decode(chunk.q, everything(), decode_options(chunk, chunk.call.options.mask));
    const auto exact = result.out.to(torch::kFloat64);
    const auto weights = attention_weights(chunk.q, kv_.keys(), result.lse.squeeze(3), torch::zeros({1}, torch::kInt64),
                                           chunk.call.options)
                             .squeeze(2)
                             .to(torch::kFloat64);  // [B, Hq, M]
    const auto read = policy_->tokens_read();
    // The weights sum to 1 up to the rounding of float32; their own sum makes the mass of everything 1.
    const auto mass = (weights * read).sum(2) / weights.sum(2);
    mass_ += mass.sum().item<double>();
    kl_ -= mass.log().sum().item<double>();
    const auto largest = std::get<1>(weights.topk(std::min(k_, weights.size(2)), 2));
    recall_ += read.gather(2, largest).to(torch::kFloat64).mean(2).sum().item<double>();
    error_ += ((given - exact).norm(2, {3}) / exact.norm(2, {3}).clamp_min(1e-300)).sum().item<double>();
    count_ += mass.numel();
    return result.out;
  }

  void compress() override { policy_->finish_prompt(); }

 private:
  std::unique_ptr<MixerState> state_;
  LayerCache* policy_;
  int64_t k_, layer_ = 0, count_ = 0;
  double mass_ = 0, kl_ = 0, recall_ = 0, error_ = 0;
};

}  // namespace

std::vector<LayerLoss> layer_losses(const DecoderLm& model, const Policy& policy, const Tensor& tokens, int64_t prompt,
                                    int64_t k) {
  require(tokens.dim() == 2 && tokens.size(0) == 1 && prompt > 0 && prompt < tokens.size(1),
          "{} tokens with a prompt of {}: one sequence with steps behind its prompt is accepted",
          tokens.dim() == 2 ? tokens.size(1) : 0, prompt);
  require(k >= 1, "k = {}: 1 or more is accepted", k);
  Session session(model, policy);
  std::vector<Compared*> all;
  for (auto& layer : session.state().layers) {
    auto* cache = dynamic_cast<LayerCache*>(layer.get());
    if (!cache) continue;
    auto compared = std::make_unique<Compared>(std::move(layer), k);
    all.push_back(compared.get());
    layer = std::move(compared);
  }
  session.prefill(tokens.narrow(1, 0, prompt), tokens.size(1));
  session.finish_prompt();
  for (int64_t i = prompt; i < tokens.size(1); ++i) session.step(tokens.select(1, i));
  std::vector<LayerLoss> losses;
  for (const auto* compared : all) losses.push_back(compared->loss());
  return losses;
}

}  // namespace heed::cache
