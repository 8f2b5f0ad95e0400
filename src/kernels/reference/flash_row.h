// What the references of flash and of its weights share: one query row of the formula of docs/semantics.md, in double.
#pragma once

#include <limits>
#include <vector>

#include "kernels/flash_problem.h"
#include "kernels/philox.h"
#include "kernels/reference/accumulator.h"
#include "kernels/reference/element.h"

namespace heed::kernels::reference {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Matrix {
  int64_t columns = 0;
  std::vector<double> values;
  double* row(int64_t r) { return values.data() + r * columns; }
  const double* row(int64_t r) const { return values.data() + r * columns; }
};

inline Matrix read_rows(const AnyView& view, int64_t b, int64_t h, int64_t begin, int64_t count) {
  Matrix m{view.size[3], std::vector<double>(count * view.size[3])};
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t d = 0; d < m.columns; ++d) m.row(r)[d] = load_element(view, b, h, begin + r, d);
  }
  return m;
}

inline double dot(const double* a, const double* b, int64_t size) {
  double sum = 0;
  for (int64_t d = 0; d < size; ++d) sum += a[d] * b[d];
  return sum;
}

/// One (sequence, head), and the state of its current row.
class Row {
 public:
  Row(const FlashParams& params, const Sequence& sequence, int64_t head)
      : p_(params), s_(sequence), h_(head), scope_(scope_of(sequence, head)), scale_(scale_of(params)) {
    k = read_rows(p_.k, s_.tensor_batch, key_head(p_, h_), s_.k_begin, s_.num_keys);
    v = read_rows(p_.v, s_.tensor_batch, value_head(p_, h_), s_.k_begin, s_.num_keys);
    for (auto* column : {&capped, &logit, &weight, &normal, &after}) column->resize(s_.num_keys);
    seen.resize(s_.num_keys);
  }

  /// Everything up to the weights of query i.
  void evaluate(int64_t i, const double* q) {
    const int64_t keys = s_.num_keys;
    const Scores& scores = p_.scores;
    temperature = scores.temperature ? load_element(scores.temperature, s_.index, h_, i) : 1;
    sink = p_.normalizer.sink_logit ? load_element(p_.normalizer.sink_logit, 0, h_, 0) : -kInfinity;
    for (int64_t j = 0; j < keys; ++j) {
      seen[j] = listed(i, j) && p_.mask.visible(scope_, i, j);
      logit[j] = -kInfinity;
      if (!seen[j]) continue;
      double s = scale_ * dot(q, k.row(j), k.columns);
      if (scores.softcap > 0) s = scores.softcap * std::tanh(s / scores.softcap);
      capped[j] = s;
      if (scores.bias) s += load_element(scores.bias, s_.index, h_, i, j);
      if (scores.alibi_slopes != nullptr)
        s -= scores.alibi_slopes[h_] * std::fabs(static_cast<double>(i + keys - s_.num_queries - j));
      logit[j] = s / temperature;
    }
    normalize(i);
  }

  double keep(int64_t i, int64_t j) const {
    const Dropout& dropout = p_.dropout;
    if (dropout.probability == 0) return 1;
    if (!dropout_keeps(dropout.seed, dropout_threshold(dropout.probability), s_.index, h_, i, j)) return 0;
    return 1 / (1 - dropout.probability);
  }

  Matrix k, v;
  std::vector<char> seen;
  std::vector<double> capped;  ///< logit after the soft cap
  std::vector<double> logit;   ///< after every score term
  std::vector<double> weight;  ///< softmax or sigmoid
  std::vector<double> normal;  ///< normaliser's output (differs from weight when clipped)
  std::vector<double> after;   ///< what multiplies v
  double temperature = 1, sink = -kInfinity, lse = -kInfinity;
  double gamma = 0;  ///< of clipped softmax

 private:
  bool listed(int64_t i, int64_t j) const {
    if (p_.blocks == nullptr) return true;
    const BlockList& list = *p_.blocks;
    const int64_t row = list_row(list, s_.index, h_, i / list.query_block);
    for (int64_t c = list.offsets[row]; c < list.offsets[row + 1]; ++c) {
      if (list.columns[c] == j / list.key_block) return true;
    }
    return false;
  }

  void normalize(int64_t i) {
    const int64_t keys = s_.num_keys;
    const Normalizer& n = p_.normalizer;
    if (n.kind == Normalizer::Kind::sigmoid) {
      const double bias = n.sigmoid_bias ? load_element(n.sigmoid_bias, 0, h_, 0) : default_sigmoid_bias(s_);
      for (int64_t j = 0; j < keys; ++j) weight[j] = normal[j] = seen[j] ? 1 / (1 + std::exp(-(logit[j] + bias))) : 0;
    } else {
      double top = sink, sum = 0;
      gamma = n.gamma;
      if (n.gamma_per_key) gamma /= std::max<int64_t>(1, std::count(seen.begin(), seen.end(), 1));
      for (int64_t j = 0; j < keys; ++j) {
        if (seen[j] && (logit[j] > top || std::isnan(logit[j]))) top = logit[j];
      }
      if (top == -kInfinity) top = 0;
      for (int64_t j = 0; j < keys; ++j) {
        weight[j] = seen[j] ? std::exp(logit[j] - top) : 0;
        sum += weight[j];
      }
      sum += std::exp(sink - top);
      lse = top + std::log(sum);
      for (int64_t j = 0; j < keys; ++j) {
        if (sum != 0) weight[j] /= sum;
        normal[j] = weight[j];
        if (n.kind == Normalizer::Kind::clipped_softmax && seen[j]) {
          const double stretched = (n.zeta - gamma) * weight[j] + gamma;
          normal[j] = std::isnan(stretched) ? stretched : std::min(1.0, std::max(0.0, stretched));
        }
      }
    }
    for (int64_t j = 0; j < keys; ++j) {
      after[j] = 0;
      if (!seen[j]) continue;
      after[j] = normal[j] * keep(i, j);
      if (p_.scores.multiplier) after[j] *= load_element(p_.scores.multiplier, s_.index, h_, i, j);
    }
  }

  const FlashParams& p_;
  const Sequence s_;
  const int64_t h_;
  const MaskScope scope_;
  const double scale_;
};

}  // namespace heed::kernels::reference
