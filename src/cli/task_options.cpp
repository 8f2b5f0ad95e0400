#include "cli/task_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "heed/error.h"
#include "heed/models/vision_backbone.h"

namespace heed::cli {

std::map<std::string, nlohmann::json> settings_by_name(const std::vector<std::string>& pairs) {
  std::map<std::string, std::vector<std::string>> grouped;
  for (const auto& pair : pairs) {
    const auto dot = pair.find('.');
    require(dot != std::string::npos && dot > 0 && dot < pair.find('='),
            "--set {}: NAME.key=value is accepted, as in sliding_window.window=128", pair);
    grouped[pair.substr(0, dot)].push_back(pair.substr(dot + 1));
  }
  std::map<std::string, nlohmann::json> settings;
  for (const auto& [name, own] : grouped) settings[name] = parse_settings(own);
  return settings;
}

void check_settings(const std::map<std::string, nlohmann::json>& settings, const std::vector<std::string>& mixers) {
  std::vector<std::string> known;
  for (const auto& text : mixers) {
    const auto names = train::mixers_of(text);
    for (auto name = names.begin(); name != names.end(); ++name) {
      known.push_back(*name);
      known.push_back(fmt::format("{}#{}", *name, std::count(names.begin(), name + 1, *name)));
    }
  }
  for (const auto& [name, own] : settings)
    require(std::find(known.begin(), known.end(), name) != known.end(), "--set {}.{}: of {}, {} are accepted", name,
            own.begin().key(), fmt::join(mixers, ","), fmt::join(known, ", "));
}

std::vector<nlohmann::json> parse_changes(const std::vector<std::string>& changes) {
  std::vector<nlohmann::json> result;
  for (const auto& change : changes) {
    std::vector<std::string> pairs{""};
    for (const char c : change) {
      if (c == ',')
        pairs.emplace_back();
      else
        pairs.back() += c;
    }
    result.push_back(parse_settings(pairs));
  }
  return result;
}

CLI::Option* add_block(CLI::App& command, std::string& block) {
  return command.add_option("--block", block,
                            "norms and channel mixer around the token mixer: llama (RMSNorm, SwiGLU), gpt2 (LayerNorm, "
                            "GELU) or transnormer (SRMSNorm, SGLU) (default llama)");
}

void add_backbone(CLI::App& command, train::TaskModelOptions& model, std::vector<std::string>& settings,
                  CLI::Option* needed, const std::string& group) {
  const auto option = [&](const char* name, auto& value, const std::string& meaning) {
    command.add_option(name, value, meaning)->needs(needed)->group(group);
  };
  option("--backbone", model.backbone,
         fmt::format("what learns tasks of images: {} (default vit)", fmt::join(backbone_names(), ", ")));
  option(
      "--backbone-set", settings,
      "parameters of the backbone, key=value, as stages=3 or a list with an object for each stage (docs/vision.md); of "
      "all: reducer, local_conv, one_residual, shared_norm, norm, layer_scale (docs/tasks.md)");
  option("--channel-mixer", model.channel_mixer,
         "of models of images: mlp, gated_mlp, conv_mlp, conv_glu, conv_grn, conv_share_mlp or none (default mlp)");
}

}  // namespace heed::cli
