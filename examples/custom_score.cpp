// A score of your own in the tile engine, forward and backward, on every instruction set: logits saturate as
// s / (1 + |s| / limit), and each key costs strength * distance / (range + distance). The result is checked against
// loops.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "custom_score.cpp"
#include <heed/kernels/targets.h>

#include <hwy/foreach_target.h>

#include <heed/kernels/variant-inl.h>

#ifndef CUSTOM_SCORE_PARAMETERS  // this file is read once per instruction set; plain data is defined once
#define CUSTOM_SCORE_PARAMETERS
struct Saturation {
  float limit, strength, range;
};
#endif

HWY_BEFORE_NAMESPACE();
namespace example::HWY_NAMESPACE {
using namespace heed::kernels::HWY_NAMESPACE;

struct Saturating : VariantBase<Saturation> {
  Vector slowing(Vector s) const {
    const Vector one = hn::Set(Lanes(), 1.0f);
    return hn::Div(one, hn::MulAdd(hn::Abs(s), hn::Set(Lanes(), 1 / parameters.limit), one));
  }
  Vector logit(const Pair& at, Vector s) const {
    const Vector distance = hn::Abs(hn::ConvertTo(Lanes(), at.distance()));
    const Vector cost = hn::Div(distance, hn::Add(distance, hn::Set(Lanes(), parameters.range)));
    return hn::NegMulAdd(hn::Set(Lanes(), parameters.strength), cost, hn::Mul(s, slowing(s)));
  }
  Vector logit_derivative(const Pair&, Vector s) const { return hn::Mul(slowing(s), slowing(s)); }
};
HEED_VARIANT(Saturating, SaturatingTable)

}  // namespace example::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace example {
HWY_EXPORT(SaturatingTable);
}

using namespace heed::kernels;

int main() {
  constexpr int64_t kQueries = 70, kKeys = 90, kSize = 24;
  const Saturation parameters{.limit = 3, .strength = 2, .range = 8};

  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto draw = [&](int64_t rows) {
    std::vector<float> values(rows * kSize);
    for (float& x : values) x = normal(random);
    return values;
  };
  std::vector<float> q = draw(kQueries), k = draw(kKeys), v = draw(kKeys), d_out = draw(kQueries);
  std::vector<float> out(q.size()), lse(kQueries), d_q(q.size()), d_k(k.size()), d_v(v.size());
  const auto view = [](std::vector<float>& values, int64_t rows) {
    const std::array<int64_t, 4> size{1, 1, rows, static_cast<int64_t>(values.size()) / rows};
    return AnyView{values.data(), DType::f32, size, dense_strides(size)};
  };

  FlashParams params;
  params.q = view(q, kQueries), params.k = view(k, kKeys), params.v = view(v, kKeys);
  params.out = view(out, kQueries), params.lse = view(lse, kQueries), params.mask = Causal{};
  FlashGrads grads;
  grads.d_out = view(d_out, kQueries);
  grads.d_q = view(d_q, kQueries), grads.d_k = view(d_k, kKeys), grads.d_v = view(d_v, kKeys);

  const Variant variant{HEED_DISPATCH(example::SaturatingTable)(), &parameters};
  flash_forward(params, variant);
  flash_backward(params, variant, grads);

  // The same by loops in double.
  const double scale = 1 / std::sqrt(static_cast<double>(kSize));
  std::vector<double> want_out(q.size()), want_d_q(q.size()), want_d_k(k.size()), want_d_v(v.size());
  for (int64_t i = 0; i < kQueries; ++i) {
    const int64_t own = i + kKeys - kQueries;
    std::vector<double> p(own + 1), slope(own + 1), d_p(own + 1);
    double sum = 0, mean = 0;
    for (int64_t j = 0; j <= own; ++j) {
      double s = 0;
      for (int64_t c = 0; c < kSize; ++c)
        s += scale * q[i * kSize + c] * k[j * kSize + c], d_p[j] += d_out[i * kSize + c] * v[j * kSize + c];
      slope[j] = std::pow(1 + std::fabs(s) / parameters.limit, -2);
      const double distance = static_cast<double>(own - j);
      p[j] = std::exp(s / (1 + std::fabs(s) / parameters.limit) -
                      parameters.strength * distance / (parameters.range + distance));
      sum += p[j];
    }
    for (int64_t j = 0; j <= own; ++j) p[j] /= sum, mean += p[j] * d_p[j];
    for (int64_t j = 0; j <= own; ++j) {
      const double d_s = scale * p[j] * (d_p[j] - mean) * slope[j];
      for (int64_t c = 0; c < kSize; ++c) {
        want_out[i * kSize + c] += p[j] * v[j * kSize + c], want_d_v[j * kSize + c] += p[j] * d_out[i * kSize + c];
        want_d_q[i * kSize + c] += d_s * k[j * kSize + c], want_d_k[j * kSize + c] += d_s * q[i * kSize + c];
      }
    }
  }
  bool good = true;
  const auto compare = [&](const char* name, const std::vector<float>& got, const std::vector<double>& want) {
    double difference = 0, norm = 0;
    for (size_t x = 0; x < want.size(); ++x) difference += std::pow(got[x] - want[x], 2), norm += std::pow(want[x], 2);
    const double error = std::sqrt(difference / norm);
    std::printf("%-4s relative error %.1e\n", name, error);
    good &= error < 2e-6;
  };
  compare("out", out, want_out), compare("d_q", d_q, want_d_q), compare("d_k", d_k, want_d_k),
      compare("d_v", d_v, want_d_v);
  return good ? 0 : 1;
}
#endif  // HWY_ONCE
