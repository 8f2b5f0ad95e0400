#include "kernels/chunk_shared.h"

#include <algorithm>

#include "heed/kernels/runtime.h"
#include "kernels/cpu/flash_engine.h"

namespace heed::kernels {

void SharedGradients::widen(AnyView& gradient) {
  if (is_absent(gradient) || gradient.size[1] == heads_) return;
  const auto [batch, heads, tokens, columns] = gradient.size;
  const int64_t width = columns == 1 ? 1 : (columns + 15) / 16 * 16;
  Shared shared{gradient, gradient, allocate(batch * heads_ * tokens * width * static_cast<int64_t>(sizeof(float)))};
  shared.wide = {shared.memory.get(), DType::f32, {batch, heads_, tokens, columns}, {}};
  shared.wide.stride = {heads_ * tokens * width, tokens * width, width, 1};
  gradient = shared.wide;
  shared_.push_back(std::move(shared));
}

void SharedGradients::reduce() const {
  for (const Shared& shared : shared_) {
    const auto [batch, heads, tokens, columns] = shared.target.size;
    const int64_t group = heads_ / heads, width = shared.wide.stride[2];
    const auto wide = shared.wide.as<const float>();
    const int threads = static_cast<int>(std::min<int64_t>(num_threads(), std::max<int64_t>(batch * heads, 1)));
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < batch * heads; ++i) {
      const int64_t b = i / heads, h = i % heads;
      std::vector<const float*> parts;
      for (int64_t part = 0; part < group; ++part) parts.push_back(wide.row(b, h * group + part, 0));
      if (columns > 1) {
        std::vector<float> row(width);
        sum_parts(parts.data(), group, width, 0, tokens, 1, shared.target, b, h, 0, row.data());
        continue;
      }
      for (int64_t t = 0; t < tokens; ++t) {
        float sum = 0;
        for (const float* part : parts) sum += part[t];
        store_element(shared.target, b, h, t, 0, sum);
      }
    }
  }
}

bool all_valid(const std::vector<ItemGradients>& results) {
  return std::all_of(results.begin(), results.end(), [](const ItemGradients& item) { return item.valid; });
}

void write_constants(const std::vector<ItemGradients>& results, int64_t heads, const AnyView& gradient) {
  if (is_absent(gradient)) return;
  const int64_t group = heads / gradient.size[1];
  std::vector<double> sums(gradient.size[1]);
  for (size_t i = 0; i < results.size(); ++i) sums[static_cast<int64_t>(i) % heads / group] += results[i].d_constant;
  for (int64_t h = 0; h < gradient.size[1]; ++h) store_element(gradient, 0, h, 0, 0, sums[h]);
}

}  // namespace heed::kernels
