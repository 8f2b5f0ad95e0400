// Changes of attention in chosen heads while a checkpoint runs. Each makes the caches of a session's layers, so that
// whatever takes a cache policy takes an intervention.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "heed/cache/policy.h"

namespace heed::steer {

struct InterventionRow {
  RegistryRow row;
  /// Reads the settings; the caller refuses the rest.
  std::function<cache::Policy(ConfigReader&, const cache::ModelShape&)> make;
  nlohmann::json neutral = nlohmann::json::object();  ///< settings that change nothing
  nlohmann::json strong = nlohmann::json::object();   ///< settings that change a text of 100 tokens
};
std::span<const InterventionRow> interventions();
/// Their rows, and that of flow_cut, which acts on a vision transformer (heed/steer/flow_cut.h).
std::span<const RegistryRow> intervention_rows();

/// Throws heed::Error for an unknown name (with the nearest), setting or value.
cache::Policy make_intervention(std::string_view name, const nlohmann::json& settings, const cache::ModelShape& shape);

/// An intervention as it is written down: {"intervention": NAME, "settings": {...}}.
struct InterventionChoice {
  std::string name;
  nlohmann::json settings = nlohmann::json::object();

  /// A name of the registry, or a file (anything that ends in .json). Throws heed::Error for a file that is no such
  /// object.
  static InterventionChoice parse(const std::string& name_or_file);
  cache::Policy make(const cache::ModelShape& shape) const { return make_intervention(name, settings, shape); }
};

}  // namespace heed::steer
