// The formula in double, query by query.
#include "heed/kernels/grouped_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/element.h"

namespace heed::kernels::reference {
namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

/// One query: the logits of all keys, and what of them is a softmax together.
struct GroupedQuery {
  const GroupedParams& p;
  int64_t b, h, i, kv, own, at;
  std::vector<double> logit, slope;  ///< of each key up to `at`; slope: of the cap

  GroupedQuery(const GroupedParams& params, int64_t batch, int64_t head, int64_t query)
      : p(params), b(batch), h(head), i(query), kv(head * p.k.size[1] / p.q.size[1]) {
    at = p.k.size[2] - p.q.size[2] + i, own = at / p.block;
    for (int64_t j = 0; j <= at; ++j) {
      double s = 0;
      for (int64_t d = 0; d < p.q.size[3]; ++d) s += load_element(p.q, b, h, i, d) * load_element(p.k, b, kv, j, d);
      s *= scale();
      const double t = p.softcap > 0 ? std::tanh(s / p.softcap) : 0;
      logit.push_back(p.softcap > 0 ? p.softcap * t : s);
      slope.push_back(1 - t * t);
    }
  }
  double scale() const { return p.scale != 0 ? p.scale : 1 / std::sqrt(static_cast<double>(p.q.size[3])); }
  bool regular(int64_t j) const { return j % p.block != p.block - 1; }
  bool shown(int64_t j) const { return p.hidden == nullptr || p.hidden[b * p.hidden_stride + j] == 0; }

  double lse_of(const std::vector<int64_t>& keys) const {
    double top = kNone, sum = 0;
    for (const int64_t j : keys) top = std::max(top, logit[j]);
    for (const int64_t j : keys) sum += std::exp(logit[j] - top);
    return keys.empty() ? kNone : top + std::log(sum);
  }
  /// The keys of block g that share its landmark's weight.
  std::vector<int64_t> members(int64_t g) const {
    std::vector<int64_t> keys;
    for (int64_t j = g * p.block; j < std::min((g + 1) * p.block, at + 1); ++j)
      if (regular(j) && shown(j)) keys.push_back(j);
    return keys;
  }
  /// The keys of the outer softmax: landmarks of blocks with members, and the own block's.
  std::vector<int64_t> outer() const {
    auto keys = members(own);
    for (int64_t g = 0; g < own; ++g)
      if (const int64_t landmark = (g + 1) * p.block - 1; shown(landmark) && !members(g).empty())
        keys.push_back(landmark);
    return keys;
  }
};

template <class Visit>
void each_query(const GroupedParams& p, const Visit& visit) {
  for (int64_t b = 0; b < p.q.size[0]; ++b)
    for (int64_t h = 0; h < p.q.size[1]; ++h)
      for (int64_t i = 0; i < p.q.size[2]; ++i) visit(GroupedQuery(p, b, h, i));
}

void add(const AnyView& to, int64_t b, int64_t h, int64_t n, int64_t d, double value) {
  if (to) store_element(to, b, h, n, d, load_element(to, b, h, n, d) + value);
}

}  // namespace

void grouped_attention(const GroupedParams& p) {
  kernels::check(p);
  each_query(p, [&](const GroupedQuery& q) {
    const auto outer = q.outer();
    const double lse = q.lse_of(outer);
    store_element(p.lse, q.b, q.h, q.i, 0, lse);
    std::vector<double> out(p.v.size[3], 0);
    for (const int64_t o : outer) {
      const bool alone = q.regular(o);
      const auto members = alone ? std::vector<int64_t>{o} : q.members(o / p.block);
      const double inner = q.lse_of(members), weight = std::exp(q.logit[o] - lse);
      for (const int64_t j : members)
        for (size_t c = 0; c < out.size(); ++c)
          out[c] += weight * std::exp(q.logit[j] - inner) * load_element(p.v, q.b, q.kv, j, static_cast<int64_t>(c));
    }
    for (size_t c = 0; c < out.size(); ++c) store_element(p.out, q.b, q.h, q.i, static_cast<int64_t>(c), out[c]);
  });
}

void grouped_attention_backward(const GroupedParams& p, const GroupedGrads& g) {
  kernels::check(p);
  // Sums of float elements would round at every step: gradients are summed in double, then stored.
  struct Sums {
    AnyView view;
    std::vector<double> values;
    explicit Sums(const AnyView& to) : view(to), values(to.size[0] * to.size[1] * to.size[2] * to.size[3]) {
      view.data = values.data(), view.dtype = DType::f64, view.stride = dense_strides(to.size);
    }
    void store(const AnyView& to) const {
      for (int64_t b = 0; b < view.size[0]; ++b)
        for (int64_t h = 0; h < view.size[1]; ++h)
          for (int64_t n = 0; n < view.size[2]; ++n)
            for (int64_t d = 0; to && d < view.size[3]; ++d)
              store_element(to, b, h, n, d, load_element(view, b, h, n, d));
    }
  };
  const auto shaped = [](const AnyView& like) {
    AnyView view;
    view.size = like.size;
    return view;
  };
  Sums d_q(shaped(p.q)), d_k(shaped(p.k)), d_v(shaped(p.v));
  each_query(p, [&](const GroupedQuery& q) {
    std::vector<double> d_logit(q.logit.size(), 0);
    const auto d_weight = [&](int64_t j) {
      double sum = 0;
      for (int64_t c = 0; c < p.v.size[3]; ++c)
        sum += load_element(g.d_out, q.b, q.h, q.i, c) * load_element(p.v, q.b, q.kv, j, c);
      return sum;
    };
    double delta = 0;
    for (int64_t c = 0; c < p.v.size[3]; ++c)
      delta += load_element(g.d_out, q.b, q.h, q.i, c) * load_element(p.out, q.b, q.h, q.i, c);
    const auto outer = q.outer();
    const double lse = q.lse_of(outer);
    for (const int64_t o : outer) {
      const auto members = q.regular(o) ? std::vector<int64_t>{o} : q.members(o / p.block);
      const double inner = q.lse_of(members), weight = std::exp(q.logit[o] - lse);
      double mean = 0;
      for (const int64_t j : members) mean += std::exp(q.logit[j] - inner) * d_weight(j);
      for (const int64_t j : members) {
        const double whole = weight * std::exp(q.logit[j] - inner);
        d_logit[j] += whole * (d_weight(j) - mean);
        for (int64_t c = 0; c < p.v.size[3]; ++c)
          add(d_v.view, q.b, q.kv, j, c, whole * load_element(g.d_out, q.b, q.h, q.i, c));
      }
      d_logit[o] += weight * (mean - delta);
    }
    for (int64_t j = 0; j <= q.at; ++j) {
      if (d_logit[j] == 0) continue;
      const double slope = d_logit[j] * q.slope[j] * q.scale();
      for (int64_t d = 0; d < p.q.size[3]; ++d) {
        add(d_q.view, q.b, q.h, q.i, d, slope * load_element(p.k, q.b, q.kv, j, d));
        add(d_k.view, q.b, q.kv, j, d, slope * load_element(p.q, q.b, q.h, q.i, d));
      }
    }
  });
  d_q.store(g.d_q), d_k.store(g.d_k), d_v.store(g.d_v);
}

}  // namespace heed::kernels::reference
