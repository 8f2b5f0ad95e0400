// Scores of slots from their definition: every dot product in double, every row by itself.
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/cached_key.h"
#include "kernels/slot_scores_problem.h"

namespace heed::kernels::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<double> row_of(const SlotScoresParams& p, const DecodeParams& problem, int64_t b, int64_t head, int64_t n,
                           int64_t length) {
  const int64_t d_size = p.q.size[3], h = head / (p.q.size[1] / p.num_kv_heads);
  const double scale = p.scale != 0 ? p.scale : 1 / std::sqrt(static_cast<double>(d_size));
  const SlotRange range = candidates(p, length, n);
  std::vector<double> row(p.scores.size[3], -kInfinity);
  for (int64_t s = range.begin; s < range.end; ++s) {
    const std::vector<double> key = key_row(problem, b, h, s);
    double dot = 0;
    for (int64_t d = 0; d < d_size; ++d) dot += load_element(p.q, b, head, n, d) * key[d];
    row[s] = scale * dot;
  }
  if (!p.softmax) return row;
  double top = -kInfinity, sum = 0;
  for (double x : row) top = x > top ? x : top;
  for (double& x : row) sum += x = x == -kInfinity ? 0 : std::exp(x - top);
  for (double& x : row) x = sum == 0 ? 0 : x / sum;
  // A slot that is no candidate has no share in a row of NaN either.
  for (int64_t s = 0; s < p.scores.size[3]; ++s) {
    if (s < range.begin || s >= range.end) row[s] = 0;
  }
  return row;
}

double join(HeadReduction reduction, double a, double b) {
  if (reduction == HeadReduction::max) return std::isnan(a) || b <= a ? a : b;
  return a + b;
}

}  // namespace

void slot_scores(const SlotScoresParams& p) {
  check(p);
  const DecodeParams problem = decode_problem(p);
  const std::vector<int64_t> lengths = row_lengths(problem);
  const int64_t joined = heads_per_score(p), group = p.q.size[1] / p.num_kv_heads;
  for (int64_t b = 0; b < p.scores.size[0]; ++b) {
    for (int64_t h = 0; h < p.scores.size[1]; ++h) {
      for (int64_t n = 0; n < p.scores.size[2]; ++n) {
        std::vector<double> result;
        for (int64_t head = h * joined; head < (h + 1) * joined; ++head) {
          const std::vector<double> row = row_of(p, problem, b, head, n, lengths[b * p.num_kv_heads + head / group]);
          if (result.empty()) {
            result = row;
            continue;
          }
          for (size_t s = 0; s < row.size(); ++s) result[s] = join(p.heads, result[s], row[s]);
        }
        for (int64_t s = 0; s < p.scores.size[3]; ++s) {
          const double share = p.heads == HeadReduction::mean ? static_cast<double>(joined) : 1;
          p.scores.at(b, h, n, s) = static_cast<float>(result[s] / share);
        }
      }
    }
  }
}

}  // namespace heed::kernels::reference
