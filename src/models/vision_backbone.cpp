#include "heed/models/vision_backbone.h"

#include <numeric>

#include "heed/error.h"
#include "heed/models/attention_swin_unet.h"
#include "heed/models/dual_cross.h"
#include "heed/models/medusa.h"
#include "heed/models/overlock.h"
#include "heed/models/point_colorization.h"
#include "heed/models/reduced_blocks.h"
#include "heed/models/transformer_in_transformer.h"
#include "heed/models/vision_pyramid.h"
#include "heed/models/vision_unet.h"
#include "heed/names.h"
#include "heed/nn/config.h"

namespace heed {
namespace {

using torch::Tensor;

class VitBackbone final : public VisionBackbone {
 public:
  explicit VitBackbone(const VisionSpec& spec) : dense_(spec.dense) {
    const auto config = vision_config(spec);
    model_ = register_module("model", VisionTransformer(config));
    reducers_ = make_reducers(*this, spec.reducer, config);
    patch_ = spec.patch;
  }
  Tensor states(const Tensor& pixels, uint64_t seed) override { return tokens_and_states(pixels, seed).second; }
  std::pair<Tensor, Tensor> tokens_and_states(const Tensor& pixels, uint64_t seed) override {
    if (reducers_.of_layer.empty()) {
      const auto x = model_->forward(pixels, seed);
      return {x, dense_ ? x : x.mean(1, true)};
    }
    MixerInput input;
    input.x = model_->embed(pixels);
    input.grid = Grid{{pixels.size(2) / patch_, pixels.size(3) / patch_}};
    const auto run =
        run_reduced_blocks(model_->blocks, std::move(input), reducers_.of_layer, 0, seed, reducers_.proportional);
    const auto x = model_->finish(run.x), tokens = run.map.restore(x);
    return {tokens, dense_ ? tokens : mean_of_tokens(x, run.map)};
  }
  Tensor answers(const Tensor& states) override { return model_->logits(states.unsqueeze(-2)); }
  VisionTransformer* transformer() override { return reducers_.of_layer.empty() ? &model_ : nullptr; }

 private:
  bool dense_;
  VisionTransformer model_{nullptr};
  LayerReducers reducers_;
  int64_t patch_;
};

using Made = std::shared_ptr<VisionBackbone>;

Made make_tnt(const VisionSpec& spec, ConfigReader& reader) {
  TntConfig c;
  static_cast<VisionConfig&>(c) = vision_config(spec);
  c.word = reader.integer("word", 1, 1, spec.patch);
  c.word_kernel = reader.integer("word_kernel", 3, 1, 63);
  c.inner = c;
  for (auto& layer : c.inner.layers) layer = {};
  c.inner.heads = c.inner.kv_heads = reader.integer("word_heads", 2, 1, 1 << 10);
  c.inner.dim = reader.integer("word_dim", std::max<int64_t>(c.inner.heads, c.dim / 4), 1, 1 << 16);
  require(c.inner.dim % c.inner.heads == 0,
          "transformer_in_transformer: word_dim = {} is no multiple of word_heads = {}", c.inner.dim, c.inner.heads);
  c.inner.head_dim = c.inner.dim / c.inner.heads;
  c.inner.hidden = 4 * c.inner.dim;
  c.reducer = spec.reducer;
  return Tnt(c, spec.dense).ptr();
}

Made make_swin_unet(const VisionSpec& spec, ConfigReader& reader) {
  static const std::vector<std::string> kReuse{"none", "sum", "product"};
  SwinUnetConfig c;
  c.window = reader.integer("window", c.window, 1, 1024);
  c.scales = reader.integer("scales", c.scales, 2, 8);
  c.depth = reader.integer("depth", c.depth, 1, 64);
  const auto reuse = reader.choice("reuse", "sum", kReuse);
  c.reuse = static_cast<AttentionReuse>(std::find(kReuse.begin(), kReuse.end(), reuse) - kReuse.begin());
  c.skip.depth = reader.integer("exchanges", c.skip.depth, 0, 16);
  c.skip.heads = reader.integer("skip_heads", c.skip.heads, 1, 1 << 10);
  c.skip.head_dim = reader.integer("skip_head_dim", c.skip.head_dim, 1, 1 << 10);
  c.skip.first_cell = reader.get("first_cell", c.skip.first_cell);
  return AttentionSwinUnet(spec, c).ptr();
}

Made make_medusa(const VisionSpec& spec, ConfigReader& reader) {
  MedusaConfig c;
  c.width = reader.integer("width", c.width, 1, 1 << 10);
  c.levels = reader.integer("levels", c.levels, 1, 8);
  c.head_channels = reader.integer("head_channels", c.head_channels, 1, 1 << 10);
  c.shared = reader.get("shared", c.shared);
  c.residual = reader.get("residual", c.residual);
  return Medusa(PyramidConfig::staged(spec, reader.get("stages", nlohmann::json()), reader.owner()), c).ptr();
}

Made make_dual_cross(const VisionSpec& spec, ConfigReader& reader) {
  DualCrossConfig c;
  c.share = reader.get("share", c.share);
  c.local = reader.get("local", c.local);
  c.pairs = reader.get("pairs", c.pairs);
  return DualCross(spec, c).ptr();
}

Made make_overlock(const VisionSpec& spec, ConfigReader& reader) {
  OverlockConfig c;
  c.depth = reader.integer("depth", c.depth, 1, 64);
  c.kernel = reader.integer("kernel", c.kernel, 3, 17);
  c.context = reader.get("context", c.context);
  c.overview_weight = reader.get("overview_weight", c.overview_weight);
  const auto stages = reader.get("stages", nlohmann::json(OverlockConfig::kStages));
  require(stages.is_array() ? stages.size() == OverlockConfig::kStages : stages == OverlockConfig::kStages,
          "overlock: stages = {}: a list of {}, of which the last is the overview, is accepted", stages.dump(),
          OverlockConfig::kStages);
  return Overlock(spec, PyramidConfig::staged(spec, stages, reader.owner()), c).ptr();
}

Made make_point_colorization(const VisionSpec& spec, ConfigReader& reader) {
  static const std::vector<std::string> kHeads{"linear", "convolution", "attention"};
  ColorizationConfig c;
  const auto head = reader.choice("head", "convolution", kHeads);
  c.head = static_cast<ColorizationHead>(std::find(kHeads.begin(), kHeads.end(), head) - kHeads.begin());
  c.relative = reader.get("relative", c.relative);
  return PointColorization(spec, c).ptr();
}

struct Entry {
  std::string name;
  BackboneTraits traits;
  Made (*make)(const VisionSpec&, ConfigReader&);
};

constexpr BackboneTraits kReducing{.reduces = true};

const std::vector<Entry>& entries() {
  static const std::vector<Entry> table = {
      {"vit", kReducing,
       [](const VisionSpec& given, ConfigReader& reader) -> Made {
         auto spec = given;
         spec.patch_positions = reader.get("positions", spec.patch_positions);
         return std::make_shared<VitBackbone>(spec);
       }},
      {"pyramid", kReducing,
       [](const VisionSpec& spec, ConfigReader& reader) -> Made {
         return VisionPyramid(PyramidConfig::staged(spec, reader.get("stages", nlohmann::json()), reader.owner()))
             .ptr();
       }},
      {"unet", kReducing,
       [](const VisionSpec& spec, ConfigReader& reader) -> Made {
         return VisionUnet(spec, reader.integer("scales", 3, 1, 16)).ptr();
       }},
      {"transformer_in_transformer", kReducing, make_tnt},
      {"cross_contextual_attention", kReducing, make_swin_unet},
      {"medusa_attention", kReducing, make_medusa},
      {"overlock", kReducing, make_overlock},
      {"dual_cross_attention_learning", {true, false, false}, make_dual_cross},
      {"point_colorization", {false, true, true, true}, make_point_colorization},
  };
  return table;
}

/// What settings that all backbones know say of the blocks of `spec`.
void read_blocks(ConfigReader& reader, VisionSpec& spec) {
  auto& layers = spec.base.layers;
  const auto each = [&](const char* what, const std::vector<int64_t>& numbers, const auto& change) {
    for (const int64_t number : numbers) {
      require(number >= 0 && number < int64_t(layers.size()), "{}: {} of layer {}: 0 to {} is accepted", reader.owner(),
              what, number, layers.size() - 1);
      change(layers[size_t(number)]);
    }
  };
  if (const auto local = reader.object("local_conv"); !local.empty()) {
    ConfigReader own(reader.owner() + ": local_conv", local);
    std::vector<int64_t> all(layers.size());
    std::iota(all.begin(), all.end(), 0);
    const auto name = own.get<std::string>("name", {});
    require(!name.empty(), "{}: local_conv = {}: an object with the name of a convolution is accepted", reader.owner(),
            local.dump());
    const bool channels = own.get("channels", false);
    each("local_conv", own.get("layers", all), [&](LayerPlan& layer) {
      layer.before_tokens = name;
      if (channels) layer.before_channels = name;
    });
    own.finish();
  }
  each("one_residual", reader.get("one_residual", std::vector<int64_t>{}),
       [](LayerPlan& layer) { layer.one_residual = true; });
  spec.base.shared_norm = reader.get("shared_norm", spec.base.shared_norm);
  auto& block = spec.base.block;
  const std::vector<std::string> kinds(formats::kNormKindNames.begin(), formats::kNormKindNames.end());
  const auto norm = reader.choice("norm", std::string(name_of(block.norm)), kinds);
  block.norm = static_cast<formats::NormKind>(std::find(kinds.begin(), kinds.end(), norm) - kinds.begin());
  block.layer_scale = reader.get("layer_scale", block.layer_scale);
  require(spec.reducer.empty() || block.norm != formats::NormKind::batch,
          "{}: norm = batch and a reducer: its statistics would count tokens that have gone", reader.owner());
}

const Entry& entry_of(const std::string& name) {
  for (const auto& entry : entries())
    if (entry.name == name) return entry;
  fail("unknown backbone {}: {}", name, suggest(name, backbone_names()));
}

}  // namespace

void VisionSpec::check() const {
  require(patch > 0 && image_height > 0 && image_width > 0 && image_height % patch == 0 && image_width % patch == 0,
          "an image of {} x {} does not divide into patches of {}", image_height, image_width, patch);
}

VisionConfig vision_config(const VisionSpec& spec) {
  VisionConfig config;
  static_cast<TransformerConfig&>(config) = spec.base;
  config.image_height = spec.image_height, config.image_width = spec.image_width;
  config.patch_height = config.patch_width = spec.patch;
  config.channels = spec.channels;
  config.class_token = false;
  config.patch_positions = spec.patch_positions;
  config.labels = spec.labels;
  config.max_length = config.patches();
  return config;
}

void check_pixels(const Tensor& pixels, int64_t channels, int64_t height, int64_t width) {
  require(pixels.dim() == 4 && pixels.size(1) == channels && pixels.size(2) == height && pixels.size(3) == width,
          "pixels do not fit: [batch, {}, {}, {}] is accepted", channels, height, width);
}

std::vector<std::string> backbone_names() {
  std::vector<std::string> names;
  for (const auto& entry : entries()) names.push_back(entry.name);
  return names;
}

BackboneTraits traits_of(const std::string& backbone) { return entry_of(backbone).traits; }

std::shared_ptr<VisionBackbone> make_backbone(const std::string& name, const VisionSpec& given) {
  const auto& entry = entry_of(name);
  given.check();
  auto spec = given;
  require(spec.dense ? entry.traits.patches : entry.traits.images, "{}: it has no answers for {}", name,
          spec.dense ? "patches" : "whole images");
  ConfigReader reader(name, spec.settings);
  if (auto reducer = reader.object("reducer"); !reducer.empty()) spec.reducer = std::move(reducer);
  require(spec.reducer.empty() || entry.traits.reduces, "{}: no reducer is accepted: it needs all of its tokens", name);
  read_blocks(reader, spec);
  const auto made = entry.make(spec, reader);
  reader.finish();
  return made;
}

}  // namespace heed
