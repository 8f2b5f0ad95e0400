// The formula in double, pair by pair.
#include "heed/kernels/span_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/element.h"

namespace heed::kernels::reference {
namespace {

/// One run of one query.
struct Run {
  int64_t b, h, kv, i, r;
  std::vector<int64_t> keys;
};

template <class Visit>
void each_run(const SpanParams& p, const Visit& visit) {
  const auto& size = p.begins.size;
  for (int64_t b = 0; b < size[0]; ++b)
    for (int64_t h = 0; h < size[1]; ++h)
      for (int64_t i = 0; i < size[2]; ++i)
        for (int64_t r = 0; r < size[3]; ++r) {
          Run run{b, h, h * p.k.size[1] / p.q.size[1], i, r, {}};
          for (int64_t j = p.begins.at(b, h, i, r); j < p.ends.at(b, h, i, r); ++j)
            if (p.hidden == nullptr || p.hidden[b * p.hidden_stride + j] == 0) run.keys.push_back(j);
          visit(run);
        }
}

double score(const SpanParams& p, const Run& run, int64_t j) {
  double sum = 0;
  for (int64_t d = 0; d < p.q.size[3]; ++d)
    sum += load_element(p.q, run.b, run.h, run.i, d) * load_element(p.k, run.b, run.kv, j, d);
  return sum * (p.scale != 0 ? p.scale : 1 / std::sqrt(static_cast<double>(p.q.size[3])));
}

void add(const AnyView& to, int64_t b, int64_t h, int64_t n, int64_t d, double value) {
  store_element(to, b, h, n, d, load_element(to, b, h, n, d) + value);
}

}  // namespace

void span_attention(const SpanParams& p) {
  check(p);
  const int64_t columns = p.v.size[3];
  each_run(p, [&](const Run& run) {
    double top = -std::numeric_limits<double>::infinity(), sum = 0;
    for (const int64_t j : run.keys) top = std::max(top, score(p, run, j));
    for (const int64_t j : run.keys) sum += std::exp(score(p, run, j) - top);
    store_element(p.lse, run.b, run.h, run.i, run.r, !run.keys.empty() ? top + std::log(sum) : top);
    for (int64_t c = 0; c < columns; ++c) {
      double value = 0;
      for (const int64_t j : run.keys)
        value += std::exp(score(p, run, j) - top) / sum * load_element(p.v, run.b, run.kv, j, c);
      store_element(p.out, run.b, run.h, run.i, run.r * columns + c, value);
    }
  });
}

void span_attention_backward(const SpanParams& p, const SpanGrads& g) {
  check(p);
  for (const AnyView* view : {&g.d_q, &g.d_k, &g.d_v}) fill(*view, 0);
  const int64_t columns = p.v.size[3];
  const double scale = p.scale != 0 ? p.scale : 1 / std::sqrt(static_cast<double>(p.q.size[3]));
  each_run(p, [&](const Run& run) {
    const auto grad = [&](int64_t c) { return load_element(g.d_out, run.b, run.h, run.i, run.r * columns + c); };
    double shift = load_element(g.d_lse, run.b, run.h, run.i, run.r);
    for (int64_t c = 0; c < columns; ++c)
      shift -= grad(c) * load_element(p.out, run.b, run.h, run.i, run.r * columns + c);
    for (const int64_t j : run.keys) {
      const double weight = std::exp(score(p, run, j) - load_element(p.lse, run.b, run.h, run.i, run.r));
      double slope = shift;
      for (int64_t c = 0; c < columns; ++c) {
        slope += grad(c) * load_element(p.v, run.b, run.kv, j, c);
        add(g.d_v, run.b, run.kv, j, c, weight * grad(c));
      }
      for (int64_t d = 0; d < p.q.size[3]; ++d) {
        add(g.d_q, run.b, run.h, run.i, d, scale * weight * slope * load_element(p.k, run.b, run.kv, j, d));
        add(g.d_k, run.b, run.kv, j, d, scale * weight * slope * load_element(p.q, run.b, run.h, run.i, d));
      }
    }
  });
}

}  // namespace heed::kernels::reference
