#include "heed/models/vision_pyramid.h"

#include "heed/error.h"
#include "heed/mixers/attention_share.h"
#include "heed/nn/grid.h"

namespace heed {

using torch::Tensor;

PyramidConfig PyramidConfig::growing(const VisionSpec& spec, int64_t count) {
  PyramidConfig config;
  config.image_height = spec.image_height, config.image_width = spec.image_width;
  config.channels = spec.channels, config.patch = spec.patch;
  config.labels = spec.labels, config.dense = spec.dense, config.reducer = spec.reducer;
  for (int64_t s = 1; s <= count; ++s) {
    auto& stage = config.stages.emplace_back(spec.base);
    for (auto* size : {&stage.dim, &stage.heads, &stage.kv_heads, &stage.hidden}) *size *= s;
  }
  return config;
}

Grid PyramidConfig::grid(size_t stage) const {
  Grid grid{{image_height / patch, image_width / patch}};
  for (size_t s = 0; s < stage; ++s)
    for (auto& size : grid.sizes) size = (size + 1) / 2;
  return grid;
}

VisionPyramidImpl::VisionPyramidImpl(PyramidConfig config) : config_(std::move(config)) {
  auto& c = config_;
  require(!c.stages.empty(), "a pyramid has at least one stage");
  require(c.patch > 0 && c.image_height % c.patch == 0 && c.image_width % c.patch == 0,
          "an image of {} x {} does not divide into patches of {}", c.image_height, c.image_width, c.patch);
  torch::NoGradGuard no_grad;
  const auto linear = [](int64_t in, int64_t out) {
    torch::nn::Linear module(in, out);
    module->weight.normal_(0, 0.02);
    module->bias.zero_();
    return module;
  };
  const int64_t first = c.stages[0].dim;
  for (size_t s = 0; s < c.stages.size(); ++s) {
    auto& plan = c.stages[s];
    plan.grid = c.grid(s).sizes;
    plan.max_length = plan.grid[0] * plan.grid[1];
    const auto name = "stage_" + std::to_string(s);
    auto owner = register_module(name, std::make_shared<torch::nn::Module>(name));
    auto& stage = stages_.emplace_back();
    // Cells of the first stage are patches; later ones see a cell's neighbours and keep the border of odd grids.
    auto options = s == 0 ? torch::nn::Conv2dOptions(c.channels, plan.dim, c.patch).stride(c.patch)
                          : torch::nn::Conv2dOptions(c.stages[s - 1].dim, plan.dim, 3).stride(2).padding(1);
    stage.embedding = owner->register_module("embedding", torch::nn::Conv2d(options));
    stage.blocks = make_blocks(*owner, plan, false, torch::kFloat32);
    stage.reducers = make_reducers(*owner, c.reducer, plan);
    stage.norm = owner->register_module("norm", nn::Norm(plan.block.norm, plan.dim, plan.norm_eps));
    if (c.dense) stage.lateral = owner->register_module("lateral", linear(plan.dim, first));
  }
  positions_ = register_parameter("positions", torch::randn({1, c.stages[0].max_length, first}) * 0.02);
  if (c.labels) classifier_ = register_module("classifier", linear(c.dense ? first : c.stages.back().dim, c.labels));
}

std::vector<Tensor> VisionPyramidImpl::features(const Tensor& pixels, uint64_t seed, Taps* taps,
                                                const std::vector<Tensor>& gates) {
  check_pixels(pixels, config_.channels, config_.image_height, config_.image_width);
  require(gates.empty() || gates.size() == stages_.size(), "{} gates of {} stages", gates.size(), stages_.size());
  std::vector<Tensor> features;
  auto image = pixels;
  MixerInput input;
  input.taps = taps;
  input.layer.count = 0;
  for (const auto& stage : stages_) input.layer.count += int64_t(stage.blocks.size());
  for (size_t s = 0; s < stages_.size(); ++s) {
    auto& stage = stages_[s];
    const auto grid = config_.grid(s);
    AttentionShare share;  // layers share within a stage: another one has other cells
    input.share = &share;
    input.grid = grid;
    input.x = nn::to_tokens(stage.embedding(image)).contiguous();
    if (s == 0) input.x = input.x + positions_;
    ReducedStream stream(input, 0, stage.reducers.proportional);
    for (size_t l = 0; l < stage.blocks.size(); ++l) {
      stream.input.layer = input.layer;
      stream.input.seed = seed * 0x9E3779B97F4A7C15ull + uint64_t(input.layer.index);
      stream.run(stage.blocks[l], stage.reducers.at(l));
      ++input.layer.index;
    }
    auto out = stage.norm(stream.restored(stream.input.x));
    if (!gates.empty()) out = out * gates[s];
    features.push_back(out);
    image = nn::to_image(out, grid.sizes[0], grid.sizes[1]).contiguous();
  }
  return features;
}

Tensor VisionPyramidImpl::read(const std::vector<Tensor>& features) {
  if (!config_.dense) return features.back().mean(1, true);
  const auto finest = config_.grid(0).sizes;
  Tensor sum;
  for (size_t s = 0; s < stages_.size(); ++s) {
    auto part = stages_[s].lateral(features[s]);
    if (s > 0) {
      const auto grid = config_.grid(s).sizes;
      const auto image = nn::to_image(part, grid[0], grid[1]).contiguous();
      part = nn::to_tokens(torch::upsample_bilinear2d(image, finest, false));
    }
    sum = sum.defined() ? sum + part : part;
  }
  return sum;
}

Tensor VisionPyramidImpl::answers(const Tensor& states) {
  require(bool(classifier_), "this pyramid has no classifier");
  return classifier_(states);
}

}  // namespace heed
