// One row an intervention. Adding one: its file, its test, its row here.
#include "heed/error.h"
#include "heed/formats/json_file.h"
#include "heed/names.h"
#include "steer/rows.h"

namespace heed::steer {
namespace rows {

InterventionRow intervention_row(std::string name, std::string paper, int year, std::string cost,
                                 std::vector<Parameter> parameters,
                                 std::function<cache::Policy(ConfigReader&, const cache::ModelShape&)> make) {
  InterventionRow intervention;
  intervention.row.name = std::move(name);
  intervention.row.kind = Kind::intervention;
  intervention.row.family = "kv_cache_and_long_context";
  intervention.row.paper = std::move(paper);
  intervention.row.year = year;
  intervention.row.patterns.causal_self = true;
  intervention.row.step = true;
  intervention.row.training_free = true;
  intervention.row.cost = std::move(cost);
  intervention.row.parameters = std::move(parameters);
  intervention.make = std::move(make);
  return intervention;
}

}  // namespace rows

namespace {

constexpr const char* kFlowCut = "flow_cut";

}  // namespace

std::span<const InterventionRow> interventions() {
  static const std::vector<InterventionRow> rows{
      rows::act_calibration(),
      rows::var_redistribution(),
      rows::head_temperature(),
  };
  return rows;
}

std::span<const RegistryRow> intervention_rows() {
  static const std::vector<RegistryRow> rows = [] {
    std::vector<RegistryRow> rows;
    for (const auto& intervention : interventions()) rows.push_back(intervention.row);
    RegistryRow cut = rows::act_calibration().row;
    cut.name = kFlowCut;
    cut.paper = "FlowCut: Rethinking Redundancy via Information Flow for Efficient Vision-Language Models";
    cut.year = 2025;
    cut.patterns = {.noncausal_self = true};
    cut.step = false;
    cut.cost = "falls with the square of the patches that are left";
    cut.parameters = {{"target", 64, "patches that are left"},
                      {"select", -2, "features are read after this layer; patches leave after layers before it"}};
    rows.push_back(cut);
    return rows;
  }();
  return rows;
}

cache::Policy make_intervention(std::string_view name, const nlohmann::json& settings, const cache::ModelShape& shape) {
  require(name != kFlowCut,
          "intervention {}: it drops patches of a vision transformer, not what a text model attends to; `heed steer "
          "pairworld` and heed/steer/flow_cut.h run it",
          name);
  std::vector<std::string> known;
  for (const auto& intervention : interventions()) {
    known.push_back(intervention.row.name);
    if (intervention.row.name != name) continue;
    ConfigReader reader("intervention " + intervention.row.name, settings);
    auto made = intervention.make(reader, shape);
    reader.finish();
    return made;
  }
  fail("unknown intervention {}: {}", name, suggest(name, known));
}

InterventionChoice InterventionChoice::parse(const std::string& name_or_file) {
  if (!name_or_file.ends_with(".json")) return {name_or_file};
  const auto json = formats::read_json_file(name_or_file, size_t{64} << 20);
  require(json.is_object() && json.contains("intervention") && json["intervention"].is_string(),
          "{}: an object with \"intervention\" and \"settings\" is accepted", name_or_file);
  InterventionChoice choice{json["intervention"].get<std::string>()};
  if (json.contains("settings")) choice.settings = json["settings"];
  require(choice.settings.is_object(), "{}: settings are {}: an object is accepted", name_or_file,
          choice.settings.type_name());
  for (const auto& [key, value] : json.items())
    require(key == "intervention" || key == "settings", "{}: unknown key {}: intervention and settings are accepted",
            name_or_file, formats::quote(key));
  return choice;
}

}  // namespace heed::steer
