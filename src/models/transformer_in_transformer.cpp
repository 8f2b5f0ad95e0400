#include "heed/models/transformer_in_transformer.h"

#include "heed/error.h"
#include "heed/mixers/attention_share.h"
#include "heed/nn/grid.h"
#include "heed/nn/patches.h"
#include "heed/nn/start.h"

namespace heed {

using torch::Tensor;

Grid TntConfig::words() const { return {{(patch_height + word - 1) / word, (patch_width + word - 1) / word}}; }

TntImpl::TntImpl(TntConfig config, bool dense) : config_(std::move(config)), dense_(dense) {
  auto& c = config_;
  require(c.image_height % c.patch_height == 0 && c.image_width % c.patch_width == 0,
          "an image of {} x {} does not divide into patches of {} x {}", c.image_height, c.image_width, c.patch_height,
          c.patch_width);
  require(c.word > 0 && c.word_kernel % 2 == 1, "words of {} pixels from {}; 1 or more from an odd number are accepted",
          c.word, c.word_kernel);
  require(c.inner.layers.size() == c.layers.size(), "{} blocks over words and {} over patches; as many are accepted",
          c.inner.layers.size(), c.layers.size());
  torch::NoGradGuard no_grad;
  const auto sizes = c.words().sizes;
  const int64_t words = sizes[0] * sizes[1], tokens = c.patches() + int64_t(c.class_token);
  c.inner.max_length = words, c.max_length = tokens;
  c.inner.grid = sizes, c.grid = {c.image_height / c.patch_height, c.image_width / c.patch_width};
  const auto options = torch::nn::Conv2dOptions(c.channels, c.inner.dim, c.word_kernel);
  word_embedding_ = register_module(
      "word_embedding", torch::nn::Conv2d(torch::nn::Conv2dOptions(options).stride(c.word).padding(c.word_kernel / 2)));
  word_positions_ = register_parameter("word_positions", nn::started_rows({1, words, c.inner.dim}));
  if (c.class_token) class_token_ = register_parameter("class_token", nn::started_rows({1, 1, c.dim}));
  positions_ = register_parameter("positions", nn::started_rows({1, tokens, c.dim}));
  first_ = make_fold("first_fold", true);
  auto owner = register_module("inner", std::make_shared<torch::nn::Module>("inner"));
  inner_ = make_blocks(*owner, c.inner, false, torch::kFloat32);
  blocks_ = make_blocks(*this, c, false, torch::kFloat32);
  reducers_ = make_reducers(*this, c.reducer, c);
  for (size_t l = 0; l < blocks_.size(); ++l) folds_.push_back(make_fold("fold_" + std::to_string(l), false));
  norm_ = register_module("norm", nn::Norm(c.block.norm, c.dim, c.norm_eps));
  if (c.labels == 0) return;
  classifier_ = register_module("classifier", nn::started_linear(c.dim, c.labels));
}

TntImpl::Fold TntImpl::make_fold(const std::string& name, bool bias) {
  const auto& c = config_;
  auto owner = register_module(name, std::make_shared<torch::nn::Module>(name));
  Fold fold;
  const int64_t inputs = word_positions_.size(1) * c.inner.dim;
  fold.word_norm = owner->register_module("word_norm", nn::Norm(c.block.norm, c.inner.dim, c.norm_eps));
  fold.map = owner->register_module("map", nn::started_linear(inputs, c.dim, bias));
  fold.norm = owner->register_module("norm", nn::Norm(c.block.norm, c.dim, c.norm_eps));
  return fold;
}

Tensor TntImpl::Fold::operator()(const Tensor& words) { return norm(map(word_norm(words).flatten(1))); }

Tensor TntImpl::cut_words(const Tensor& pixels) {
  const auto& c = config_;
  check_pixels(pixels, c.channels, c.image_height, c.image_width);
  // Patches before words: a word at a patch's border sees zeros, not the neighbour.
  const auto patches = nn::to_patches(pixels, c.patch_height, c.patch_width).flatten(0, 1).contiguous();
  return nn::to_tokens(word_embedding_(patches)).contiguous() + word_positions_;
}

TntImpl::Streams TntImpl::forward(const Tensor& pixels, uint64_t seed) {
  const auto& c = config_;
  MixerInput words, patches;
  words.x = cut_words(pixels);
  words.grid = c.words();
  const auto by_image = [&](const Tensor& folded) { return folded.view({pixels.size(0), -1, c.dim}); };
  patches.x = by_image(first_(words.x));
  const int64_t before = int64_t(c.class_token);
  if (c.class_token) patches.x = torch::cat({class_token_.expand({pixels.size(0), 1, c.dim}), patches.x}, 1);
  patches.x = patches.x + positions_;
  if (!c.class_token) patches.grid = Grid{{c.image_height / c.patch_height, c.image_width / c.patch_width}};
  AttentionShare of_words, of_patches;
  words.share = &of_words, patches.share = &of_patches;
  ReducedStream stream(patches, before, reducers_.proportional);
  for (size_t l = 0; l < blocks_.size(); ++l) {
    words.layer = stream.input.layer = {int64_t(l), int64_t(blocks_.size())};
    words.seed = stream.input.seed = seed * 0x9E3779B97F4A7C15ull + l;
    words.x = inner_[l]->forward(words);
    // Merged patches get the mean of what their words say.
    const auto folded = torch::constant_pad_nd(by_image(folds_[l](words.x)), {0, 0, before, 0});
    stream.input.x = stream.input.x + stream.reduced(folded);
    stream.run(blocks_[l], reducers_.at(l));
  }
  return {words.x, norm_(stream.input.x), stream.map};
}

Tensor TntImpl::states(const Tensor& pixels, uint64_t seed) {
  const auto [words, x, map] = forward(pixels, seed);
  const bool reduces = !reducers_.of_layer.empty();
  if (dense_) return (reduces ? map.restore(x) : x).slice(1, int64_t(config_.class_token));
  if (config_.class_token) return x.narrow(1, 0, 1);
  return reduces ? mean_of_tokens(x, map) : x.mean(1, true);
}

Tensor TntImpl::answers(const Tensor& states) {
  require(bool(classifier_), "this model has no classifier");
  return classifier_(states);
}

}  // namespace heed
