#include "heed/kernels/span_attention.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "kernels/cpu/band_task.h"
#include "kernels/reference/element.h"

namespace heed::kernels {
namespace {

double scale_of(const SpanParams& p) {
  return p.scale != 0 ? p.scale : 1 / std::sqrt(static_cast<double>(p.q.size[3]));
}

/// Entries for the keys of a run, whose places count from 0, and as many numbers.
struct Run {
  std::vector<BandEntry> entries;
  std::vector<float> weights, slopes;

  void begin(const SpanParams& p, int64_t b, int64_t h, int64_t i, int64_t r) {
    const uint8_t* hidden = p.hidden == nullptr ? nullptr : p.hidden + b * p.hidden_stride;
    const int32_t first = p.begins.at(b, h, i, r), end = p.ends.at(b, h, i, r);
    entries.clear();
    for (int32_t j = first; j < end; ++j)
      if (hidden == nullptr || hidden[j] == 0) entries.push_back({j, static_cast<int32_t>(entries.size())});
    weights.resize(entries.size());
    slopes.resize(entries.size());
  }
  BandRow of(const View<float>& rows, int64_t b, int64_t h) const {
    return {entries.data(), static_cast<int64_t>(entries.size()), rows.row(b, h, 0), rows.stride[2], rows.size[3]};
  }
};

}  // namespace

void check(const SpanParams& p) {
  const DType type = p.q.dtype;
  require(type == DType::f32 || type == DType::f64, "span attention of {}: float32 and float64 are accepted",
          name_of(type));
  for (const AnyView* view : {&p.q, &p.k, &p.v, &p.out, &p.lse}) {
    require(view->dtype == type, "span attention of {} and {}: one type is accepted", name_of(type),
            name_of(view->dtype));
    require(view->size[3] <= 1 || view->stride[3] == 1, "span attention: a last dimension of stride {}: 1 is accepted",
            view->stride[3]);
  }
  const auto &q = p.q.size, &k = p.k.size, &v = p.v.size;
  require(k[0] == q[0] && k[3] == q[3] && k[1] > 0 && q[1] % k[1] == 0,
          "span attention: k of [{}, {}, {}, {}] for q of [{}, {}, {}, {}]", k[0], k[1], k[2], k[3], q[0], q[1], q[2],
          q[3]);
  require(v[0] == k[0] && v[1] == k[1] && v[2] == k[2], "span attention: v of [{}, {}, {}]: [{}, {}, {}] is accepted",
          v[0], v[1], v[2], k[0], k[1], k[2]);
  const int64_t runs = p.begins.size[3];
  require(p.begins.size == std::array<int64_t, 4>({q[0], q[1], q[2], runs}) && p.ends.size == p.begins.size,
          "span attention: runs of shape [{}, {}, {}, {}]: [{}, {}, {}, R] is accepted", p.begins.size[0],
          p.begins.size[1], p.begins.size[2], runs, q[0], q[1], q[2]);
  require(p.out.size == std::array<int64_t, 4>({q[0], q[1], q[2], runs * v[3]}) && p.lse.size == p.begins.size,
          "span attention: out or lse do not fit {} runs of {} channels", runs, v[3]);
  for (int64_t b = 0; b < q[0]; ++b)
    for (int64_t h = 0; h < q[1]; ++h)
      for (int64_t i = 0; i < q[2]; ++i)
        for (int64_t r = 0; r < runs; ++r) {
          const int64_t begin = p.begins.at(b, h, i, r), end = p.ends.at(b, h, i, r);
          require(end <= begin || (begin >= 0 && end <= k[2]), "span attention: run [{}, {}) of {} keys", begin, end,
                  k[2]);
        }
}

void span_attention(const SpanParams& p) {
  if (use_reference() || p.q.dtype == DType::f64) return reference::span_attention(p);
  check(p);
  const auto q = p.q.as<float>(), k = p.k.as<float>(), v = p.v.as<float>(), out = p.out.as<float>(),
             lse = p.lse.as<float>();
  const int64_t heads = q.size[1], queries = q.size[2], rows = q.size[0] * heads * queries, runs = p.begins.size[3],
                group = heads / std::max<int64_t>(1, k.size[1]), columns = v.size[3];
  const auto scale = static_cast<float>(scale_of(p));
  const int threads = static_cast<int>(std::clamp<int64_t>(rows, 1, num_threads()));
#pragma omp parallel num_threads(threads)
  {
    Run run;
#pragma omp for schedule(dynamic, 16)
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t b = row / queries / heads, h = row / queries % heads, i = row % queries;
      for (int64_t r = 0; r < runs; ++r) {
        float* const to = out.row(b, h, i) + r * columns;
        std::fill_n(to, columns, 0.0f);
        run.begin(p, b, h, i, r);
        if (run.entries.empty()) {
          lse.at(b, h, i, r) = -INFINITY;
          continue;
        }
        band_row_scores(run.of(k, b, h / group), q.row(b, h, i), scale, run.weights.data());
        const float top = *std::max_element(run.weights.begin(), run.weights.end());
        float sum = 0;
        for (float& weight : run.weights) sum += weight = std::exp(weight - top);
        lse.at(b, h, i, r) = top + std::log(sum);
        for (float& weight : run.weights) weight /= sum;
        band_row_sums(run.of(v, b, h / group), run.weights.data(), to);
      }
    }
  }
}

void span_attention_backward(const SpanParams& p, const SpanGrads& g) {
  if (use_reference() || p.q.dtype == DType::f64) return reference::span_attention_backward(p, g);
  check(p);
  const auto q = p.q.as<float>(), k = p.k.as<float>(), v = p.v.as<float>(), out = p.out.as<float>(),
             lse = p.lse.as<float>(), d_out = g.d_out.as<float>(), d_lse = g.d_lse.as<float>(), d_q = g.d_q.as<float>(),
             d_k = g.d_k.as<float>(), d_v = g.d_v.as<float>();
  for (const AnyView* view : {&g.d_q, &g.d_k, &g.d_v}) fill(*view, 0);
  const int64_t kv_heads = k.size[1], group = q.size[1] / std::max<int64_t>(1, kv_heads), runs = p.begins.size[3],
                columns = v.size[3], items = q.size[0] * kv_heads;
  const auto scale = static_cast<float>(scale_of(p));
  const int threads = static_cast<int>(std::clamp<int64_t>(items, 1, num_threads()));
#pragma omp parallel num_threads(threads)
  {
    Run run;
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < items; ++item) {
      const int64_t b = item / kv_heads, kv = item % kv_heads;
      for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
        for (int64_t i = 0; i < q.size[2]; ++i) {
          for (int64_t r = 0; r < runs; ++r) {
            run.begin(p, b, h, i, r);
            if (run.entries.empty()) continue;
            const float *grad = d_out.row(b, h, i) + r * columns, *result = out.row(b, h, i) + r * columns;
            // Of the softmax: p_j (g v_j - g out + d_lse).
            float shift = d_lse.at(b, h, i, r);
            for (int64_t c = 0; c < columns; ++c) shift -= grad[c] * result[c];
            band_row_scores(run.of(k, b, kv), q.row(b, h, i), scale, run.weights.data());
            band_row_scores(run.of(v, b, kv), grad, 1, run.slopes.data());
            for (size_t e = 0; e < run.entries.size(); ++e) {
              run.weights[e] = std::exp(run.weights[e] - lse.at(b, h, i, r));
              run.slopes[e] = scale * run.weights[e] * (run.slopes[e] + shift);
            }
            band_row_sums(run.of(k, b, kv), run.slopes.data(), d_q.row(b, h, i));
            band_row_adds(run.of(d_k, b, kv), run.slopes.data(), q.row(b, h, i), d_k.row(b, kv, 0));
            band_row_adds(run.of(d_v, b, kv), run.weights.data(), grad, d_v.row(b, kv, 0));
          }
        }
      }
    }
  }
}

}  // namespace heed::kernels
