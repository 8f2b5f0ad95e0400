// What policy files share to state their rows, and the rows themselves, gathered by registry.cpp.
#pragma once

#include "heed/cache/policy.h"

namespace heed::cache::rows {

/// A row of the family, training-free unless changed.
PolicyRow policy_row(std::string name, std::string paper, int year, std::string cost, std::vector<Parameter> parameters,
                     std::function<Policy(ConfigReader&, const ModelShape&)> make);

PolicyRow full();
PolicyRow streaming_llm();
PolicyRow h2o();
PolicyRow snap_kv();
PolicyRow pyramid_kv();
PolicyRow quest();
PolicyRow token_select();
PolicyRow recycled_attention();
PolicyRow long_heads();
PolicyRow act_qkv();
PolicyRow retrieval_attention();
PolicyRow duo_attention();
PolicyRow razor_attention();
PolicyRow minference();
PolicyRow flex_prefill();
PolicyRow kv_quant();
PolicyRow moa_sparse();

}  // namespace heed::cache::rows
