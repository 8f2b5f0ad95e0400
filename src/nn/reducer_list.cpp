#include "nn/reducer_list.h"

#include "heed/error.h"
#include "heed/names.h"

namespace heed::nn {
namespace {

const std::vector<Reducer>& reducers() {
  static const std::vector<Reducer> all{token_merging(), ia_red2()};
  return all;
}

}  // namespace

std::shared_ptr<TokenReducer> make_token_reducer(std::string_view name, const nlohmann::json& config) {
  std::vector<std::string> known;
  for (const auto& reducer : reducers()) {
    if (reducer.row.name == name) return reducer.make(config);
    known.push_back(reducer.row.name);
  }
  fail("unknown token reducer {}: {}", name, suggest(name, known));
}

std::span<const RegistryRow> reducer_rows() {
  static const auto rows = [] {
    std::vector<RegistryRow> all;
    for (const auto& reducer : reducers()) all.push_back(reducer.row);
    return all;
  }();
  return rows;
}

}  // namespace heed::nn
