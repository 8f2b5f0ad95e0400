#include "heed/checkpoint/head_table.h"

#include <algorithm>
#include <cmath>

#include "formats/json_node.h"
#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "heed/formats/json_file.h"

namespace heed::checkpoint {
namespace {

using Json = nlohmann::json;

constexpr size_t kMostLayers = 1 << 16, kMostHeads = 1 << 16;

bool accepted(const Json& value) {
  return value.is_object() || (value.is_number() && std::isfinite(value.get<double>()));
}

}  // namespace

HeadTable::HeadTable(std::string name, Axis axis, int64_t layers, int64_t heads)
    : name_(std::move(name)), axis_(axis), layers_(layers), heads_(heads) {
  require(layers >= 1 && heads >= 1, "head table of {} layers of {} heads: 1 or more of both is accepted", layers,
          heads);
  values_.assign(size_t(layers * heads), 0.0);
}

HeadTable HeadTable::parse(const Json& json, std::string_view source) {
  const formats::JsonNode root(json, source);
  const auto name = root.at("name").text();
  const auto axis = root.at("heads");
  if (axis.text() != "query" && axis.text() != "kv") axis.refuse("query or kv");
  for (const auto& [key, value] : json.items())
    require(key == "name" || key == "heads" || key == "values",
            "{}: unknown key {}: name, heads and values are accepted", source, formats::quote(key));
  const auto values = root.at("values");
  const auto layers = values.items();
  if (layers.empty() || layers.size() > kMostLayers) values.refuse(fmt::format("1 to {} layers", kMostLayers));
  const auto heads = layers.front().items().size();
  if (heads < 1 || heads > kMostHeads) layers.front().refuse(fmt::format("1 to {} heads", kMostHeads));
  HeadTable table(name, axis.text() == "kv" ? Axis::kv : Axis::query, int64_t(layers.size()), int64_t(heads));
  table.source_ = source;
  const bool rules = layers.front().items().front().json().is_object();
  for (size_t l = 0; l < layers.size(); ++l) {
    const auto cells = layers[l].items();
    if (cells.size() != heads) layers[l].refuse(fmt::format("{} heads, as in the first layer", heads));
    for (size_t h = 0; h < heads; ++h) {
      const auto& cell = cells[h].json();
      if (!accepted(cell) || cell.is_object() != rules)
        cells[h].refuse(rules ? "an object, as the first head has" : "a finite number");
      table.values_[l * heads + h] = cell;
    }
  }
  return table;
}

HeadTable HeadTable::load(const std::filesystem::path& path) {
  return parse(formats::read_json_file(path), path.string());
}

nlohmann::ordered_json HeadTable::to_json() const {
  auto values = nlohmann::ordered_json::array();
  for (int64_t l = 0; l < layers_; ++l) {
    auto layer = nlohmann::ordered_json::array();
    for (int64_t h = 0; h < heads_; ++h) layer.push_back(nlohmann::ordered_json(at(l, h)));
    values.push_back(std::move(layer));
  }
  return {{"name", name_}, {"heads", axis_ == Axis::kv ? "kv" : "query"}, {"values", std::move(values)}};
}

void HeadTable::save(const std::filesystem::path& path) const {
  const bool rules = holds_rules();
  require(std::all_of(values_.begin(), values_.end(), [&](const Json& v) { return v.is_object() == rules; }),
          "{}: a head table holds numbers or rules, not both", path.string());
  formats::write_file(path, to_json().dump() + "\n");
}

size_t HeadTable::index(int64_t layer, int64_t head) const {
  require(layer >= 0 && layer < layers_ && head >= 0 && head < heads_,
          "{}: head {} of layer {}: {} layers of {} heads are there", source_, head, layer, layers_, heads_);
  return size_t(layer * heads_ + head);
}

double HeadTable::number(int64_t layer, int64_t head) const {
  const auto& value = at(layer, head);
  require(value.is_number(), "{}: head {} of layer {} has a rule; a table of numbers is accepted", source_, head,
          layer);
  return value.get<double>();
}

const Json& HeadTable::at(int64_t layer, int64_t head) const { return values_[index(layer, head)]; }

void HeadTable::set(int64_t layer, int64_t head, Json value) {
  require(accepted(value), "{}: head {} of layer {} = {}: a finite number or an object is accepted", source_, head,
          layer, value.dump());
  values_[index(layer, head)] = std::move(value);
}

void HeadTable::check_fits(int64_t layers, int64_t heads, int64_t kv_heads) const {
  const int64_t wanted = axis_ == Axis::kv ? kv_heads : heads;
  require(layers_ == layers && heads_ == wanted, "{}: {} layers of {} {} heads; the model has {} of {}", source_,
          layers_, heads_, axis_ == Axis::kv ? "KV" : "query", layers, wanted);
}

std::vector<std::vector<double>> HeadTable::per_kv_head(int64_t kv_heads) const {
  require(kv_heads >= 1 && heads_ % kv_heads == 0, "{}: {} heads are no multiple of {} KV heads", source_, heads_,
          kv_heads);
  std::vector<std::vector<double>> numbers(layers_, std::vector<double>(kv_heads, -INFINITY));
  const int64_t group = heads_ / kv_heads;
  for (int64_t l = 0; l < layers_; ++l)
    for (int64_t h = 0; h < heads_; ++h) numbers[l][h / group] = std::max(numbers[l][h / group], number(l, h));
  return numbers;
}

}  // namespace heed::checkpoint
