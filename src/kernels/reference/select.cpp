// Selection by sorting whole rows, pooling by its definition.
#include <cmath>
#include <numeric>

#include "kernels/select_problem.h"

namespace heed::kernels::reference {
namespace {

/// Entries of a row, best first; forced ones before all others.
std::vector<int32_t> ranking(const ScoreRow& row, const Forced& forced) {
  std::vector<int32_t> order(row.length);
  std::iota(order.begin(), order.end(), 0);
  const auto is_forced = [&](int32_t i) { return i < forced.first || i >= forced.last; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    if (is_forced(a) != is_forced(b)) return is_forced(a);
    const double x = row.values[a], y = row.values[b];
    return std::isnan(y) ? !std::isnan(x) : x > y;
  });
  return order;
}

void write_best(const IndexLists& lists, const ScoreRow& row, std::vector<int32_t> order, int64_t count) {
  order.resize(count);
  std::sort(order.begin(), order.end());
  write_list(lists, row, order.data(), count);
}

}  // namespace

void top_k(const TopKParams& p) {
  check(p);
  each_score_row(p.scores, [&](const ScoreRow& row) {
    const Forced forced(p.first, p.last, row.length);
    write_best(p.lists, row, ranking(row, forced), std::min(row.length, std::max(p.k, forced.count(row.length))));
  });
}

void top_p(const TopPParams& p) {
  check(p);
  each_score_row(p.scores, [&](const ScoreRow& row) {
    const Forced forced(p.first, p.last, row.length);
    const std::vector<int32_t> order = ranking(row, forced);
    double total = 0, mass = 0;
    for (int64_t i = 0; i < row.length; ++i) total += weight_in_mass(row.values[i]);
    int64_t count = 0;
    while (count < row.length && (count < forced.count(row.length) || p.mass >= 1 || mass < p.mass * total)) {
      const float weight = weight_in_mass(row.values[order[count]]);
      if (count >= forced.count(row.length) && p.mass < 1 && weight == 0) break;
      mass += weight;
      ++count;
    }
    count = std::max(std::clamp(count, p.least, p.most), forced.count(row.length));
    write_best(p.lists, row, order, std::min(count, row.length));
  });
}

void pool(const PoolParams& p) {
  check(p);
  each_score_row(p.in, [&](const ScoreRow& row) {
    for (int64_t s = 0; s < p.out.size[3]; ++s) {
      double sum = 0, most = -INFINITY;
      int64_t inside = 0;
      for (int64_t t = s - p.width / 2; t <= s + p.width / 2; ++t) {
        if (t < 0 || t >= row.length) continue;
        const double x = row.values[t];
        most = x > most || std::isnan(x) ? x : most;
        sum += x, ++inside;
      }
      const int64_t share = p.edges == PoolParams::Edges::corrected ? inside : p.width;
      const double average = sum / static_cast<double>(share);
      p.out.at(row.b, row.h, row.r, s) =
          s >= row.length ? -INFINITY : static_cast<float>(p.kind == PoolParams::Kind::max ? most : average);
    }
  });
}

}  // namespace heed::kernels::reference
