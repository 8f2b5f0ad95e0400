// Mechanisms side by side on the queries, keys and values of a model: time, memory, and how far from exact attention.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "heed/bench/qkv_source.h"

namespace heed::bench {

struct CompareOptions {
  std::vector<int64_t> lengths;         ///< empty: the source's
  std::vector<std::string> only, skip;  ///< mixers and op:OPERATORs of the registry; empty: every one with a core
  std::map<std::string, nlohmann::json> settings;  ///< configuration of a mechanism, beyond the model's shape
  int repeats = 5;                                 ///< timed runs of a layer, at least
  bool far_fidelity = false;                       ///< error and mass beyond the trained length, too
};

/// Of one layer, against exact attention in double; beyond 4096 tokens on 256 of the queries, evenly spread.
struct Fidelity {
  int64_t layer = 0;
  double error = 0;            ///< relative L2 of the outputs
  std::optional<double> mass;  ///< mean over rows of the exact weights on the keys the mechanism sees
};

/// One mechanism at one length.
struct CompareRow {
  std::string name;  ///< a mixer, or op:OPERATOR
  std::string family;
  int64_t length = 0;          ///< N
  bool one_query = false;      ///< the last query alone against all keys: a step of generation
  bool causal = true;          ///< else compared with exact attention without a mask
  bool training_free = false;  ///< claims to run on a model trained with softmax attention
  bool exact = false;          ///< claims to be exact attention
  bool timing_only = false;    ///< beyond the trained length: no fidelity
  std::string skipped;         ///< why there are no figures

  double time_ms = 0;            ///< of one layer's core, median
  std::optional<double> gflops;  ///< of the pairs it weighs
  int64_t extra_bytes = 0;       ///< most memory held at once beside inputs and output
  std::vector<Fidelity> layers;
  std::optional<double> error, mass;  ///< means over the layers
};

struct Comparison {
  nlohmann::ordered_json machine, source;
  std::vector<int64_t> lengths;
  std::vector<CompareRow> rows;     ///< by length, then by time
  std::vector<std::string> failed;  ///< mechanisms that claim to be exact and are not
};

/// `progress` hears how many of how many runs are done, and which is next.
Comparison compare(QkvSource& source, const CompareOptions& options,
                   const std::function<void(int64_t done, int64_t total, const std::string& next)>& progress = {});

/// Softmax attention written out in double, a few rows at a time: out [B, Hq, N, Dv] and lse [B, Hq, N], of the rows of
/// q as the last ones of the keys.
struct ExactResult {
  torch::Tensor out, lse;
};
ExactResult exact_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v, bool causal);

/// {"machine", "source", "lengths", "results": [{"name", "N", "time_ms", "gflops", "extra_bytes", "error", "mass",
/// ...}]}
nlohmann::ordered_json to_json(const Comparison& comparison);
/// The table of a terminal.
std::string compare_table(const Comparison& comparison);
/// One self-contained page: no script, nothing to download; light and dark.
std::string compare_html(const Comparison& comparison);

}  // namespace heed::bench
