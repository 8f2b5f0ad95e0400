// What a head of MoA (arXiv 2406.14909) reads of a text: the first block and a band of blocks that grows with the text.
#pragma once

#include <nlohmann/json.hpp>

#include "heed/cache/policy.h"

namespace heed::cache {

/// A window of a + b N tokens of a text of N, in whole blocks.
struct MoaRule {
  static constexpr int64_t kBlock = 64;

  int64_t a = 0;
  double b = 1;

  /// Blocks of the band, the query's own included; at least 1.
  int64_t band(int64_t length, int64_t block = kBlock) const;
  nlohmann::json to_json() const { return {{"a", a}, {"b", b}}; }
  /// Throws heed::Error that begins with `where` for anything but {"a": whole number, "b": number from 0 to 1}.
  static MoaRule from_json(const nlohmann::json& json, const std::string& where);

  bool operator==(const MoaRule&) const = default;
};

/// Blocks on and below the diagonal of a text, and those of them that a band and the first column cover.
int64_t causal_blocks(int64_t blocks);
int64_t visible_blocks(int64_t blocks, int64_t band);

}  // namespace heed::cache
