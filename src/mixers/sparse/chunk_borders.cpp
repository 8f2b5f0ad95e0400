#include "mixers/sparse/chunk_borders.h"

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

Chunks known_chunks(const Tensor& borders, int64_t lag) {
  const int64_t batch = borders.size(0), tokens = borders.size(1);
  const auto index = borders.cumsum(1);
  const int64_t count = tokens > 0 ? index.select(1, tokens - 1).max().item<int64_t>() : 0;
  Chunks chunks;
  chunks.begin = torch::full({batch, count}, tokens, torch::kInt64);
  chunks.end = torch::full({batch, count}, tokens, torch::kInt64);
  for (int64_t b = 0; b < batch; ++b) {
    const auto at = borders[b].nonzero().squeeze(1);
    const int64_t own = at.size(0);
    chunks.end[b].slice(0, 0, own).copy_(at);
    chunks.begin[b].slice(0, 0, own).copy_(torch::constant_pad_nd(at, {1, 0}).slice(0, 0, own));
  }
  const auto last = tokens > 0 ? index.slice(1, tokens - 1) : index;
  chunks.of_token = torch::where(index < last, index, torch::full({}, count, torch::kInt64));
  // The query at t knows the borders at t - lag and before.
  const int64_t late = std::min(lag, tokens);
  chunks.closed = torch::constant_pad_nd(index.slice(1, 0, tokens - late), {late, 0});
  const auto ends = torch::constant_pad_nd(chunks.end, {1, 0});  // what is open begins where the last one ended
  chunks.open = ends.gather(1, chunks.closed);
  return chunks;
}

Tensor side_similarity(const Tensor& features, int64_t window) {
  const int64_t tokens = features.size(1);
  const auto result = torch::ones({features.size(0), tokens}, torch::kFloat64);
  if (tokens < 2 * window) return result;
  // Sums, not means: a cosine does not see the difference.
  const auto sums = torch::constant_pad_nd(features.to(torch::kFloat64).cumsum(1), {0, 0, 1, 0});
  const auto windows = sums.slice(1, window) - sums.slice(1, 0, tokens + 1 - window);
  const auto before = windows.slice(1, 0, tokens + 1 - 2 * window), behind = windows.slice(1, window);
  const auto cosine = (before * behind).sum(2) / (before.norm(2, 2) * behind.norm(2, 2)).clamp_min(1e-12);
  result.slice(1, window, tokens + 1 - window).copy_(cosine);
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
