// A random attention call that owns its tensors: drawn from a seed, in any dtype and layout, run by any implementation.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "heed/kernels/flash.h"
#include "support/tensor.h"

namespace heed::testing {

struct FlashShape {
  int64_t batch = 1, q_heads = 2, k_heads = 1, v_heads = 1, queries = 17, keys = 23, d = 8, dv = 8;
};

/// What the call uses beside q, k and v.
struct FlashFeatures {
  kernels::Mask mask = {};
  kernels::Normalizer::Kind kind = kernels::Normalizer::Kind::softmax;
  double softcap = 0, dropout = 0, gamma = 0, zeta = 1, logit_size = 1;
  bool alibi = false, temperature = false, sink = false, sigmoid_bias = false, lengths = false, head_maps = false,
       d_lse = true, gamma_per_key = false;
  /// Sizes of bias and multiplier; absent: none. 0 stands for the full size.
  std::optional<std::array<int64_t, 3>> bias = std::nullopt, multiplier = std::nullopt;
  std::vector<int64_t> packed_q = {}, packed_k = {};  ///< sequence lengths; not empty: packed
};

class FlashCase {
 public:
  FlashCase(const FlashShape& shape, const FlashFeatures& features, DType dtype, uint64_t seed,
            Layout layout = Layout::dense)
      : shape_(shape), features_(features) {
    std::mt19937_64 random(seed);
    const bool packed = !features.packed_q.empty();
    for (int64_t length : features.packed_q) cu_q_.push_back(cu_q_.back() + length);
    for (int64_t length : features.packed_k) cu_k_.push_back(cu_k_.back() + length);
    if (packed) shape_.batch = 1, shape_.queries = cu_q_.back(), shape_.keys = cu_k_.back();
    const auto [b, hq, hk, hv, n, m, d, dv] = shape_;
    const int64_t sequences = packed ? static_cast<int64_t>(features.packed_q.size()) : b;
    const DType stats = dtype == DType::f64 ? DType::f64 : DType::f32;
    q = draw(dtype, {b, hq, n, d}, layout, random, std::sqrt(features.logit_size));
    k = draw(dtype, {b, hk, m, d}, layout, random, std::sqrt(features.logit_size));
    v = draw(dtype, {b, hv, m, dv}, layout, random, 1);
    d_out = draw(dtype, {b, hq, n, dv}, layout, random, 1);
    d_lse = draw(stats, {b, hq, n, 1}, Layout::dense, random, 1);
    out = Tensor(dtype, {b, hq, n, dv}, layout), lse = Tensor(stats, {b, hq, n, 1});
    d_q = Tensor(dtype, {b, hq, n, d}, layout), d_k = Tensor(dtype, {b, hk, m, d}, layout),
    d_v = Tensor(dtype, {b, hv, m, dv}, layout);
    const auto wide = [&](const std::array<int64_t, 3>& s) {
      return std::array<int64_t, 4>{s[0] == 0 ? sequences : s[0], s[1] == 0 ? hq : s[1], s[2] == 0 ? n : s[2], m};
    };
    if (features.bias) bias = draw(stats, wide(*features.bias), layout, random, 1), d_bias = Tensor(stats, bias.size());
    if (features.multiplier) {
      multiplier = draw(stats, wide(*features.multiplier), Layout::dim_first, random, 1),
      d_multiplier = Tensor(stats, multiplier.size());
    }
    if (features.temperature) {
      temperature = draw(stats, {sequences, hq, n, 1}, Layout::dense, random, 0.2, 1.2),
      d_temperature = Tensor(stats, temperature.size());
      temperature.each([&](int64_t i, int64_t j, int64_t r, int64_t c) {
        temperature.set(i, j, r, c, 0.3 + std::fabs(temperature.at(i, j, r, c)));
      });
    }
    if (features.sink) sink = draw(stats, {1, hq, 1, 1}, Layout::dense, random, 2), d_sink = Tensor(stats, sink.size());
    if (features.sigmoid_bias) sigmoid_bias = draw(stats, {1, hq, 1, 1}, Layout::dense, random, 1);
    if (features.kind == kernels::Normalizer::Kind::sigmoid) d_sigmoid_bias = Tensor(stats, {1, hq, 1, 1});
    for (int64_t h = 0; h < hq; ++h) slopes_.push_back(0.5f / static_cast<float>(h + 1));
    const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
    for (int64_t i = 0; i < b; ++i) q_lengths_.push_back(below(n + 1)), k_lengths_.push_back(below(m + 1));
    for (int64_t h = 0; h < hq; ++h) {
      q_to_k_.push_back(static_cast<int32_t>(below(hk))), q_to_v_.push_back(static_cast<int32_t>(below(hv)));
    }
    seed_ = seed;
  }

  kernels::FlashParams params() const {
    kernels::FlashParams p;
    p.q = q, p.k = k, p.v = v, p.out = out;
    if (features_.kind != kernels::Normalizer::Kind::sigmoid) p.lse = lse;
    p.mask = features_.mask;
    p.scores.softcap = features_.softcap;
    if (features_.alibi) p.scores.alibi_slopes = slopes_.data();
    p.scores.bias = bias, p.scores.temperature = temperature, p.scores.multiplier = multiplier;
    p.normalizer.kind = features_.kind;
    p.normalizer.sink_logit = sink, p.normalizer.sigmoid_bias = sigmoid_bias;
    p.normalizer.gamma_per_key = features_.gamma_per_key;
    p.normalizer.gamma = features_.gamma, p.normalizer.zeta = features_.zeta;
    p.dropout = {features_.dropout, seed_};
    if (features_.lengths) p.q_lengths = q_lengths_.data(), p.k_lengths = k_lengths_.data();
    if (features_.head_maps) p.q_to_k_head = q_to_k_.data(), p.q_to_v_head = q_to_v_.data();
    if (!features_.packed_q.empty()) {
      p.cu_q = cu_q_.data(), p.cu_k = cu_k_.data(), p.num_sequences = static_cast<int64_t>(features_.packed_q.size());
    }
    p.blocks = blocks;
    return p;
  }

  kernels::FlashGrads grads() const {
    kernels::FlashGrads g;
    g.d_out = d_out;
    if (features_.d_lse && features_.kind != kernels::Normalizer::Kind::sigmoid) g.d_lse = d_lse;
    g.d_q = d_q, g.d_k = d_k, g.d_v = d_v;
    g.d_bias = d_bias, g.d_multiplier = d_multiplier, g.d_temperature = d_temperature, g.d_sink = d_sink,
    g.d_sigmoid_bias = d_sigmoid_bias;
    return g;
  }

  /// Every tensor that the two calls write, by name.
  std::vector<std::pair<std::string, Tensor*>> outputs(bool backward) {
    std::vector<std::pair<std::string, Tensor*>> all;
    if (!backward) {
      all = {{"out", &out}};
      if (features_.kind != kernels::Normalizer::Kind::sigmoid) all.push_back({"lse", &lse});
      return all;
    }
    all = {{"d_q", &d_q}, {"d_k", &d_k}, {"d_v", &d_v}};
    if (d_bias) all.push_back({"d_bias", &d_bias});
    if (d_multiplier) all.push_back({"d_multiplier", &d_multiplier});
    if (d_temperature) all.push_back({"d_temperature", &d_temperature});
    if (d_sink) all.push_back({"d_sink", &d_sink});
    if (d_sigmoid_bias) all.push_back({"d_sigmoid_bias", &d_sigmoid_bias});
    return all;
  }

  void check_guards() {
    for (bool backward : {false, true}) {
      for (auto& [name, tensor] : outputs(backward)) tensor->check_guards(name.c_str());
    }
  }

  const FlashShape& shape() const { return shape_; }
  const FlashFeatures& features() const { return features_; }

  Tensor q, k, v, out, lse, d_out, d_lse, d_q, d_k, d_v;
  Tensor bias, multiplier, temperature, sink, sigmoid_bias;
  Tensor d_bias, d_multiplier, d_temperature, d_sink, d_sigmoid_bias;
  const kernels::BlockList* blocks = nullptr;

 private:
  static Tensor draw(DType dtype, std::array<int64_t, 4> size, Layout layout, std::mt19937_64& random, double deviation,
                     double mean = 0) {
    Tensor t(dtype, size, layout);
    t.normal(random, deviation, mean);
    return t;
  }

  FlashShape shape_;
  FlashFeatures features_;
  uint64_t seed_ = 0;
  std::vector<float> slopes_;
  std::vector<int64_t> q_lengths_, k_lengths_, cu_q_{0}, cu_k_{0};
  std::vector<int32_t> q_to_k_, q_to_v_;
};

}  // namespace heed::testing
