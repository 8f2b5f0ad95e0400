// Random neighbourhoods for tests.
#pragma once

#include <fmt/format.h>

#include <random>
#include <string>
#include <vector>

#include "heed/kernels/neighborhood.h"

namespace heed::testing {

inline kernels::Neighborhood grid_of(const std::vector<kernels::NeighborhoodAxis>& axes) {
  kernels::Neighborhood around;
  around.rank = static_cast<int>(axes.size());
  std::copy(axes.begin(), axes.end(), around.axes.begin());
  return around;
}

inline std::string text_of(const kernels::Neighborhood& around) {
  std::string text;
  for (int a = 0; a < around.rank; ++a) {
    const auto& axis = around.axes[a];
    text += fmt::format("[L {} w {} s {} e {}{}]", axis.length, axis.window, axis.stride, axis.dilation,
                        axis.causal ? " causal" : "");
  }
  return text;
}

/// Axes of up to `longest` cells, with every kind of window.
inline kernels::Neighborhood draw_grid(std::mt19937_64& random, int rank, int64_t longest) {
  const auto within = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
  };
  std::vector<kernels::NeighborhoodAxis> axes(rank);
  for (auto& axis : axes) {
    axis.length = within(1, longest);
    axis.dilation = random() % 3 == 0 ? within(1, std::min<int64_t>(axis.length, 3)) : 1;
    axis.window = within(1, axis.length / axis.dilation);
    axis.stride = random() % 2 == 0 ? within(1, axis.window) : 1;
    axis.causal = random() % 3 == 0;
  }
  return grid_of(axes);
}

}  // namespace heed::testing
