#include "formats/architectures/encoders.h"

namespace heed::formats {
namespace {

// One number for both sides, or height and width.
void read_sides(ConfigFields& fields, std::string_view key, int64_t& height, int64_t& width) {
  const auto* json = fields.find(key);
  if (!json) return;
  if (!json->is_array()) {
    height = width = fields.as_whole(key, *json);
    return;
  }
  if (json->size() != 2) fields.wrong(key, *json, "a whole number, or height and width");
  height = fields.as_whole(key, (*json)[0]);
  width = fields.as_whole(key, (*json)[1]);
}

}  // namespace

void read_vit(ConfigFields& fields, VisionModelConfig& config) {
  config.norm_eps = 1e-12;
  read_even_sizes(fields, config);
  fields.real("layer_norm_eps", config.norm_eps);
  config.block = {NormKind::layer, NormPlacement::pre, "mlp", Activation::gelu, true};
  read_activation(fields, "hidden_act", config);
  config.attention.qkv_bias = config.attention.output_bias = true;
  fields.flag("qkv_bias", config.attention.qkv_bias);
  read_sides(fields, "image_size", config.image_height, config.image_width);
  read_sides(fields, "patch_size", config.patch_height, config.patch_width);
  fields.whole("num_channels", config.num_channels);
  fields.only("pooler_act", {"tanh"});
  fields.only("pooler_output_size", {config.hidden_size});
  if (config.architecture == "ViTForImageClassification") {
    config.num_labels = 2;
    if (const auto* names = fields.find("id2label")) {
      if (!names->is_object()) fields.wrong("id2label", *names, "an object with one name a class");
      config.num_labels = static_cast<int64_t>(names->size());
    }
  }
  read_storage(fields, config);
}

}  // namespace heed::formats
