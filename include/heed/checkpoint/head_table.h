// A number or a rule for every head of every layer, in a file: gates, classes, scores and rules of head-wise methods.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace heed::checkpoint {

/// The JSON format, the same for all of them:
///
///     {"name": "retrieval_score", "heads": "query", "values": [[0.1, 0.9], [0, 0.5]]}
///
/// `name` says what the numbers are; `heads` is "query" or "kv"; values[layer][head] are all finite numbers or all
/// objects (rules). Every layer has equally many heads.
class HeadTable {
 public:
  enum class Axis { query, kv };

  /// Zeros. Throws heed::Error for sizes below 1.
  HeadTable(std::string name, Axis axis, int64_t layers, int64_t heads);

  /// Throws heed::Error that begins with `source` and names the place and what is accepted.
  static HeadTable parse(const nlohmann::json& json, std::string_view source);
  static HeadTable load(const std::filesystem::path& path);
  void save(const std::filesystem::path& path) const;
  nlohmann::ordered_json to_json() const;

  const std::string& name() const { return name_; }
  Axis axis() const { return axis_; }
  int64_t layers() const { return layers_; }
  int64_t heads() const { return heads_; }
  bool holds_rules() const { return values_.front().is_object(); }

  /// Throws heed::Error for a table of rules.
  double number(int64_t layer, int64_t head) const;
  /// The number, or the rule as it stands in the file.
  const nlohmann::json& at(int64_t layer, int64_t head) const;
  /// A finite number or an object; throws heed::Error for others, and for a place outside the table.
  void set(int64_t layer, int64_t head, nlohmann::json value);

  /// Throws heed::Error unless the table is one of a model of these sizes.
  void check_fits(int64_t layers, int64_t heads, int64_t kv_heads) const;
  /// Numbers [layers][kv_heads]; of a table of query heads, the largest of each group.
  std::vector<std::vector<double>> per_kv_head(int64_t kv_heads) const;

 private:
  size_t index(int64_t layer, int64_t head) const;

  std::string name_, source_ = "head table";
  Axis axis_;
  int64_t layers_, heads_;
  std::vector<nlohmann::json> values_;
};

}  // namespace heed::checkpoint
