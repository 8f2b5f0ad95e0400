// One benchmark case of a kernel: the struct that drives its check, its timing and its row.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "heed/kernels/neighborhood.h"

namespace heed::bench {

/// Shape, type and mask of one measured call, and the work that follows from them.
struct KernelCase {
  /// `scores` and `bounds`: slot_scores and page_bounds, maxima over the query heads of a group.
  /// Scans read q_heads as channels (selective) or heads (softmax), kv_heads as groups of B and C, d as states or the
  /// size of values, and queries = keys as tokens; one token is the step of decoding. linear_chunk and delta_chunk read
  /// q_heads = kv_heads and queries = keys as tokens alike.
  enum class Call : uint8_t {
    forward,
    backward,
    decode,
    scores,
    bounds,
    selective_scan,
    selective_scan_backward,
    softmax_scan,
    softmax_scan_backward,
    linear_chunk,
    linear_chunk_backward,
    delta_chunk,
    delta_chunk_backward
  };
  /// What the speed of a call is a share of.
  enum class Bound : uint8_t { arithmetic, reading, states, tiles };
  /// What a second case in the same run is compared by.
  enum class Compared : uint8_t { no, by_time, by_work };

  Call call = Call::forward;
  std::string name;                            ///< "causal forward": what the row calls it
  kernels::DType dtype = kernels::DType::f32;  ///< of q, k, v; of decode's cache
  int64_t batch = 1, q_heads = 8, kv_heads = 8, queries = 4096, keys = 4096, d = 64;  ///< v has the head size of k
  std::string mask;       ///< as heed::kernels::parse_mask reads it; empty: everything
  std::string pattern{};  ///< block lists: "butterfly", "random" or "random 0.05"; empty: none
  int64_t block = 64;     ///< queries and keys a block; of bounds, slots a page

  static constexpr const char* kCoefficients = "coefficients";
  std::string decay{};  ///< linear_chunk, delta_chunk: "", "constant", "scalar", "channel"; or kCoefficients

  /// Windows of a grid of queries = keys cells; forward and backward alone.
  std::optional<kernels::Neighborhood> around{};

  /// Name of the case whose time (or rate of useful work) the row's ratio divides by.
  Compared compared = Compared::no;
  std::string partner{};

  /// "flash", "block_sparse", "decode", "slot_scores", "page_bounds", "selective_scan", "softmax_scan",
  /// "linear_chunk", "delta_chunk" or "neighborhood".
  std::string kernel() const;
  /// "flash causal forward float32 Hq=8 Hkv=8 N=4096 M=4096 D=64": what --filter is matched with.
  std::string id() const;
  /// Every word of `filter` occurs in the id.
  bool matches(const std::string& filter) const;

  /// Visible pairs of query and key over all batch items and query heads, exact.
  int64_t pairs() const;
  /// Useful operations: 2 products of a head size a pair forward, 5 backward, 1 of scores, 2 a page of bounds; a
  /// multiply-add is two operations. Of the chunk form, for chunks of 64 tokens (16 where channels decay by
  /// themselves): linear 2 products a pair of tokens and 2 of the size of the state a token, backward 5 and 5 (weights
  /// and states are computed again); delta 4 and 3, backward 11 and 8. Of the selective scan the updates of states,
  /// one a token, channel and state; of the softmax scan 4 an element of v forward and 8 backward.
  double flops() const;
  /// Bytes of k and v, read once; of scores k alone, of bounds the extremes of every page.
  double kv_bytes() const;
  bool is_scan() const { return call >= Call::selective_scan && call <= Call::softmax_scan_backward; }
  bool is_chunk() const { return call >= Call::linear_chunk; }
  bool is_selective_scan() const { return call == Call::selective_scan || call == Call::selective_scan_backward; }
  bool reads_cache() const { return call == Call::decode || call == Call::scores || call == Call::bounds; }
  /// Of a neighbourhood, how much of its work in tiles can be useful: pairs() over those in the boxes of keys that the
  /// kernel's tiles, or the parts of tiles that skip keys by themselves, visit.
  double useful_in_tiles(bool whole = false) const;
  /// What reads a cache is bound by reading, the selective scan by its exponentials and products, a neighbourhood by
  /// the arithmetic of its tiles, everything else by arithmetic.
  Bound bound() const {
    if (around) return Bound::tiles;
    return reads_cache() ? Bound::reading : is_selective_scan() ? Bound::states : Bound::arithmetic;
  }
  bool bound_by_reading() const { return bound() == Bound::reading; }
};

/// The block lists of a pattern, owned. "butterfly": blocks whose indices differ in at most one bit; "random": the own
/// block and eight others of the sequence, fixed; "random 0.05": the own one and others, that share of all blocks.
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
