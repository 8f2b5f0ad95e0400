#include <string>

#include "heed/error.h"
#include "kernels/slot_scores_problem.h"

namespace heed::kernels {
namespace {

/// decode's own check, in the name of this call.
void check_as_decode(const DecodeParams& problem) {
  const std::string_view prefix = "decode: ";
  try {
    check(problem);
  } catch (const Error& error) {
    std::string_view text = error.what();
    if (text.substr(0, prefix.size()) == prefix) text.remove_prefix(prefix.size());
    fail("slot_scores: {}", text);
  }
}

}  // namespace

DecodeParams decode_problem(const SlotScoresParams& p) {
  DecodeParams problem;
  problem.q = p.q, problem.out = p.q;
  problem.k = p.k, problem.v = p.k;
  problem.num_kv_heads = p.num_kv_heads;
  problem.lengths = p.lengths, problem.lengths_stride_b = p.lengths_stride_b;
  problem.lengths_stride_h = p.lengths_stride_h;
  problem.scale = p.scale;
  problem.rotation = p.rotation;
  problem.mask = {};
  return problem;
}

void check(const SlotScoresParams& p) {
  const DecodeParams problem = decode_problem(p);
  check_as_decode(problem);
  require(p.begin >= 0 && p.exclude_last >= 0,
          "slot_scores: {} slots at the beginning and {} at the end are left out; at least 0 is accepted", p.begin,
          p.exclude_last);
  const auto& size = p.scores.size;
  const int64_t batch = p.q.size[0], heads = p.q.size[1], rows = p.q.size[2];
  const bool reduced = p.heads != HeadReduction::none;
  const bool heads_fit = reduced ? size[1] == p.num_kv_heads || size[1] == 1 : size[1] == heads;
  require(size[0] == batch && size[2] == rows && heads_fit,
          "slot_scores: scores are [{}, {}, {}, {}]; [{}, {}, {}, slots] is accepted", size[0], size[1], size[2],
          size[3], batch, reduced ? fmt::format("{} or 1", p.num_kv_heads) : fmt::format("{}", heads), rows);
  require(p.scores || batch * heads * rows * size[3] == 0, "slot_scores: scores have no data");
  require(size[3] <= 1 || p.scores.stride[3] == 1,
          "slot_scores: the last dimension of the scores has stride {}; 1 is accepted", p.scores.stride[3]);
  const std::vector<int64_t> lengths = row_lengths(problem);
  for (size_t row = 0; row < lengths.size(); ++row) {
    const int64_t b = static_cast<int64_t>(row) / p.num_kv_heads, h = static_cast<int64_t>(row) % p.num_kv_heads;
    require(lengths[row] <= size[3], "slot_scores: sequence {}, head {} has {} slots and the scores {}", b, h,
            lengths[row], size[3]);
    require(!reduced || size[1] == p.num_kv_heads || lengths[row] == lengths[b * p.num_kv_heads],
            "slot_scores: sequence {} has {} slots in head {} and {} in head 0; scores over all heads need equal "
            "lengths",
            b, lengths[row], h, lengths[b * p.num_kv_heads]);
  }
}

}  // namespace heed::kernels
