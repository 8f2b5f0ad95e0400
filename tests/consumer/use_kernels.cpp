// heed::kernels without libtorch: with equal logits the output is the mean of the visible values.
#include <heed/kernels/flash.h>

#include <cmath>
#include <vector>

int main() {
  using namespace heed::kernels;
  constexpr int64_t kTokens = 5, kSize = 8;
  std::vector<float> q(kTokens * kSize, 0), v(kTokens * kSize), out(kTokens * kSize);
  for (size_t i = 0; i < v.size(); ++i) v[i] = float(i / kSize);
  const std::array<int64_t, 4> size{1, 1, kTokens, kSize};
  FlashParams params;
  params.q = params.k = {q.data(), DType::f32, size, dense_strides(size)};
  params.v = {v.data(), DType::f32, size, dense_strides(size)};
  params.out = {out.data(), DType::f32, size, dense_strides(size)};
  params.mask = Causal{};
  flash_forward(params);
  for (int64_t i = 0; i < kTokens; ++i)
    if (std::abs(out[i * kSize] - float(i) / 2) > 1e-5f) return 1;
}
