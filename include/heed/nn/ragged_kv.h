// Keys and values of which every (sequence, KV head) holds its own set, growing and shrinking on its own.
#pragma once

#include <vector>

#include "heed/nn/kv_slab.h"

namespace heed::nn {

/// One slab of slots for keys and one for values; row r = b * heads + h owns slots [offset(r), offset(r) +
/// capacity(r)), of which the first length(r) are in use. Offsets and capacities are multiples of kPage, so that a page
/// table addresses any row.
///
/// `keep` and `replace` in a format whose groups span slots read what they touch and write it anew: a slot that is
/// overwritten among older ones makes its group exact until its newest token is old.
class RaggedKv {
 public:
  static constexpr int64_t kPage = 16;

  /// Appends k [B, H, n, D] and v [B, H, n, Dv] of tokens [first, first + n) to every row. The first call decides
  /// shapes and dtype; throws heed::Error for others later. With `into`, of one entry a head, only these heads get
  /// them.
  void append(const torch::Tensor& k, const torch::Tensor& v, int64_t first, const std::vector<bool>& into = {});
  /// Puts k [D], v [Dv] of the token at `position` into a slot in use.
  void replace(int64_t row, int64_t slot, const torch::Tensor& k, const torch::Tensor& v, int64_t position);
  /// Of row r only slots[r] remain, in this order. What is no longer needed is given back.
  void keep(const std::vector<std::vector<int64_t>>& slots);
  /// Drops the newest slots of every row until `length` are left.
  void shorten(int64_t length);
  /// Makes room for rows of this many slots at the next append, so that none is moved before they are full.
  void reserve(int64_t slots) { reserved_ = slots; }
  /// What is held and what comes is kept in this format from now on. Once, from the exact one.
  void quantise(const KvFormat& format);
  const KvFormat& format() const { return format_; }

  int64_t batch() const { return batch_; }
  int64_t heads() const { return heads_; }
  int64_t rows() const { return batch_ * heads_; }
  int64_t length(int64_t row) const { return lengths_[row]; }
  int64_t longest() const;
  int64_t offset(int64_t row) const { return offsets_[row]; }
  /// All rows hold equally many slots at equal distances: keys() and values() exist.
  bool uniform() const;

  // Views in the exact format, else copies in the dtype that was appended.
  torch::Tensor keys() const;               ///< [B, H, length, D]; only when uniform
  torch::Tensor values() const;             ///< [B, H, length, Dv]; only when uniform
  torch::Tensor keys(int64_t row) const;    ///< [length, D]
  torch::Tensor values(int64_t row) const;  ///< [length, Dv]
  /// Copies of slots int64 [n] of a row, [n, D|Dv].
  torch::Tensor keys_at(int64_t row, const torch::Tensor& slots) const { return k_.at(slots + offsets_[row]); }
  torch::Tensor values_at(int64_t row, const torch::Tensor& slots) const { return v_.at(slots + offsets_[row]); }
  torch::Tensor positions(int64_t row) const;  ///< int64 [length]: the token in each slot
  torch::Tensor lengths() const;               ///< int64 [B, H]

  const KvSlab& key_slab() const { return k_; }
  const KvSlab& value_slab() const { return v_; }
  /// All slots as pages of `page` of them, for a table.
  ops::CacheTensors pages(int64_t page) const;
  /// int32 [B, H, pages]: the pages of every row in order; entries beyond a row's last page are 0.
  torch::Tensor page_table() const;

  RaggedKv clone() const;
  int64_t bytes() const;
  /// Of keys and values alone if no slot were spare, or exact in a format that codes.
  int64_t used_bytes() const;

 private:
  torch::Tensor all(const KvSlab& slab) const;
  int64_t rounded(int64_t slots) const;
  void lay_out(const std::vector<int64_t>& capacities);
  int64_t position(int64_t row, int64_t slot) const { return positions_[row].empty() ? slot : positions_[row][slot]; }
  /// Whether a group of a row is whole and has no recent token.
  bool old_group(int64_t row, int64_t group) const;
  std::vector<bool> old_groups(int64_t row) const;
  void pack_old(int64_t row);
  void remember_positions(int64_t row);

  int64_t batch_ = 0, heads_ = 0, reserved_ = 0;
  KvFormat format_;
  KvSlab k_, v_;
  std::vector<int64_t> offsets_, capacities_, lengths_;
  std::vector<std::vector<int32_t>> positions_;  // empty: slot s holds token s
  std::vector<int64_t> newest_;                  // position of each row's
};

}  // namespace heed::nn
