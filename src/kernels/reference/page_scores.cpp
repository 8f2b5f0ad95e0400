// Summaries and scores of pages from their definitions, in double.
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/page_scores_problem.h"
#include "kernels/reference/cached_key.h"

namespace heed::kernels::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// scores[b][h][n][s] = the reduction over heads of score(b, query head, n, s); -inf where it is not defined.
template <class Score>
void reduce_scores(const View<float>& scores, int64_t heads, HeadReduction reduction, const Score& score) {
  const int64_t joined = scores.size[1] == 0 ? 0 : heads / scores.size[1];
  for (int64_t b = 0; b < scores.size[0]; ++b) {
    for (int64_t h = 0; h < scores.size[1]; ++h) {
      for (int64_t n = 0; n < scores.size[2]; ++n) {
        for (int64_t s = 0; s < scores.size[3]; ++s) {
          double sum = 0, most = -kInfinity;
          for (int64_t head = h * joined; head < (h + 1) * joined; ++head) {
            const double x = score(b, head, n, s);
            sum += x;
            most = x > most || std::isnan(x) ? x : most;
          }
          const double share = reduction == HeadReduction::mean ? static_cast<double>(joined) : 1;
          scores.at(b, h, n, s) = static_cast<float>(reduction == HeadReduction::max ? most : sum / share);
        }
      }
    }
  }
}

double scale_or_default(double scale, int64_t d) { return scale != 0 ? scale : 1 / std::sqrt(static_cast<double>(d)); }

}  // namespace

void summarize_keys(const KeySummaryParams& p) {
  check(p);
  const DecodeParams problem = decode_problem(p);
  const std::vector<int64_t> lengths = row_lengths(problem);
  const int64_t channels = p.k.channels();
  for (int64_t b = 0; b < batch_of(p); ++b) {
    for (int64_t h = 0; h < p.num_kv_heads; ++h) {
      const int64_t length = lengths[b * p.num_kv_heads + h], seen = summarized_slots(p, b, h);
      for (int64_t page = seen / p.page_slots; page * p.page_slots < length && seen < length; ++page) {
        const int64_t begin = page * p.page_slots, end = std::min(begin + p.page_slots, length);
        for (int64_t c = 0; c < channels; ++c) {
          double most = -kInfinity, least = kInfinity, sum = 0;
          for (int64_t s = begin; s < end; ++s) {
            const double x = cached(problem, p.k, b, h, s, c);
            most = x > most || std::isnan(x) ? x : most;
            least = x < least || std::isnan(x) ? x : least;
            sum += x;
          }
          if (p.extremes) {
            store_element(p.extremes, b, h, page, c, most);
            store_element(p.extremes, b, h, page, channels + c, least);
          }
          if (p.means) store_element(p.means, b, h, page, c, sum / static_cast<double>(end - begin));
        }
      }
    }
  }
}

void page_bounds(const PageBoundsParams& p) {
  check(p);
  const int64_t heads = p.q.size[1], kv_heads = p.extremes.size[1], d = p.q.size[3];
  const double scale = scale_or_default(p.scale, d);
  reduce_scores(p.bounds, heads, p.heads, [&](int64_t b, int64_t head, int64_t n, int64_t page) {
    const int64_t h = head / (heads / kv_heads);
    const int64_t pages = p.lengths == nullptr
                              ? p.extremes.size[2]
                              : blocks_of(p.lengths[b * p.lengths_stride_b + h * p.lengths_stride_h], p.page_slots);
    if (page >= pages) return -kInfinity;
    double bound = 0;
    for (int64_t c = 0; c < d; ++c) {
      const double q = load_element(p.q, b, head, n, c);
      bound += std::max(q * load_element(p.extremes, b, h, page, c), q * load_element(p.extremes, b, h, page, d + c));
    }
    return scale * bound;
  });
}

void block_scores(const BlockScoresParams& p) {
  check(p);
  const int64_t heads = p.q_means.size[1], d = p.q_means.size[3];
  const double scale = scale_or_default(p.scale, d);
  const auto dot = [&](int64_t b, int64_t head, int64_t n, int64_t s) {
    double sum = 0;
    for (int64_t c = 0; c < d; ++c) {
      sum +=
          load_element(p.q_means, b, head, n, c) * load_element(p.k_means, b, head / (heads / p.k_means.size[1]), s, c);
    }
    return scale * sum;
  };
  reduce_scores(p.scores, heads, p.heads, [&](int64_t b, int64_t head, int64_t n, int64_t s) {
    const int64_t visible = visible_blocks(p, n);
    if (s >= visible) return p.softmax ? 0 : -kInfinity;
    if (!p.softmax) return dot(b, head, n, s);
    double top = -kInfinity, sum = 0;
    for (int64_t t = 0; t < visible; ++t) top = std::max(top, dot(b, head, n, t));
    for (int64_t t = 0; t < visible; ++t) sum += std::exp(dot(b, head, n, t) - top);
    return std::exp(dot(b, head, n, s) - top) / sum;
  });
}

}  // namespace heed::kernels::reference
