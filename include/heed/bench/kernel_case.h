// One benchmark case of a kernel: the struct that drives its check, its timing and its row.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "heed/kernels/flash.h"

namespace heed::bench {

/// Shape, type and mask of one measured call, and the work that follows from them.
struct KernelCase {
  /// `scores` and `bounds`: slot_scores and page_bounds, maxima over the query heads of a group.
  enum class Call : uint8_t { forward, backward, decode, scores, bounds };
  /// What a second case in the same run is compared by.
  enum class Compared : uint8_t { no, by_time, by_work };

  Call call = Call::forward;
  std::string name;                            ///< "causal forward": what the row calls it
  kernels::DType dtype = kernels::DType::f32;  ///< of q, k, v; of decode's cache
  int64_t batch = 1, q_heads = 8, kv_heads = 8, queries = 4096, keys = 4096, d = 64;  ///< v has the head size of k
  std::string mask;       ///< as heed::kernels::parse_mask reads it; empty: everything
  std::string pattern{};  ///< block lists: "butterfly" or "random"; empty: none
  int64_t block = 64;     ///< queries and keys a block; of bounds, slots a page

  /// Name of the case whose time (or rate of useful work) the row's ratio divides by.
  Compared compared = Compared::no;
  std::string partner{};

  /// "flash", "block_sparse", "decode", "slot_scores" or "page_bounds".
  std::string kernel() const;
  /// "flash causal forward float32 Hq=8 Hkv=8 N=4096 M=4096 D=64": what --filter is matched with.
  std::string id() const;
  /// Every word of `filter` occurs in the id.
  bool matches(const std::string& filter) const;

  /// Visible pairs of query and key over all batch items and query heads, exact.
  int64_t pairs() const;
  /// Useful operations: 2 products of a head size a pair forward, 5 backward, 1 of scores, 2 a page of bounds; a
  /// multiply-add is two operations.
  double flops() const;
  /// Bytes of k and v, read once; of scores k alone, of bounds the extremes of every page.
  double kv_bytes() const;
  /// What reads a cache is bound by reading, everything else by arithmetic.
  bool bound_by_reading() const { return call != Call::forward && call != Call::backward; }
};

/// The block lists of a pattern, owned. "butterfly": blocks whose indices differ in at most one bit; "random": the own
/// block and eight others of the sequence, fixed.
struct OwnedBlockList {
  std::vector<int64_t> offsets;
  std::vector<int32_t> columns;
  kernels::BlockList list;

  OwnedBlockList(const std::string& pattern, int64_t queries, int64_t keys, int64_t block);
  OwnedBlockList(const OwnedBlockList&) = delete;
};

/// The cases of `heed bench`, or a few small ones of every kind.
std::vector<KernelCase> kernel_cases(bool quick);

}  // namespace heed::bench
