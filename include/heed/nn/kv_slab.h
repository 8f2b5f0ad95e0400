// Slots of keys, or of values, in one of the formats of a cache.
#pragma once

#include "heed/nn/kv_format.h"
#include "heed/ops/cache.h"

namespace heed::nn {

/// Rows of slots lie one behind the other; who owns which is RaggedKv's. In a format with exact recent tokens a group
/// of 32 slots is either codes or exact; rows then begin at whole groups.
class KvSlab {
 public:
  /// A row's `count` slots from one place to another.
  struct Move {
    int64_t from, to, count;
  };

  KvSlab() = default;
  /// Empty, of vectors like those of `x` [..., D]. `by_channel`: groups of a channel over slots, of 2 or 4 bits. Throws
  /// heed::Error for a D that does not fill whole bytes.
  KvSlab(const KvFormat& format, bool by_channel, const torch::Tensor& x, int64_t slots);

  bool defined() const { return data_.defined(); }
  int64_t slots() const { return data_.size(0); }
  int64_t dim() const { return dim_; }
  torch::ScalarType dtype() const { return dtype_; }
  /// The slots as they lie: [slots, D], or bytes.
  const torch::Tensor& data() const { return data_; }
  /// How the data is read; empty for the exact format.
  ops::CodeTensors codes() const;

  /// Slots [at, at + n) become x [n, D]. Groups with exact slots become exact where they are not.
  void write(int64_t at, const torch::Tensor& x);
  /// The same for the slots of a row from the beginning of a group on; group g is kept as codes where pack[g].
  void write_row(int64_t at, const torch::Tensor& x, const std::vector<bool>& pack);
  /// The same with the slots `index`, which are read before; codes that belong to one slot are moved as they are.
  void select(int64_t at, const torch::Tensor& index, const std::vector<bool>& pack);
  /// A whole group in use, from slot `at` on, becomes codes unless it is.
  void pack(int64_t at);
  /// Whole groups of slots [from, to) are in no use.
  void forget(int64_t from, int64_t to);
  bool packed(int64_t at) const { return exact_of_.data_ptr<int32_t>()[at / KvFormat::kGroup] < 0; }

  /// [n, D] of slots `index` (int64), in the dtype that was written.
  torch::Tensor at(const torch::Tensor& index) const;
  /// [count, D], in the exact format a view.
  torch::Tensor read(int64_t at, int64_t count) const;

  /// A slab of `slots` slots that holds only what is moved.
  void lay_out(int64_t slots, const std::vector<Move>& moves);
  /// Gives room for exact groups back where much of it is in no use.
  void trim();
  KvSlab clone() const;
  int64_t bytes() const;
  /// What one slot takes as code.
  double slot_bytes() const;

 private:
  bool grouped() const { return exact_of_.defined(); }
  int64_t channel_group() const { return by_channel_ ? 1 : KvFormat::kGroup; }
  int64_t slot_group() const { return by_channel_ ? KvFormat::kGroup : 1; }
  void encode(int64_t at, const torch::Tensor& x);
  torch::Tensor decode(const torch::Tensor& index) const;
  /// The exact slots [32, D] of the group at slot `at`, which is made one if it isn't.
  torch::Tensor exact_group(int64_t at, bool filled);
  void release(int64_t group);

  KvFormat format_;
  bool by_channel_ = false;
  int64_t dim_ = 0;
  torch::ScalarType dtype_ = torch::kFloat32;
  torch::Tensor data_;         // [slots, D] exact or int8, uint8 [slots, D * bits / 8]
  torch::Tensor scale_;        // float [slots, 1] of int8, half [slots / slot_group, D / channel_group]
  torch::Tensor zero_;         // half, likewise
  torch::Tensor exact_of_;     // int32 [slots / 32]
  torch::Tensor exact_;        // [E, 32, D]
  std::vector<int32_t> free_;  // of exact_
};

}  // namespace heed::nn
