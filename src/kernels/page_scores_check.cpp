#include <cmath>
#include <string>

#include "heed/error.h"
#include "kernels/page_scores_problem.h"

namespace heed::kernels {
namespace {

std::string text_of(const std::array<int64_t, 4>& size) {
  return fmt::format("[{}, {}, {}, {}]", size[0], size[1], size[2], size[3]);
}

/// The check of the call that does the work, in the name of this one.
template <class Params>
void check_as(const Params& problem, std::string_view prefix, const char* who) {
  try {
    check(problem);
  } catch (const Error& error) {
    std::string_view text = error.what();
    if (text.substr(0, prefix.size()) == prefix) text.remove_prefix(prefix.size());
    fail("{}: {}", who, text);
  }
}

void check_summary(const KeySummaryParams& p, const AnyView& view, const char* name, DType dtype, int64_t width) {
  if (!view) return;
  require(view.dtype == dtype, "summarize_keys: {} are {}; {} is accepted", name, name_of(view.dtype), name_of(dtype));
  const auto& size = view.size;
  require(size[0] == batch_of(p) && size[1] == p.num_kv_heads && size[3] == width,
          "summarize_keys: {} are {}; [{}, {}, pages, {}] is accepted", name, text_of(size), batch_of(p),
          p.num_kv_heads, width);
  require(size[3] == 1 || view.stride[3] == 1, "summarize_keys: the last dimension of {} has stride {}; 1 is accepted",
          name, view.stride[3]);
}

}  // namespace

DecodeParams decode_problem(const KeySummaryParams& p) {
  DecodeParams problem;
  const int64_t d = p.k.channels();
  problem.q.dtype = p.k.data.dtype == DType::f64 ? DType::f64 : DType::f32;
  problem.q.size = {batch_of(p), p.num_kv_heads, 1, d};
  problem.q.stride = dense_strides(problem.q.size);
  problem.out = problem.q;
  problem.k = p.k, problem.v = p.k;
  problem.num_kv_heads = p.num_kv_heads;
  problem.lengths = p.lengths, problem.lengths_stride_b = p.lengths_stride_b;
  problem.lengths_stride_h = p.lengths_stride_h;
  problem.mask = {};
  return problem;
}

void check(const KeySummaryParams& p) {
  require(p.extremes || p.means, "summarize_keys: neither extremes nor means are asked for");
  require(p.page_slots >= 1, "summarize_keys: pages of {} slots; at least 1 is accepted", p.page_slots);
  const DecodeParams problem = decode_problem(p);
  check_as(problem, "decode: ", "summarize_keys");
  const DType type = p.k.data.dtype, wide = type == DType::f64 ? DType::f64 : DType::f32;
  const int64_t d = p.k.channels();
  check_summary(p, p.extremes, "extremes", type == DType::i8 ? DType::f32 : type, 2 * d);
  check_summary(p, p.means, "means", wide, d);
  const std::vector<int64_t> lengths = row_lengths(problem);
  for (size_t row = 0; row < lengths.size(); ++row) {
    const int64_t b = static_cast<int64_t>(row) / p.num_kv_heads, h = static_cast<int64_t>(row) % p.num_kv_heads;
    const int64_t seen = summarized_slots(p, b, h), pages = blocks_of(lengths[row], p.page_slots);
    require(seen >= 0 && seen <= lengths[row],
            "summarize_keys: sequence {}, head {} has {} slots of which {} are summarised; 0 to {} is accepted", b, h,
            lengths[row], seen, lengths[row]);
    for (const AnyView* view : {&p.extremes, &p.means}) {
      require(!*view || pages <= view->size[2],
              "summarize_keys: sequence {}, head {} has {} pages and the summaries {}", b, h, pages, view->size[2]);
    }
  }
}

SlotScoresParams slot_problem(const PageBoundsParams& p, const AnyView& split_queries,
                              std::vector<int64_t>& page_lengths) {
  SlotScoresParams problem;
  problem.q = split_queries;
  problem.k.data = p.extremes;
  problem.num_kv_heads = p.extremes.size[1];
  if (p.lengths != nullptr) {
    page_lengths.clear();
    for (int64_t b = 0; b < p.q.size[0]; ++b) {
      for (int64_t h = 0; h < problem.num_kv_heads; ++h) {
        page_lengths.push_back(blocks_of(p.lengths[b * p.lengths_stride_b + h * p.lengths_stride_h], p.page_slots));
      }
    }
    problem.lengths = page_lengths.data(), problem.lengths_stride_b = problem.num_kv_heads,
    problem.lengths_stride_h = 1;
  }
  problem.scale = p.scale != 0 ? p.scale : 1 / std::sqrt(static_cast<double>(p.q.size[3]));
  problem.heads = p.heads;
  problem.scores = p.bounds;
  return problem;
}

void check(const PageBoundsParams& p) {
  require(p.page_slots >= 1, "page_bounds: pages of {} slots; at least 1 is accepted", p.page_slots);
  require(std::isfinite(p.scale) && p.scale >= 0,
          "page_bounds: the scale is {}; 0 (the default) or a positive number is accepted", p.scale);
  require(p.extremes.size[3] == 2 * p.q.size[3],
          "page_bounds: extremes are {} for queries of head size {}; [{}, heads, "
          "pages, {}] is accepted",
          text_of(p.extremes.size), p.q.size[3], p.q.size[0], 2 * p.q.size[3]);
  require(p.q.size[3] <= 1 || p.q.stride[3] == 1, "page_bounds: the last dimension of q has stride {}; 1 is accepted",
          p.q.stride[3]);
  for (int64_t b = 0; p.lengths != nullptr && b < p.q.size[0]; ++b) {
    for (int64_t h = 0; h < p.extremes.size[1]; ++h) {
      const int64_t length = p.lengths[b * p.lengths_stride_b + h * p.lengths_stride_h];
      require(length >= 0, "page_bounds: the length of sequence {}, head {} is {}; at least 0 is accepted", b, h,
              length);
    }
  }
  // Queries are split later; of them the shape counts.
  AnyView split = p.q;
  split.size[3] *= 2;
  std::vector<int64_t> lengths;
  check_as(slot_problem(p, split, lengths), "slot_scores: ", "page_bounds");
}

SlotScoresParams slot_problem(const BlockScoresParams& p, std::vector<int64_t>& limits) {
  SlotScoresParams problem;
  problem.q = p.q_means;
  problem.k.data = p.k_means;
  problem.num_kv_heads = p.k_means.size[1];
  problem.scale = p.scale, problem.softmax = p.softmax, problem.heads = p.heads, problem.scores = p.scores;
  limits.clear();
  for (int64_t block = 0; block < p.q_means.size[2]; ++block) limits.push_back(visible_blocks(p, block));
  problem.row_limits = limits.data();
  return problem;
}

void check(const BlockScoresParams& p) {
  require(p.query_block >= 1 && p.key_block >= 1,
          "block_scores: blocks of {} queries and {} keys; at least 1 is accepted", p.query_block, p.key_block);
  require(
      p.queries >= 0 && p.keys >= 0 && p.q_means.size[2] == blocks_of(p.queries, p.query_block) &&
          p.k_means.size[2] == blocks_of(p.keys, p.key_block),
      "block_scores: {} and {} pooled rows of {} queries in blocks of {} and {} keys in blocks of {}; {} and {} are "
      "accepted",
      p.q_means.size[2], p.k_means.size[2], p.queries, p.query_block, p.keys, p.key_block,
      blocks_of(p.queries, p.query_block), blocks_of(p.keys, p.key_block));
  std::vector<int64_t> limits;
  check_as(slot_problem(p, limits), "slot_scores: ", "block_scores");
}

}  // namespace heed::kernels
