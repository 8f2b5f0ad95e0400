#include "heed/formats/block_config.h"

#include <vector>

#include "formats/config_fields.h"
#include "heed/error.h"
#include "heed/names.h"

namespace heed::formats {

BlockConfig named_block(std::string_view name) {
  if (name == "llama") return {};
  if (name == "gpt2") return {NormKind::layer, NormPlacement::pre, "mlp", Activation::gelu_tanh, true};
  if (name == "transnormer") return {NormKind::srms, NormPlacement::pre, "gated_mlp", Activation::identity, false};
  static const std::vector<std::string> kNames{"llama", "gpt2", "transnormer"};
  fail("unknown block {}: {}", name, suggest(std::string(name), kNames));
}

nlohmann::ordered_json to_json(const BlockConfig& block) {
  nlohmann::ordered_json json{{"norm", name_of(block.norm)},
                              {"placement", name_of(block.placement)},
                              {"channel_mixer", block.channel_mixer},
                              {"activation", name_of(block.activation)}};
  if (block.layer_scale != 0) json["layer_scale"] = block.layer_scale;
  return json;
}

nlohmann::ordered_json to_json(const AttentionTraits& a) {
  return {{"qkv_bias", a.qkv_bias},
          {"output_bias", a.output_bias},
          {"qk_norm", a.qk_norm ? nlohmann::ordered_json(name_of(*a.qk_norm)) : nlohmann::ordered_json(nullptr)},
          {"scale", a.scale},
          {"softcap", a.softcap}};
}

void read_block(const nlohmann::json& json, std::string_view source, const std::string& prefix, BlockConfig& block) {
  ConfigFields fields(json, source, prefix);
  fields.choice("norm", kNormKindNames, block.norm);
  fields.choice("placement", kNormPlacementNames, block.placement);
  fields.text("channel_mixer", block.channel_mixer);
  fields.choice("activation", kActivationNames, block.activation);
  fields.real("layer_scale", block.layer_scale);
  refuse_rest(fields);
}

void read_attention(const nlohmann::json& json, std::string_view source, const std::string& prefix,
                    AttentionTraits& attention) {
  ConfigFields fields(json, source, prefix);
  fields.flag("qkv_bias", attention.qkv_bias);
  fields.flag("output_bias", attention.output_bias);
  if (fields.find("qk_norm")) fields.choice("qk_norm", kNormKindNames, attention.qk_norm.emplace());
  fields.real("scale", attention.scale);
  fields.real("softcap", attention.softcap);
  refuse_rest(fields);
}

}  // namespace heed::formats
