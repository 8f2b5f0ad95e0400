#include "checkpoint/own_format.h"

#include <fmt/format.h>

#include "checkpoint/weights.h"
#include "checkpoint/within_files.h"
#include "heed/checkpoint/image_checkpoint.h"
#include "heed/checkpoint/tensor_file.h"
#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "heed/formats/json_file.h"

namespace heed::checkpoint {
namespace {

constexpr int64_t kWidest = int64_t{1} << 24, kMostPlans = int64_t{1} << 14;
constexpr size_t kOwnConfigBytes = size_t{16} << 20;

const Layout& own_layout() {
  static const Layout layout{.layers = "layers_"};
  return layout;
}

nlohmann::ordered_json to_json(const LayerPlan& plan) {
  nlohmann::ordered_json json{{"mixer", plan.mixer},
                              {"config", plan.config.is_null() ? nlohmann::json::object() : plan.config}};
  if (!plan.before_tokens.empty()) json["before_tokens"] = plan.before_tokens;
  if (!plan.before_channels.empty()) json["before_channels"] = plan.before_channels;
  if (plan.one_residual) json["one_residual"] = true;
  return json;
}

LayerPlan layer_plan(const nlohmann::json& json, const std::string& source) {
  ConfigReader reader(source, json);
  LayerPlan plan;
  plan.mixer = reader.get("mixer", plan.mixer);
  plan.config = reader.object("config");
  plan.before_tokens = reader.get("before_tokens", plan.before_tokens);
  plan.before_channels = reader.get("before_channels", plan.before_channels);
  plan.one_residual = reader.get("one_residual", plan.one_residual);
  reader.finish();
  return plan;
}

}  // namespace

nlohmann::ordered_json to_json(const TransformerConfig& c) {
  nlohmann::ordered_json json{{"dim", c.dim},
                              {"heads", c.heads},
                              {"kv_heads", c.kv_heads},
                              {"head_dim", c.head_dim},
                              {"hidden", c.hidden},
                              {"max_length", c.max_length},
                              {"norm_eps", c.norm_eps},
                              {"positions", c.positions.to_json()},
                              {"block", formats::to_json(c.block)},
                              {"mlp_bias", c.block.mlp_bias},
                              {"shared_norm", c.shared_norm}};
  if (c.attention != formats::AttentionTraits()) json["attention"] = formats::to_json(c.attention);
  auto& layers = json["layers"] = nlohmann::ordered_json::array();
  for (const auto& plan : c.layers) layers.push_back(to_json(plan));
  return json;
}

void read_transformer(const nlohmann::json& json, const std::string& source, TransformerConfig& c) {
  ConfigReader reader(source, json);
  c.dim = reader.integer("dim", c.dim, 1, kWidest);
  c.heads = reader.integer("heads", c.heads, 1, kWidest);
  c.kv_heads = reader.integer("kv_heads", c.heads, 1, c.heads);
  c.head_dim = reader.integer("head_dim", std::max<int64_t>(1, c.dim / c.heads), 1, kWidest);
  c.hidden = reader.integer("hidden", c.hidden, 1, kWidest);
  c.max_length = reader.integer("max_length", c.max_length, 1);
  c.norm_eps = reader.get("norm_eps", c.norm_eps);
  require(c.heads % c.kv_heads == 0, "{}: heads = {} is no multiple of kv_heads = {}", source, c.heads, c.kv_heads);
  require(c.norm_eps >= 0 && c.norm_eps <= 1, "{}: norm_eps = {}: 0 to 1 is accepted", source, c.norm_eps);
  c.positions = nn::PositionsConfig::from_json(reader.object("positions"), source);
  formats::read_block(reader.object("block"), source, "block.", c.block);
  formats::read_attention(reader.object("attention"), source, "attention.", c.attention);
  c.block.mlp_bias = reader.get("mlp_bias", c.block.mlp_bias);
  c.shared_norm = reader.get("shared_norm", c.shared_norm);
  const auto layers = reader.get("layers", nlohmann::json());
  require(layers.is_array() && !layers.empty() && int64_t(layers.size()) <= kMostPlans,
          "{}: layers: a list with an object for each layer, 1 to {}, is accepted", source, kMostPlans);
  c.layers.clear();
  for (const auto& layer : layers)
    c.layers.push_back(layer_plan(layer, fmt::format("{}: layers[{}]", source, c.layers.size())));
  reader.finish();
}

std::string architecture_of(const std::filesystem::path& directory) {
  const auto json = formats::read_json_file(config_path(directory), kOwnConfigBytes);
  if (!json.is_object() || !json.contains("architectures")) return {};
  const auto& names = json.at("architectures");
  return names.is_array() && names.size() == 1 && names[0].is_string() ? names[0].get<std::string>() : "";
}

void save_own(const std::filesystem::path& directory, const char* architecture, const nlohmann::ordered_json& heed,
              const nlohmann::json& notes, torch::nn::Module& model) {
  std::filesystem::create_directories(directory);
  TensorMap tensors;
  for (const auto& entries : {model.named_parameters(), model.named_buffers()})
    for (const auto& entry : entries) tensors[entry.key()] = entry.value();
  save_tensors(directory / "model.safetensors", tensors, {{"format", "pt"}});
  nlohmann::ordered_json config{{"architectures", {architecture}}, {"model_type", "heed"}, {"heed", heed}};
  for (const auto& [key, value] : notes.items()) config[key] = value;
  formats::write_file(directory / "config.json", config.dump(2) + "\n");
}

void load_own(const std::filesystem::path& directory, const char* architecture,
              const std::function<torch::nn::Module&(ConfigReader&)>& make) {
  const auto path = config_path(directory);
  const auto found = architecture_of(directory);
  require(found == architecture, "{}: architectures is {}, accepted: {}", path.string(), formats::quote(found),
          architecture);
  const auto json = formats::read_json_file(path, kOwnConfigBytes);
  require(json.contains("heed"), "{}: {} must have heed", path.string(), architecture);
  const auto source = open_safetensors(directory);
  torch::nn::Module* model = nullptr;
  within_files(*source, [&] {
    ConfigReader reader(path.string() + ": heed", json.at("heed"));
    model = &make(reader);
    reader.finish();
  });
  for (const auto& entry : model->named_buffers())
    require(source->shape(entry.key()), "{}: tensor {} is missing: the model that the configuration describes has it",
            source->place(), entry.key());
  fill(*model, own_layout(), *source);
}

}  // namespace heed::checkpoint
