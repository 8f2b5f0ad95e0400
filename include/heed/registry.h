// The one list: what a row says of a mechanism. Each floor has a table of rows; cli/ joins them.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

namespace heed {

class TokenMixer;

enum class Kind {
  mixer,
  op,
  policy,
  conversion,
  adapter,
  probe,
  intervention,
  task,
  benchmark,
  model,
  block,
  reducer,
  strategy
};
std::string to_string(Kind kind);

/// One parameter of a mechanism: its key, its default, what it means.
struct Parameter {
  std::string name;
  nlohmann::json fallback;
  std::string meaning;
};

/// What a mechanism claims. Conformance tests every claim; `heed list`, `compare` and `bench` are driven by it.
struct RegistryRow {
  std::string name;
  Kind kind = Kind::mixer;
  std::string family;
  std::string paper;
  int year = 0;

  struct Patterns {
    bool noncausal_self = false, causal_self = false, noncausal_cross = false, causal_cross = false;
  } patterns;
  bool step = false;         ///< has a state: one token, a chunk, a prompt at a time (in its causal form)
  bool fixed_state = false;  ///< of a size that does not grow with the tokens seen
  bool one_way = false;      ///< the state sums tokens up and can't be cut back
  bool spectral = false;     ///< computed through an FFT: what no token may see of others, it sees as rounding
  bool core = false;         ///< mix(q, k, v) exists
  bool grid = false;         ///< needs a token grid
  bool fixed_n = false;      ///< built for one length
  int64_t min_n = 1;
  bool training_free = false;         ///< runs on a checkpoint trained with softmax attention
  bool exact = false;                 ///< computes softmax attention itself, not another function
  std::string cost;                   ///< in N
  std::vector<Parameter> parameters;  ///< of its own, beyond the shared ones of its kind

  /// A configuration of a few channels and heads under which its pattern shows within 64 tokens: what tests run.
  nlohmann::json small = nlohmann::json::object();

  /// A mixer from its configuration; empty for other kinds.
  std::function<std::shared_ptr<TokenMixer>(const nlohmann::json&)> make;
};

/// {"name","kind","family","paper","year","patterns","step","core","grid","training_free","cost","params"}
nlohmann::json to_json(const RegistryRow& row);

/// Rows of the floors, in the order of the catalogue.
std::span<const RegistryRow> operator_rows();
std::span<const RegistryRow> mixer_rows();

}  // namespace heed
