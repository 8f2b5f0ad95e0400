// HeedForCausalLM: Llama's keys, and under "heed" what is not Llama's. Keys at their defaults are not written.
#include "formats/architectures/decoders.h"

namespace heed::formats {
namespace {

using Json = nlohmann::json;

void read_layers(const Json& json, ConfigFields& fields, std::vector<LayerConfig>& layers) {
  if (!json.is_array()) fields.wrong("layers", json, "a list with one entry a layer");
  for (const Json& item : json) {
    ConfigFields inner(item, fields.source(), "heed.layers[].");
    LayerConfig layer;
    inner.text("mixer", layer.mixer);
    if (const Json* parameters = inner.find("config")) layer.config = *parameters;
    layers.push_back(std::move(layer));
  }
}

}  // namespace

void read_heed(ConfigFields& fields, DecoderModelConfig& config) {
  read_llama_family(fields, config);
  bool biased = false;
  fields.flag("attention_bias", biased);
  config.attention.qkv_bias = config.attention.output_bias = biased;
  fields.flag("mlp_bias", config.block.mlp_bias);
  const Json* json = fields.find("heed");
  require(json, "{}: {} must have heed.layers", fields.source(), kHeedDecoder);
  ConfigFields inner(*json, fields.source(), "heed.");
  inner.text("tokenizer", config.tokenizer);
  if (const Json* layers = inner.find("layers")) read_layers(*layers, inner, config.layers);
  require(!config.layers.empty(), "{}: {} must have heed.layers", fields.source(), kHeedDecoder);
  if (const Json* block = inner.find("block")) read_block(*block, fields.source(), "heed.block.", config.block);
  if (const Json* attention = inner.find("attention"))
    read_attention(*attention, fields.source(), "heed.attention.", config.attention);
  inner.flag("rotary", config.rotary);
  inner.whole("rotary_dim", config.rotary_dim);
  inner.flag("rotary_pairs", config.rotary_pairs);
  inner.flag("learned_positions", config.learned_positions);
  inner.real("embedding_scale", config.embedding_scale);
  inner.real("logit_softcap", config.logit_softcap);
  config.heed_extra = inner.rest();
}

nlohmann::ordered_json heed_json(const DecoderModelConfig& config) {
  nlohmann::ordered_json heed = nlohmann::ordered_json::object();
  if (!config.tokenizer.empty()) heed["tokenizer"] = config.tokenizer;
  if (!config.is_plain()) {
    const DecoderModelConfig plain;
    auto plain_block = plain.block;
    plain_block.mlp_bias = config.block.mlp_bias;
    if (config.block != plain_block) heed["block"] = to_json(config.block);
    const auto& a = config.attention;
    if (a != AttentionTraits{.qkv_bias = a.qkv_bias, .output_bias = a.qkv_bias}) heed["attention"] = to_json(a);
    if (!config.rotary) heed["rotary"] = false;
    if (config.rotary_dim) heed["rotary_dim"] = config.rotary_dim;
    if (config.rotary_pairs) heed["rotary_pairs"] = true;
    if (config.learned_positions) heed["learned_positions"] = true;
    if (config.embedding_scale != 1) heed["embedding_scale"] = config.embedding_scale;
    if (config.logit_softcap != 0) heed["logit_softcap"] = config.logit_softcap;
    auto layers = config.layers;
    if (layers.empty()) layers.assign(static_cast<size_t>(config.num_hidden_layers), {"dense", Json::object()});
    for (const auto& layer : layers) heed["layers"].push_back({{"mixer", layer.mixer}, {"config", layer.config}});
  }
  for (const auto& [key, value] : config.heed_extra.items())
    if (!heed.contains(key)) heed[key] = value;
  return heed;
}

}  // namespace heed::formats
