// The masks and the features that every attention engine is swept over.
#pragma once

#include "support/flash_case.h"

namespace heed::testing {

/// One of each term, and programs of them; ids and lengths serve up to 4 batch items and 400 rows.
inline std::vector<kernels::Mask> flash_masks() {
  using namespace kernels;
  static const int64_t prefix[] = {5, 40, 0, 3};
  static std::vector<int32_t> ids;
  if (ids.empty()) {
    for (int i = 0; i < 400; ++i) ids.push_back(i / 37 % 4);
  }
  const auto checkered = [](const void*, int64_t b, int64_t h, int64_t i, int64_t j) {
    return (i * 7 + j * 3 + h + b) % 5 != 0;
  };
  return {Mask(),
          Causal{},
          Causal{Alignment::top_left},
          Window{9},
          Window{70, 3},
          Window{-2, 12},
          Causal{} & (Window{8} | SinkTokens{3}),
          Causal{} | Prefix{prefix},
          Causal{} & DocumentIds{ids.data(), ids.data(), 0, 0},
          Dilation{3} & Window{40, 40},
          ~Mask(Window{20, 20}),
          ~Mask(),
          Predicate{checkered}};
}

/// Every score term, normaliser and way to cut a call, alone and together.
inline std::vector<FlashFeatures> flash_features() {
  using namespace kernels;
  using Kind = Normalizer::Kind;
  const Mask causal = Causal{};
  return {{.mask = causal, .softcap = 3},
          {.softcap = 20, .logit_size = 8},
          {.mask = causal, .alibi = true},
          {.mask = causal, .temperature = true},
          {.mask = causal, .bias = {{0, 0, 0}}},
          {.bias = {{1, 0, 0}}},
          {.bias = {{1, 1, 1}}},
          {.mask = causal, .multiplier = {{0, 1, 0}}},
          {.multiplier = {{1, 0, 1}}},
          {.mask = causal, .dropout = 0.3},
          {.dropout = 0.9, .multiplier = {{0, 0, 0}}},
          {.mask = causal, .sink = true},
          {.mask = Window{-2, 12}, .sink = true, .head_maps = true},
          {.mask = causal, .kind = Kind::sigmoid},
          {.kind = Kind::sigmoid, .softcap = 2, .dropout = 0.2, .sigmoid_bias = true},
          {.mask = causal, .kind = Kind::clipped_softmax, .gamma = -0.03, .zeta = 1.1},
          {.mask = causal & Window{40},
           .kind = Kind::clipped_softmax,
           .gamma = -0.6,
           .zeta = 1.05,
           .lengths = true,
           .gamma_per_key = true},
          {.kind = Kind::clipped_softmax, .dropout = 0.1, .gamma = 0, .zeta = 1, .alibi = true},
          {.mask = causal, .lengths = true},
          {.sink = true, .lengths = true},
          {.head_maps = true},
          {.mask = causal & Window{30},
           .softcap = 5,
           .dropout = 0.1,
           .alibi = true,
           .temperature = true,
           .sink = true,
           .bias = {{0, 1, 0}},
           .multiplier = {{1, 1, 0}}}};
}

}  // namespace heed::testing
