#include <algorithm>
#include <string_view>

#include "heed/error.h"
#include "kernels/select_problem.h"

namespace heed::kernels {
namespace {

template <class T>
void check_dense(const View<T>& view, const char* who, const char* name) {
  const auto& size = view.size;
  require(*std::min_element(size.begin(), size.end()) >= 0,
          "{}: {} are [{}, {}, {}, {}]; sizes of at least 0 are accepted", who, name, size[0], size[1], size[2],
          size[3]);
  require(view.data != nullptr || size[0] * size[1] * size[2] * size[3] == 0, "{}: {} have no data", who, name);
  require(size[3] <= 1 || view.stride[3] == 1, "{}: the last dimension of {} has stride {}; 1 is accepted", who, name,
          view.stride[3]);
}

void check_rows(const ScoreRows& rows, const char* who) {
  check_dense(rows.values, who, "the scores");
  const auto& size = rows.values.size;
  require(size[3] <= INT32_MAX, "{}: rows of {} entries; at most {} are accepted", who, size[3], INT32_MAX);
  each_score_row(rows, [&](const ScoreRow& row) {
    require(row.length >= 0 && row.length <= size[3], "{}: the length of row [{}, {}, {}] is {}; 0 to {} is accepted",
            who, row.b, row.h, row.r, row.length, size[3]);
  });
}

void check_lists(const IndexLists& lists, const std::array<int64_t, 4>& size, int64_t least, const char* who) {
  check_dense(lists.indices, who, "the lists");
  const auto& have = lists.indices.size;
  require(have[0] == size[0] && have[1] == size[1] && have[2] == size[2] && have[3] >= least,
          "{}: the lists are [{}, {}, {}, {}]; [{}, {}, {}, at least {}] is accepted", who, have[0], have[1], have[2],
          have[3], size[0], size[1], size[2], least);
  if (!lists.counts) return;
  const auto& counts = lists.counts.size;
  require(counts == std::array<int64_t, 4>{size[0], size[1], size[2], 1},
          "{}: the counts are [{}, {}, {}, {}]; [{}, {}, {}, 1] is accepted", who, counts[0], counts[1], counts[2],
          counts[3], size[0], size[1], size[2]);
}

void check_forced(int64_t first, int64_t last, const char* who) {
  require(first >= 0 && last >= 0, "{}: {} first and {} last entries are forced; at least 0 is accepted", who, first,
          last);
}

}  // namespace

void check(const TopKParams& p) {
  check_rows(p.scores, "top_k");
  check_forced(p.first, p.last, "top_k");
  require(p.k >= 0, "top_k: k is {}; at least 0 is accepted", p.k);
  check_lists(p.lists, p.scores.values.size, list_capacity(p.scores, p.k, p.first, p.last), "top_k");
}

void check(const TopPParams& p) {
  check_rows(p.scores, "top_p");
  check_forced(p.first, p.last, "top_p");
  // Also refuses NaN.
  require(p.mass >= 0, "top_p: the mass is {}; 0 to 1 is accepted", p.mass);
  require(p.least >= 0 && p.least <= p.most, "top_p: {} to {} entries are asked for; 0 <= least <= most is accepted",
          p.least, p.most);
  check_lists(p.lists, p.scores.values.size, list_capacity(p.scores, p.most, p.first, p.last), "top_p");
}

void check(const PoolParams& p) {
  check_rows(p.in, "pool");
  require(p.width >= 1 && p.width % 2 == 1, "pool: the width is {}; odd numbers from 1 on are accepted", p.width);
  check_dense(p.out, "pool", "the pooled rows");
  const auto &in = p.in.values.size, &out = p.out.size;
  require(in == out, "pool: the result is [{}, {}, {}, {}]; [{}, {}, {}, {}] is accepted", out[0], out[1], out[2],
          out[3], in[0], in[1], in[2], in[3]);
}

void check_reduction(const View<const float>& scores, HeadReduction reduction, const View<float>& reduced) {
  const auto &in = scores.size, &out = reduced.size;
  check_dense(scores, "reduce_heads", "the scores");
  check_dense(reduced, "reduce_heads", "the reduced scores");
  const bool fits = reduction == HeadReduction::none ? in[1] == out[1] : out[1] >= 1 && in[1] % out[1] == 0;
  require(
      in[0] == out[0] && in[2] == out[2] && in[3] == out[3] && fits,
      "reduce_heads: [{}, {}, {}, {}] from scores [{}, {}, {}, {}]; equal sizes, and a number of heads that divides "
      "theirs, are accepted",
      out[0], out[1], out[2], out[3], in[0], in[1], in[2], in[3]);
}

void check_union(const View<const int32_t>& lists, const IndexLists& united) {
  const auto &in = lists.size, &out = united.indices.size;
  check_dense(lists, "unite_heads", "the lists");
  require(out[1] >= 1 && in[1] % out[1] == 0, "unite_heads: {} heads of lists for {} heads; a multiple is accepted",
          in[1], out[1]);
  check_lists(united, {in[0], out[1], in[2], 0}, 0, "unite_heads");
}

}  // namespace heed::kernels
