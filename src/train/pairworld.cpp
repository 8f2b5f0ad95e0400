#include "heed/train/pairworld.h"

#include <algorithm>
#include <numbers>

#include "heed/error.h"

namespace heed::train {
namespace {

using tasks::PairWorld;
using torch::Tensor;

constexpr int64_t kDim = 32, kHeads = 4;

template <class Config>
void size_of(Config& config, int64_t layers) {
  config.dim = kDim;
  config.heads = config.kv_heads = kHeads;
  config.head_dim = kDim / kHeads;
  config.hidden = 64;
  config.layers.resize(size_t(layers));
}

/// Up over the first 30 %, down to nothing along a cosine.
double one_cycle(int64_t step, int64_t steps) {
  const double t = double(step) / double(steps), up = 0.3;
  return t < up ? (t + 1.0 / double(steps)) / up
                : 0.5 * (1 + std::cos(std::numbers::pi * std::min(1.0, (t - up) / (1 - up))));
}

}  // namespace

PairWorldBatch pair_world_batch(const PairWorld& world, tasks::Split split, int64_t first, int64_t size,
                                bool conflict) {
  PairWorldBatch batch;
  batch.pixels = torch::empty({size, PairWorld::kChannels, PairWorld::kSide, PairWorld::kSide});
  batch.tokens = torch::full({size, PairWorld::kMostNamed + 2}, PairWorld::kEnd, torch::kInt64);
  batch.empty = torch::empty({size}, torch::kInt64);
  for (int64_t b = 0; b < size; ++b) {
    const auto sample = world.sample(split, uint64_t(first + b), conflict);
    std::copy(sample.pixels.begin(), sample.pixels.end(), batch.pixels[b].data_ptr<float>());
    std::copy(sample.caption.begin(), sample.caption.end(), batch.tokens[b].data_ptr<int64_t>());
    batch.empty[b] = sample.empty;
    batch.present.push_back(sample.present);
  }
  return batch;
}

VisionText pair_world_model(uint64_t seed) {
  torch::manual_seed(seed);
  VisionConfig vision;
  size_of(vision, 6);
  vision.image_height = vision.image_width = PairWorld::kSide;
  vision.patch_height = vision.patch_width = 1;
  vision.channels = PairWorld::kChannels;
  vision.labels = PairWorld::kObjects;
  DecoderConfig text;
  size_of(text, 3);
  text.vocab_size = PairWorld::kVocabulary;
  text.max_length = 64;
  text.positions.kind = "rope";
  return VisionText(vision, text);
}

Tensor plant_sink(const Tensor& image, const Tensor& kept, const Tensor& empty, double sink) {
  const auto planted = kept.eq(empty.unsqueeze(1)).to(image.scalar_type()).unsqueeze(2) * sink;
  const auto channel = torch::one_hot(torch::tensor(kSinkChannel), image.size(2)).to(image.scalar_type());
  return image + planted * channel;
}

double train_pair_world(VisionText& model, const PairWorld& world, const PairWorldOptions& o,
                        const std::function<void(int64_t step, double loss)>& report) {
  require(o.steps >= 1 && o.batch >= 1, "pairworld: {} steps of {}: 1 or more of both are accepted", o.steps, o.batch);
  namespace F = torch::nn::functional;
  model->train();
  torch::optim::AdamW adamw(model->parameters(), torch::optim::AdamWOptions(o.learning_rate).weight_decay(0.01));
  const auto every_patch = torch::arange(PairWorld::kPatches).expand({o.batch, PairWorld::kPatches});
  const int64_t averaged = std::max<int64_t>(1, o.steps / 10);
  double last = 0;
  for (int64_t t = 0; t < o.steps; ++t) {
    const auto batch = pair_world_batch(world, tasks::Split::train, t * o.batch, o.batch);
    tasks::Random random(tasks::hash64("pairworld text only") + o.seed, uint64_t(t));
    Tensor image, seen;
    if (random.uniform() >= o.text_only) {
      const auto hidden = model->vision->forward(batch.pixels);
      image = plant_sink(model->image_tokens(hidden.slice(1, 1)), every_patch, batch.empty, o.sink);
      auto present = torch::zeros({o.batch, PairWorld::kObjects});
      for (int64_t b = 0; b < o.batch; ++b)
        for (const int64_t object : batch.present[size_t(b)]) present[b][object] = 1;
      seen = F::binary_cross_entropy_with_logits(model->vision->logits(hidden), present);
    }
    const int64_t n = batch.tokens.size(1) - 1;
    const auto targets = batch.tokens.narrow(1, 1, n);
    const auto losses = F::cross_entropy(model->forward(image, batch.tokens.narrow(1, 0, n)).flatten(0, 1),
                                         targets.flatten(), F::CrossEntropyFuncOptions().reduction(torch::kNone));
    // The first end counts, those behind it do not.
    const auto counted = batch.tokens.narrow(1, 0, n).ne(PairWorld::kEnd).to(torch::kFloat32).flatten();
    auto loss = (losses * counted).sum() / counted.sum();
    if (seen.defined()) loss = loss + seen;
    const double value = loss.item<double>();
    require(std::isfinite(value), "pairworld: step {}: the loss is {}", t, value);
    adamw.zero_grad();
    loss.backward();
    torch::nn::utils::clip_grad_norm_(model->parameters(), 1.0);
    static_cast<torch::optim::AdamWOptions&>(adamw.param_groups()[0].options())
        .lr(o.learning_rate * one_cycle(t, o.steps));
    adamw.step();
    if (t >= o.steps - averaged) last += value / double(averaged);
    if (report) report(t, value);
  }
  model->eval();
  return last;
}

}  // namespace heed::train
