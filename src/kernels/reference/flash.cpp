// The formula of docs/semantics.md, written out in double, row by row.
#include "kernels/reference/flash_row.h"

namespace heed::kernels::reference {

void flash_forward(const FlashParams& p) {
  check(p);
  fill(p.out, 0);
  if (p.lse) fill(p.lse, -kInfinity);
  for (int64_t s = 0; s < count_sequences(p); ++s) {
    const Sequence sequence = sequence_at(p, s);
    const int64_t b = sequence.tensor_batch;
    for (int64_t h = 0; h < p.q.size[1]; ++h) {
      Row row(p, sequence, h);
      const Matrix q = read_rows(p.q, b, h, sequence.q_begin, sequence.num_queries);
      std::vector<double> out(p.v.size[3]);
      for (int64_t i = 0; i < sequence.num_queries; ++i) {
        row.evaluate(i, q.row(i));
        std::fill(out.begin(), out.end(), 0.0);
        for (int64_t j = 0; j < sequence.num_keys; ++j) {
          if (!row.seen[j]) continue;
          for (size_t d = 0; d < out.size(); ++d) out[d] += row.after[j] * row.v.row(j)[d];
        }
        for (size_t d = 0; d < out.size(); ++d) store_element(p.out, b, h, sequence.q_begin + i, d, out[d]);
        if (p.lse) store_element(p.lse, b, h, sequence.q_begin + i, 0, row.lse);
      }
    }
  }
}

void flash_backward(const FlashParams& p, const FlashGrads& g) {
  check(p, g);
  using Kind = Normalizer::Kind;
  const Normalizer& n = p.normalizer;
  const double scale = scale_of(p), cap = p.scores.softcap;
  Accumulator d_q(g.d_q), d_k(g.d_k), d_v(g.d_v), d_bias(g.d_bias), d_multiplier(g.d_multiplier),
      d_temperature(g.d_temperature), d_sink(g.d_sink), d_sigmoid_bias(g.d_sigmoid_bias);
  for (int64_t s = 0; s < count_sequences(p); ++s) {
    const Sequence sequence = sequence_at(p, s);
    const int64_t b = sequence.tensor_batch, queries = sequence.num_queries, keys = sequence.num_keys;
    for (int64_t h = 0; h < p.q.size[1]; ++h) {
      Row row(p, sequence, h);
      const int64_t hk = key_head(p, h), hv = value_head(p, h);
      const Matrix q = read_rows(p.q, b, h, sequence.q_begin, queries),
                   d_out = read_rows(g.d_out, b, h, sequence.q_begin, queries);
      std::vector<double> d_weight(keys);
      for (int64_t i = 0; i < queries; ++i) {
        row.evaluate(i, q.row(i));
        const int64_t qi = sequence.q_begin + i;
        double mean = 0;  // sum_j p_j dp_j
        for (int64_t j = 0; j < keys; ++j) {
          if (!row.seen[j]) continue;
          for (int64_t d = 0; d < row.v.columns; ++d)
            d_v.add(b, hv, sequence.k_begin + j, d, row.after[j] * d_out.row(i)[d]);
          const double d_after = dot(d_out.row(i), row.v.row(j), row.v.columns) * row.keep(i, j);
          d_multiplier.add(sequence.index, h, i, j, d_after * row.normal[j]);
          d_weight[j] =
              p.scores.multiplier ? d_after * load_element(p.scores.multiplier, sequence.index, h, i, j) : d_after;
          if (n.kind == Kind::clipped_softmax) {
            const double stretched = (n.zeta - row.gamma) * row.weight[j] + row.gamma;
            d_weight[j] *= stretched > 0 && stretched < 1 ? n.zeta - row.gamma : 0;
          }
          mean += row.weight[j] * d_weight[j];
        }
        const double d_lse = g.d_lse ? load_element(g.d_lse, b, h, qi) : 0;
        if (n.kind == Kind::softmax && row.sink != -kInfinity)
          d_sink.add(0, h, 0, 0, std::exp(row.sink - row.lse) * (d_lse - mean));
        for (int64_t j = 0; j < keys; ++j) {
          if (!row.seen[j]) continue;
          const double w = row.weight[j];
          const double d_logit = n.kind == Kind::sigmoid ? d_weight[j] * w * (1 - w) : w * (d_weight[j] - mean + d_lse);
          if (d_logit == 0) continue;  // a logit of -inf has weight and derivative 0, although -inf * 0 has not
          d_sigmoid_bias.add(0, h, 0, 0, d_logit);
          d_temperature.add(sequence.index, h, i, 0, -d_logit * row.logit[j] / row.temperature);
          double d = d_logit / row.temperature;
          d_bias.add(sequence.index, h, i, j, d);
          if (cap > 0) d *= 1 - (row.capped[j] / cap) * (row.capped[j] / cap);
          for (int64_t c = 0; c < q.columns; ++c) {
            d_q.add(b, h, qi, c, scale * d * row.k.row(j)[c]);
            d_k.add(b, hk, sequence.k_begin + j, c, scale * d * q.row(i)[c]);
          }
        }
      }
    }
  }
  for (const Accumulator* sum : {&d_q, &d_k, &d_v, &d_bias, &d_multiplier, &d_temperature, &d_sink, &d_sigmoid_bias})
    sum->write();
}

}  // namespace heed::kernels::reference
