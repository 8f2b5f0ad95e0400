#include <algorithm>

#include "heed/cache/evaluate.h"
#include "heed/error.h"
#include "heed/mixers/attention_mixer.h"
#include "heed/mixers/taps.h"
#include "heed/ops/attn_stats.h"
#include "heed/probe/moa.h"
#include "probe/greedy.h"

namespace heed::probe {
namespace {

using torch::Tensor;

/// The inputs of every plain attention, and a zero beside its output whose gradient is the output's.
class Recorder : public Taps {
 public:
  struct Layer {
    Tensor q, k, v, zero;
  };
  explicit Recorder(size_t layers) : layers(layers) {}

  void core_input(const LayerContext& layer, CoreInput& in) override {
    auto& of = layers[size_t(layer.index)];
    of.q = in.q.detach(), of.k = in.k.detach(), of.v = in.v.detach();
  }
  void core_output(const LayerContext& layer, Tensor& heads) override {
    auto& of = layers[size_t(layer.index)];
    of.zero = torch::zeros_like(heads).detach().requires_grad_();
    heads = heads + of.zero;
  }

  std::vector<Layer> layers;
};

}  // namespace

Tensor influence_of_blocks(DecoderLm model, const Tensor& tokens, int64_t labelled, int64_t block) {
  const auto& config = model->config();
  const int64_t n = tokens.size(1), blocks = (n + block - 1) / block, count = int64_t(config.layers.size());
  require(tokens.size(0) == 1 && labelled >= 1 && labelled < n, "{} labelled of {} tokens: 1 to {} is accepted",
          labelled, n, n - 1);
  model->eval();
  Recorder recorder(config.layers.size());
  std::vector<Tensor> zeros, gradients;
  {
    torch::AutoGradMode with_gradients(true);
    const auto hidden = model->hidden(tokens, nullptr, 0, &recorder).slice(1, n - labelled - 1, n - 1);
    const auto logits = model->logits(hidden)[0].to(torch::kFloat32);
    const auto loss = torch::nn::functional::cross_entropy(logits, tokens[0].slice(0, n - labelled));
    for (const auto& layer : recorder.layers)
      if (layer.zero.defined() && layer.q.defined()) zeros.push_back(layer.zero);
    if (!zeros.empty()) gradients = torch::autograd::grad({loss}, zeros);
  }
  auto influence = torch::zeros({count, config.kv_heads, blocks, blocks}, torch::kFloat64);
  size_t next = 0;
  for (int64_t l = 0; l < count; ++l) {
    const auto& layer = recorder.layers[size_t(l)];
    if (!layer.zero.defined() || !layer.q.defined()) continue;
    const auto& gradient = gradients[next++];
    const auto* mixer = dynamic_cast<const AttentionMixer*>(model->blocks[size_t(l)]->mixer.get());
    if (!mixer || config.layers[size_t(l)].mixer != "dense") continue;
    AttentionOptions options;
    options.mask = Causal{};
    options.scale = mixer->config().scale;
    options.softcap = mixer->config().softcap;
    const auto of_heads = ops::weight_influence(layer.q, layer.k, layer.v, gradient, options, block)[0];
    influence[l] = of_heads.to(torch::kFloat64).unflatten(0, {config.kv_heads, -1}).amax(1);
  }
  return influence;
}

MoaProfile::MoaProfile(int64_t length, const Tensor& influence) : length(length) {
  const int64_t blocks = influence.size(3);
  by_distance = torch::zeros({influence.size(0), influence.size(1), blocks}, torch::kFloat64);
  const auto beyond_first = influence.clone();
  beyond_first.select(3, 0).zero_();
  for (int64_t distance = 0; distance < blocks; ++distance)
    by_distance.select(2, distance).copy_(beyond_first.diagonal(-distance, 2, 3).sum(2));
}

MoaProfile moa_profile(const checkpoint::LanguageModel& lm, int64_t length, const MoaProfileOptions& o,
                       const std::function<void(int64_t done, int64_t total)>& progress) {
  auto parameters = o.parameters;
  parameters["max_tokens"] = length;
  const auto task = tasks::make_text_task(o.task, parameters, cache::token_count(lm));
  const auto full = cache::make_policy("full", {}, cache::shape_of(lm.model->config()));
  Tensor sum;
  int64_t tokens = 0;
  for (int64_t i = 0; i < o.samples; ++i) {
    const auto sample = task->sample(tasks::Split::train, uint64_t(i));
    auto ids = lm.tokenizer.encode(sample.prompt);
    const auto prompt = int64_t(ids.size());
    cache::Session session(lm.model, full);
    greedy_answer(session, lm, std::vector<int64_t>(ids), task->answer_bytes(),
                  [&](int64_t token) { ids.push_back(token); });
    const int64_t answer = int64_t(ids.size()) - prompt;
    if (progress) progress(i + 1, o.samples);
    if (answer == 0) continue;
    const auto influence = influence_of_blocks(lm.model, as_tokens(ids), answer);
    const int64_t blocks = std::max(influence.size(2), sum.defined() ? sum.size(2) : 0);
    const auto grown = [&](const Tensor& x) {
      return torch::constant_pad_nd(x, {0, blocks - x.size(3), 0, blocks - x.size(2)});
    };
    sum = sum.defined() ? grown(sum) + grown(influence) : influence;
    tokens = std::max<int64_t>(tokens, int64_t(ids.size()));
  }
  require(sum.defined(), "task {}: the model answered none of {} prompts of {} tokens, so there is nothing to profile",
          o.task, o.samples, length);
  return MoaProfile(tokens, sum / double(o.samples));
}

}  // namespace heed::probe
