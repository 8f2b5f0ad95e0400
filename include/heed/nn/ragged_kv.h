// Keys and values of which every (sequence, KV head) holds its own set, growing and shrinking on its own.
#pragma once

#include <torch/torch.h>

#include <vector>

namespace heed::nn {

/// One slab of slots for keys and one for values; row r = b * heads + h owns slots [offset(r), offset(r) +
/// capacity(r)), of which the first length(r) are in use. Offsets and capacities are multiples of kPage, so that a page
/// table addresses any row.
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

  int64_t batch() const { return batch_; }
  int64_t heads() const { return heads_; }
  int64_t rows() const { return batch_ * heads_; }
  int64_t length(int64_t row) const { return lengths_[row]; }
  int64_t longest() const;
  int64_t offset(int64_t row) const { return offsets_[row]; }
  /// All rows hold equally many slots at equal distances: keys() and values() exist.
  bool uniform() const;

  torch::Tensor keys() const;                  ///< [B, H, length, D], a view; only when uniform
  torch::Tensor values() const;                ///< [B, H, length, Dv], a view; only when uniform
  torch::Tensor keys(int64_t row) const;       ///< [length, D], a view
  torch::Tensor values(int64_t row) const;     ///< [length, Dv], a view
  torch::Tensor positions(int64_t row) const;  ///< int64 [length]: the token in each slot
  torch::Tensor lengths() const;               ///< int64 [B, H]

  const torch::Tensor& key_slab() const { return k_; }    ///< [slots, D]
  const torch::Tensor& value_slab() const { return v_; }  ///< [slots, Dv]
  /// int32 [B, H, pages]: the pages of every row in order; entries beyond a row's last page are 0.
  torch::Tensor page_table() const;

  int64_t bytes() const;
  /// Of keys and values alone if no slot were spare.
  int64_t used_bytes() const;

 private:
  void lay_out(const std::vector<int64_t>& capacities);
  void remember_positions(int64_t row);

  int64_t batch_ = 0, heads_ = 0, reserved_ = 0;
  torch::Tensor k_, v_;
  std::vector<int64_t> offsets_, capacities_, lengths_;
  std::vector<std::vector<int32_t>> positions_;  // empty: slot s holds token s
};

}  // namespace heed::nn
