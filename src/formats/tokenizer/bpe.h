// Byte-pair encoding (Sennrich et al. 2015): of all neighbours in a word, the pair learnt first merges first.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "formats/tokenizer/token_model.h"

namespace heed::formats {

/// What two neighbours become, and how early.
struct Merge {
  uint32_t rank = 0, id = 0;
};

/// Pairs of ids to merges; open addressing, so that a look-up is one or two cache lines.
class MergeTable {
 public:
  explicit MergeTable(size_t pairs = 0);
  /// A pair that comes twice has the later rank.
  void insert(uint32_t left, uint32_t right, Merge merge);
  const Merge* find(uint32_t left, uint32_t right) const;

 private:
  struct Slot {
    uint64_t pair = kFree;
    Merge merge;
  };
  static constexpr uint64_t kFree = ~uint64_t{0};
  size_t slot_of(uint64_t pair) const;

  std::vector<Slot> slots_;
  int shift_;
};

/// O(n log n) in the length n of a word; short words are merged by looking at all pairs.
class Bpe final : public TokenModel {
 public:
  explicit Bpe(const JsonNode& node);
  void encode(std::string_view word, std::vector<int64_t>& ids) const override;

 private:
  void read_merges(const JsonNode& node);
  std::vector<uint32_t> symbols(std::string_view word) const;
  void merge_short(std::vector<uint32_t>& symbols) const;
  void merge_long(std::vector<uint32_t>& symbols) const;

  std::string continuing_prefix_, end_suffix_;
  std::optional<uint32_t> unknown_;
  bool fuse_unknown_ = false, byte_fallback_ = false, ignore_merges_ = false;
  std::array<std::optional<uint32_t>, 256> byte_ids_;  // of <0x00> to <0xFF>
  MergeTable merges_;
};

}  // namespace heed::formats
