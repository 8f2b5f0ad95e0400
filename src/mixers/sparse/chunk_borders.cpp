#include "mixers/sparse/chunk_borders.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace heed::sparse {

using torch::Tensor;

Tensor choose_borders(const Tensor& candidates, const BorderRule& rule, const Tensor& begins) {
  const auto from = candidates.contiguous();
  const int64_t batch = from.size(0), tokens = from.size(1);
  auto borders = torch::zeros({batch, tokens}, torch::kBool);
  for (int64_t b = 0; b < batch; ++b) {
    const bool* candidate = from.data_ptr<bool>() + b * tokens;
    bool* border = borders.data_ptr<bool>() + b * tokens;
    int64_t begin = begins.defined() ? begins[b].item<int64_t>() : 0;
    for (int64_t i = 0; i < tokens; ++i) {
      const int64_t length = i - begin;
      if (length < rule.least || (length < rule.most && !candidate[i])) continue;
      border[i] = true;
      begin = i;
    }
  }
  return borders;
}

Tensor side_similarity(const Tensor& features, int64_t window) {
  const int64_t batch = features.size(0), tokens = features.size(1), size = features.size(2);
  const auto result = torch::ones({batch, tokens}, torch::kFloat64);
  const int64_t places = tokens + 1 - 2 * window;
  if (places <= 0) return result;
  const auto rows = features.to(torch::kFloat64).contiguous();
  at::parallel_for(0, batch * places, 512, [&](int64_t begin, int64_t end) {
    // Sums, not means: a cosine does not see the difference. Each window is added up anew, so that a place gives the
    // same bits in any call; the last ones are held for the places behind them.
    std::vector<double> held(size_t(window * size), 0), norms(size_t(window), 0), behind(size_t(size), 0);
    const auto add_up = [&](const double* from, double* to) {
      std::fill_n(to, size, 0.0);
      for (int64_t r = 0; r < window; ++r)
        for (int64_t f = 0; f < size; ++f) to[f] += from[r * size + f];
      double square = 0;
      for (int64_t f = 0; f < size; ++f) square += to[f] * to[f];
      return std::sqrt(square);
    };
    for (int64_t at = begin; at < end; ++at) {
      const int64_t b = at / places, place = at % places;  // of the window before
      const double* const from = rows.data_ptr<double>() + (b * tokens + place) * size;
      if (at == begin || place == 0)
        for (int64_t next = 0; next < std::min(window, places - place); ++next) {
          const int64_t slot = (place + next) % window;
          norms[size_t(slot)] = add_up(from + next * size, held.data() + slot * size);
        }
      const int64_t slot = place % window;
      double* const before = held.data() + slot * size;
      const double norm = add_up(from + window * size, behind.data());
      double product = 0;
      for (int64_t f = 0; f < size; ++f) product += before[f] * behind[size_t(f)];
      result.data_ptr<double>()[b * tokens + place + window] = product / std::max(norms[size_t(slot)] * norm, 1e-12);
      std::copy(behind.begin(), behind.end(), before);
      norms[size_t(slot)] = norm;
    }
  });
  return result;
}

Tensor dips(const Tensor& values, double bound) {
  const int64_t tokens = values.size(1);
  if (tokens < 1) return values < bound;
  const auto before = torch::constant_pad_nd(values.slice(1, 0, tokens - 1), {1, 0}, INFINITY),
             behind = torch::constant_pad_nd(values.slice(1, 1), {0, 1}, INFINITY);
  return (values < bound) & (values < before) & (values <= behind);
}

}  // namespace heed::sparse
