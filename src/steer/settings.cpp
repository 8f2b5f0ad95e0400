#include "steer/settings.h"

#include "cache/head_sets.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::steer {
namespace {

/// Query heads from a table: of KV heads, each stands for its group.
void choose_from(const std::string& file, const cache::ModelShape& shape, QueryHeads& heads) {
  const auto table = cache::read_head_table(file, shape);
  for (int64_t l = 0; l < shape.layers; ++l)
    for (int64_t h = 0; h < shape.heads; ++h)
      if (table.number(l, h * table.heads() / shape.heads) > 0) heads[size_t(l)].push_back(h);
}

}  // namespace

QueryHeads chosen_heads(ConfigReader& reader, const cache::ModelShape& shape, int64_t first_layer,
                        int64_t last_layers) {
  const auto value = reader.get<nlohmann::json>("heads", "all");
  const auto first = reader.integer("first_layer", first_layer, 0);
  const auto last = reader.integer("last_layers", last_layers, 0);
  QueryHeads heads(size_t(shape.layers));
  if (value.is_string() && value != "all" && value != "none") {
    choose_from(value.get<std::string>(), shape, heads);
  } else {
    auto by_query = shape;  // named_heads counts KV heads
    by_query.kv_heads = shape.heads;
    const auto named = cache::named_heads(reader, "heads", value, by_query);
    for (size_t l = 0; l < named.size(); ++l)
      for (size_t h = 0; h < named[l].size(); ++h)
        if (named[l][h]) heads[l].push_back(int64_t(h));
  }
  for (int64_t l = 0; l < shape.layers; ++l)
    if (l < first || l >= shape.layers - last) heads[size_t(l)].clear();
  return heads;
}

std::vector<Parameter> head_parameters(int64_t first_layer, int64_t last_layers) {
  return {{"heads", "all", "all, [[layer, query head], ...] or a head table whose heads above 0 are meant"},
          {"first_layer", first_layer, "layers before it are left alone"},
          {"last_layers", last_layers, "so many layers at the end are left alone"}};
}

}  // namespace heed::steer
