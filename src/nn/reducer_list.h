// The token reducers, one a file, gathered by reducer_list.cpp.
#pragma once

#include "heed/nn/token_reducer.h"

namespace heed::nn {

struct Reducer {
  RegistryRow row;
  std::function<std::shared_ptr<TokenReducer>(const nlohmann::json&)> make;
};

Reducer token_merging();
Reducer ia_red2();

}  // namespace heed::nn
