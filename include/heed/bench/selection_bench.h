// What choosing keys costs and gains: block lists that change every call, and mechanisms that search, by length.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace heed::bench {

/// Attention of one head of 64 to the best blocks of keys for each block of queries, by the products of their means.
struct DynamicSelection {
  int64_t length = 0, block = 64;
  double density = 0;         ///< pairs that are visited, of all
  double select_seconds = 0;  ///< means, scores, top-k, block lists
  double attend_seconds = 0, dense_seconds = 0;

  double speed_up() const { return dense_seconds / (select_seconds + attend_seconds); }
  /// Of the speed-up that less attention promises, what is reached with the selection counted in.
  double efficiency() const { return speed_up() * density; }
};

/// Medians of `rounds` rounds, in which dense and selected attention take turns. Throws heed::Error for a density that
/// leaves no block.
DynamicSelection measure_dynamic_selection(int64_t length, int64_t block, double density, int rounds);

/// Seconds of a mixer's core, one head of 64, at rising lengths.
struct Growth {
  std::string name;
  nlohmann::json config;
  std::vector<int64_t> lengths;
  std::vector<double> seconds;

  /// The slope of log seconds over log length, by least squares.
  double exponent() const;
};

Growth measure_growth(const std::string& mixer, const nlohmann::json& config, const std::vector<int64_t>& lengths,
                      int rounds);

nlohmann::ordered_json to_json(const DynamicSelection& result);
nlohmann::ordered_json to_json(const Growth& result);

}  // namespace heed::bench
