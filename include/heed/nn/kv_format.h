// How many bits a cache keeps of keys and values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace heed::nn {

/// - `exact`: as they come.
/// - `int8`: one float scale max |x| / 127 for each token's key and each value.
/// - `int4`: 16 levels between the least and the largest of each 32 channels of a token.
/// - `kivi2` (KIVI, arXiv 2402.02750): 4 levels; keys between the least and the largest of each channel over 32 tokens,
///   values as with int4. The newest `recent` tokens of a row, and what fills their groups of 32, stay exact.
/// - `kivi2_token`: the same with keys by token, for comparison.
///
/// The steps and lower ends of groups are stored as float16, rounded outwards: |x - stored| <= step / 2, and a group of
/// equal float16 numbers stays exact. A NaN, or a number beyond float16, makes its whole group NaN.
struct KvFormat {
  int bits = 0;  ///< 0: exact
  bool keys_by_channel = false;
  int64_t recent = 0;  ///< newest tokens of a row that stay exact

  static constexpr int64_t kGroup = 32;
  static constexpr int64_t kRecent = 128;  ///< of kivi2 and kivi2_token

  bool exact() const { return bits == 0; }
  /// Throws heed::Error for a name that isn't above.
  static KvFormat parse(std::string_view name);
  static const std::vector<std::string>& names();
};

}  // namespace heed::nn
