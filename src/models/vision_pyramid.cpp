#include "heed/models/vision_pyramid.h"

#include <fmt/format.h>

#include <algorithm>

#include "heed/error.h"
#include "heed/mixers/attention_share.h"
#include "heed/models/bare_block.h"
#include "heed/nn/config.h"
#include "heed/nn/grid.h"
#include "heed/nn/start.h"

namespace heed {

using torch::Tensor;

namespace {

constexpr int64_t kMostStages = 16;

/// `mixer` and `set` of an object; without a name where it has none.
LayerPlan read_plan(ConfigReader& reader) {
  LayerPlan plan;
  plan.mixer = reader.get<std::string>("mixer", {});
  plan.config = reader.object("set");
  require(plan.config.is_object(), "{}: set = {}: an object of the mixer's parameters is accepted", reader.owner(),
          plan.config.dump());
  require(!plan.mixer.empty() || plan.config.empty(), "{}: set = {}: the name of its mixer stands beside it",
          reader.owner(), plan.config.dump());
  return plan;
}

/// An object of nothing else.
LayerPlan named_plan(const std::string& owner, const nlohmann::json& json) {
  ConfigReader reader(owner, json);
  auto plan = read_plan(reader);
  require(!plan.mixer.empty(), "{} = {}: an object with the name of a mixer is accepted", owner, json.dump());
  reader.finish();
  return plan;
}

/// The layers that `mixer` and `set`, or `layers`, name; empty where none does.
std::vector<LayerPlan> named_layers(ConfigReader& reader) {
  std::vector<LayerPlan> plans;
  if (auto one = read_plan(reader); !one.mixer.empty()) plans.push_back(std::move(one));
  const auto given = reader.get("layers", nlohmann::json());
  if (given.is_null()) return plans;
  require(plans.empty(), "{}: mixer and layers: one of the two is accepted", reader.owner());
  require(given.is_array() && !given.empty(), "{}: layers = {}: a list of objects with mixer and set is accepted",
          reader.owner(), given.dump());
  for (const auto& each : given)
    plans.push_back(named_plan(fmt::format("{}: layers[{}]", reader.owner(), plans.size()), each));
  return plans;
}

/// What an object of a list of stages says of one, which `plan` is without it.
void read_stage(ConfigReader& reader, TransformerConfig& plan) {
  const int64_t before = plan.dim, group = plan.heads / plan.kv_heads;
  plan.dim = reader.integer("width", plan.dim, 1, 1 << 16);
  const bool alike = plan.dim % plan.head_dim == 0;
  const int64_t heads = reader.integer("heads", alike ? plan.dim / plan.head_dim : 0, 0, 1 << 12);
  if (plan.dim != before || heads != plan.heads) {
    require(heads > 0, "{}: width = {}: no multiple of the {} channels of a head: heads is needed", reader.owner(),
            plan.dim, plan.head_dim);
    require(plan.dim % heads == 0 && heads % group == 0,
            "{}: heads = {}: a multiple of {} that divides width = {} is accepted", reader.owner(), heads, group,
            plan.dim);
    plan.heads = heads, plan.kv_heads = heads / group, plan.head_dim = plan.dim / heads;
  }
  plan.hidden = reader.integer("hidden", std::max<int64_t>(1, plan.hidden * plan.dim / before), 1, 1 << 20);
  plan.block.channel_mixer = reader.get("channel_mixer", plan.block.channel_mixer);
  const auto plans = named_layers(reader);
  const auto usual = plan.layers;
  const auto depth = reader.integer("depth", int64_t(plans.size() > 1 ? plans.size() : usual.size()), 1, 256);
  plan.layers.clear();
  for (size_t l = 0; l < size_t(depth); ++l) {
    auto layer = usual[l % usual.size()];
    if (!plans.empty()) layer.mixer = plans[l % plans.size()].mixer, layer.config = plans[l % plans.size()].config;
    plan.layers.push_back(std::move(layer));
  }
}

}  // namespace

PyramidConfig PyramidConfig::staged(const VisionSpec& spec, const nlohmann::json& stages, const std::string& owner) {
  if (!stages.is_array()) {
    ConfigReader reader(owner, nlohmann::json::object({{"stages", stages}}));
    return growing(spec, reader.integer("stages", 4, 1, kMostStages));
  }
  require(!stages.empty() && int64_t(stages.size()) <= kMostStages, "{}: {} stages: 1 to {} are accepted", owner,
          stages.size(), kMostStages);
  require(!spec.base.layers.empty(), "{}: a stage has at least one layer", owner);
  auto config = growing(spec, int64_t(stages.size()));
  for (size_t s = 0; s < stages.size(); ++s) {
    ConfigReader reader(fmt::format("{}: stages[{}]", owner, s), stages[s]);
    read_stage(reader, config.stages[s]);
    if (const auto given = reader.get("downsampling", nlohmann::json()); !given.is_null()) {
      config.downsampling.resize(stages.size(), {""});
      config.downsampling[s] = named_plan(reader.owner() + ": downsampling", given);
    }
    reader.finish();
  }
  return config;
}

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
  require(c.downsampling.empty() || c.downsampling.size() == c.stages.size(), "{} ways of downsampling for {} stages",
          c.downsampling.size(), c.stages.size());
  require(c.patch > 0 && c.image_height % c.patch == 0 && c.image_width % c.patch == 0,
          "an image of {} x {} does not divide into patches of {}", c.image_height, c.image_width, c.patch);
  torch::NoGradGuard no_grad;
  const int64_t first = c.stages[0].dim;
  for (size_t s = 0; s < c.stages.size(); ++s) {
    auto& plan = c.stages[s];
    plan.grid = c.grid(s).sizes;
    plan.max_length = plan.grid[0] * plan.grid[1];
    const auto name = "stage_" + std::to_string(s);
    auto owner = register_module(name, std::make_shared<torch::nn::Module>(name));
    auto& stage = stages_.emplace_back();
    const auto* downsampling = c.downsampling.empty() ? nullptr : &c.downsampling.at(s);
    if (downsampling && !downsampling->mixer.empty()) {
      require(s > 0, "the first stage of a pyramid cuts patches: downsampling {} is not accepted", downsampling->mixer);
      auto before = c.stages[s - 1];
      before.layers = {*downsampling};
      stage.downsampling = owner->register_module("downsampling", make_layer_mixer(before, 0, false));
      stage.widening = owner->register_module("widening", nn::started_linear(before.dim, plan.dim));
    } else {
      // Cells of the first stage are patches; later ones see a cell's neighbours and keep the border of odd grids.
      auto options = s == 0 ? torch::nn::Conv2dOptions(c.channels, plan.dim, c.patch).stride(c.patch)
                            : torch::nn::Conv2dOptions(c.stages[s - 1].dim, plan.dim, 3).stride(2).padding(1);
      stage.embedding = owner->register_module("embedding", torch::nn::Conv2d(options));
    }
    stage.blocks = make_blocks(*owner, plan, false, torch::kFloat32);
    stage.reducers = make_reducers(*owner, c.reducer, plan);
    stage.norm = owner->register_module("norm", nn::Norm(plan.block.norm, plan.dim, plan.norm_eps));
    if (c.dense) stage.lateral = owner->register_module("lateral", nn::started_linear(plan.dim, first));
  }
  positions_ = register_parameter("positions", nn::started_rows({1, c.stages[0].max_length, first}));
  if (c.labels)
    classifier_ = register_module("classifier", nn::started_linear(c.dense ? first : c.stages.back().dim, c.labels));
}

Tensor VisionPyramidImpl::enter(size_t s, const Tensor& image, const MixerInput& call) {
  auto& stage = stages_[s];
  if (stage.embedding) return nn::to_tokens(stage.embedding(image)).contiguous();
  MixerInput input;
  input.x = nn::to_tokens(image).contiguous();
  input.grid = config_.grid(s - 1);
  input.layer = call.layer;
  input.seed = call.seed;
  const auto fewer = stage.downsampling->forward(input);
  const auto grid = config_.grid(s).sizes;
  require(fewer.size(1) == grid[0] * grid[1],
          "downsampling {}: {} tokens of {}; {} x {}, every second of either axis, are accepted",
          config_.downsampling[s].mixer, fewer.size(1), input.x.size(1), grid[0], grid[1]);
  return stage.widening(fewer);
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
    input.seed = seed * 0x9E3779B97F4A7C15ull + s;
    input.x = enter(s, image, input);
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
