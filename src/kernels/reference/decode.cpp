#include "heed/kernels/decode.h"

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/cached_key.h"

namespace heed::kernels::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double capped(const DecodeParams& p, double s) { return p.softcap > 0 ? p.softcap * std::tanh(s / p.softcap) : s; }

}  // namespace

void decode(const DecodeParams& p) {
  check(p);
  const int64_t batch = p.q.size[0], heads = p.q.size[1], rows = p.q.size[2], d_size = p.q.size[3], dv = p.v.channels();
  const int64_t group = heads / p.num_kv_heads;
  const double scale = p.scale != 0 ? p.scale : 1 / std::sqrt(static_cast<double>(d_size));
  const std::vector<int64_t> lengths = row_lengths(p);
  const int64_t synthetic = p.synthetic_k ? p.synthetic_k.size[2] : 0;
  if (p.slots_read != nullptr) *p.slots_read = 0;

  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t g = 0; g < p.num_kv_heads; ++g) {
      const int64_t row = b * p.num_kv_heads + g, length = lengths[row];
      if (p.slots_read != nullptr) *p.slots_read += length;
      std::vector<std::vector<double>> keys;
      for (int64_t s = 0; s < length; ++s) keys.push_back(key_row(p, b, g, s));
      const bool per_head = p.column_sum && p.column_sum.size[1] == heads && heads != p.num_kv_heads;
      std::vector<double> columns(p.column_sum ? p.column_sum.size[3] : 0);
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t seen = p.slot_positions == nullptr ? length : p.context_lengths[b];
          const MaskScope scope{b, h, rows, seen};
          std::vector<double> logit(length + synthetic, -kInfinity);
          std::vector<bool> visible(length + synthetic, true);
          for (int64_t s = 0; s < length; ++s) {
            const int64_t j = p.slot_positions == nullptr ? s : p.slot_positions[row * p.slot_positions_stride + s];
            visible[s] = p.mask.visible(scope, i, j);
            if (!visible[s]) continue;
            double dot = 0;
            for (int64_t d = 0; d < d_size; ++d) dot += load_element(p.q, b, h, i, d) * keys[s][d];
            logit[s] = capped(p, scale * dot);
            if (p.slot_bias) logit[s] += value_of(p.slot_bias, b, h, 0, s);
            if (p.alibi_slopes != nullptr)
              logit[s] -= p.alibi_slopes[h] * std::fabs(static_cast<double>(i + seen - rows - j));
          }
          for (int64_t s = 0; s < synthetic; ++s) {
            double dot = 0;
            for (int64_t d = 0; d < d_size; ++d)
              dot += load_element(p.q, b, h, i, d) * value_of(p.synthetic_k, b, g, s, d);
            logit[length + s] =
                capped(p, scale * dot) + (p.synthetic_bias ? value_of(p.synthetic_bias, b, h, 0, s) : 0.0);
          }
          const double sink = p.sink_logit ? value_of(p.sink_logit, 0, h, 0, 0) : -kInfinity;
          double top = sink, sum = 0;
          for (double s : logit) top = s > top ? s : top;
          const double shift = top == -kInfinity ? 0 : top;
          for (double s : logit) sum += std::exp(s - shift);
          sum += std::exp(sink - shift);
          const double lse = sum == 0 ? -kInfinity : shift + std::log(sum);

          std::vector<double> out(dv, 0.0);
          int64_t best = -1;
          for (int64_t s = 0; s < length + synthetic; ++s) {
            if (!visible[s]) continue;
            const double weight = sum == 0 ? 0.0 : std::exp(logit[s] - shift) / sum;
            for (int64_t d = 0; d < dv; ++d) {
              out[d] +=
                  weight * (s < length ? cached(p, p.v, b, g, s, d) : value_of(p.synthetic_v, b, g, s - length, d));
            }
            if (s >= length) continue;
            if (p.column_sum) columns[s] += weight;
            if (logit[s] > (best < 0 ? -kInfinity : logit[best])) best = s;
          }
          for (int64_t d = 0; d < dv; ++d) store_element(p.out, b, h, i, d, out[d]);
          if (p.lse) store_element(p.lse, b, h, i, 0, lse);
          if (p.arg_max) p.arg_max.at(b, h, i) = best;
        }
        if (per_head || (p.column_sum && h + 1 == (g + 1) * group)) {
          for (int64_t s = 0; s < p.column_sum.size[3]; ++s) {
            p.column_sum.at(b, per_head ? h : g, 0, s) = static_cast<float>(columns[s]);
            columns[s] = 0;
          }
        }
      }
    }
  }
}

}  // namespace heed::kernels::reference
