// Keys and values as a format stores them, from its definition: element by element.
#pragma once

#include <torch/torch.h>

#include <cmath>

#include "heed/nn/kv_format.h"

namespace heed::testing {

/// The float16 nearest to x that isn't above it.
inline float half_below(float x) {
  c10::Half half(x);
  while (float(half) > x) {
    // One place towards -inf: bits of negative numbers grow.
    if (half.x == 0)
      half.x = 0x8001;
    else
      half.x = uint16_t(half.x & 0x8000 ? half.x + 1 : half.x - 1);
  }
  return float(half);
}

/// Where a group of numbers begins and how far its levels lie apart.
struct NaiveGroup {
  float zero, step;
  NaiveGroup(const std::vector<float>& x, int bits) {
    const auto [low, high] = std::minmax_element(x.begin(), x.end());
    zero = half_below(*low);
    step = -half_below(-((*high - zero) / float((1 << bits) - 1)));
    if (step == 0) step = 1;
  }
  float stored(float x, int bits) const {
    const float code = std::nearbyint((x - zero) / step);
    return std::min(std::max(code, 0.0f), float((1 << bits) - 1)) * step + zero;
  }
};

/// x [tokens, D] as stored, a token by itself: int8, or groups of 32 channels.
inline torch::Tensor stored_by_token(const torch::Tensor& x, int bits) {
  auto out = x.clone();
  auto values = out.accessor<float, 2>();
  for (int64_t t = 0; t < x.size(0); ++t) {
    if (bits == 8) {
      float largest = 0;
      for (int64_t c = 0; c < x.size(1); ++c) largest = std::max(largest, std::fabs(values[t][c]));
      const float scale = largest == 0 ? 1 : largest / 127;
      for (int64_t c = 0; c < x.size(1); ++c) values[t][c] = std::nearbyint(values[t][c] / scale) * scale;
      continue;
    }
    for (int64_t first = 0; first < x.size(1); first += 32) {
      std::vector<float> group;
      for (int64_t c = first; c < std::min(first + 32, x.size(1)); ++c) group.push_back(values[t][c]);
      const NaiveGroup levels(group, bits);
      for (size_t i = 0; i < group.size(); ++i) values[t][first + int64_t(i)] = levels.stored(group[i], bits);
    }
  }
  return out;
}

/// x [32, D] as stored, a channel by itself.
inline torch::Tensor stored_by_channel(const torch::Tensor& x, int bits) {
  auto out = x.clone();
  auto values = out.accessor<float, 2>();
  for (int64_t c = 0; c < x.size(1); ++c) {
    std::vector<float> group;
    for (int64_t t = 0; t < x.size(0); ++t) group.push_back(values[t][c]);
    const NaiveGroup levels(group, bits);
    for (int64_t t = 0; t < x.size(0); ++t) values[t][c] = levels.stored(group[size_t(t)], bits);
  }
  return out;
}

/// Keys (or values) x [N, D] of N tokens in the order of the text, nothing dropped.
inline torch::Tensor stored(const torch::Tensor& x, const nn::KvFormat& format, bool keys) {
  if (format.exact()) return x.clone();
  if (format.recent == 0) return stored_by_token(x, format.bits);
  auto out = x.clone();
  for (int64_t group = 0; (group + 1) * 32 <= x.size(0) - format.recent; ++group) {
    const auto part = x.narrow(0, group * 32, 32).contiguous();
    out.narrow(0, group * 32, 32)
        .copy_(keys && format.keys_by_channel ? stored_by_channel(part, format.bits)
                                              : stored_by_token(part, format.bits));
  }
  return out;
}

}  // namespace heed::testing
