// The influence of every weight from its definition, row by row in double.
#include "heed/kernels/weight_influence.h"

#include "kernels/reference/flash_row.h"

namespace heed::kernels::reference {

void weight_influence(const FlashParams& p, const WeightInfluence& influence) {
  check(p, influence);
  Accumulator sums(influence.influence);
  for (int64_t b = 0; b < count_sequences(p); ++b) {
    const Sequence sequence = sequence_at(p, b);
    for (int64_t h = 0; h < p.q.size[1]; ++h) {
      Row row(p, sequence, h);
      const Matrix q = read_rows(p.q, b, h, 0, sequence.num_queries),
                   d_out = read_rows(influence.d_out, b, h, 0, sequence.num_queries);
      for (int64_t i = 0; i < sequence.num_queries; ++i) {
        row.evaluate(i, q.row(i));
        const double lse = load_element(p.lse, b, h, i);
        if (lse == -kInfinity) continue;
        std::vector<double> weight(sequence.num_keys), gradient(sequence.num_keys);
        double mean = 0;
        int64_t visible = 0;
        for (int64_t j = 0; j < sequence.num_keys; ++j) {
          if (!row.seen[j]) continue;
          weight[j] = std::exp(row.logit[j] - lse);
          gradient[j] = dot(d_out.row(i), row.v.row(j), row.v.columns);
          mean += weight[j] * gradient[j], ++visible;
        }
        for (int64_t j = 0; j < sequence.num_keys; ++j) {
          if (weight[j] == 0) continue;
          const double rest = std::max(1 - weight[j], influence.epsilon);
          const double change = visible == 1 ? -gradient[j] * weight[j] : weight[j] / rest * (mean - gradient[j]);
          sums.add(b, h, i / influence.query_block, j / influence.key_block,
                   influence.magnitude ? std::fabs(change) : change);
        }
      }
    }
  }
  sums.write();
}

}  // namespace heed::kernels::reference
