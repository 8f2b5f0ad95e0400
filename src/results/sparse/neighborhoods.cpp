// Windows of a grid: what strides gain, and which way of computing them is the fastest.
#include <fmt/format.h>

#include <algorithm>

#include "bench/units.h"
#include "heed/bench/kernel_bench.h"
#include "heed/bench/neighborhood_simulator.h"
#include "heed/nn/lsh.h"
#include "heed/ops/neighborhood.h"
#include "results/sparse/experiments.h"
#include "results/timing.h"

namespace heed::results::sparse {
namespace {

using torch::Tensor;

/// Queries one at a time, each with its own window cut out: what a kernel without tiles does.
Tensor by_query(const Tensor& q, const Tensor& k, const Tensor& v, int64_t side, int64_t window) {
  const auto cells = [&](const Tensor& x) { return x[0].view({x.size(1), side, side, x.size(3)}); };
  const auto keys = cells(k), values = cells(v);
  const double scale = 1 / std::sqrt(double(q.size(3)));
  auto out = torch::empty_like(v);
  const auto first = [&](int64_t at) { return std::clamp<int64_t>(at - window / 2, 0, side - window); };
  for (int64_t row = 0; row < side; ++row)
    for (int64_t column = 0; column < side; ++column) {
      const int64_t cell = row * side + column;
      const auto around = [&](const Tensor& x) {
        return x.narrow(1, first(row), window).narrow(2, first(column), window).flatten(1, 2);
      };
      const auto asked = q[0].narrow(1, cell, 1);  // [H, 1, D]
      const auto weights = torch::softmax(torch::matmul(asked, around(keys).transpose(1, 2)) * scale, 2);
      out[0].narrow(1, cell, 1).copy_(torch::matmul(weights, around(values)));
    }
  return out;
}

}  // namespace

Experiment strides() {
  const auto run = [](const Report& report) {
    const std::vector<std::array<int64_t, 3>> all{{1, 1, 1}, {1, 1, 4}, {1, 4, 4}, {2, 4, 4}, {2, 4, 8}, {4, 8, 8}};
    bench::KernelCase kernel{.name = "forward"};
    kernel.q_heads = kernel.kv_heads = 1;
    kernel.queries = kernel.keys = 8 * 16 * 16;
    const double dense = bench::time_kernel(kernel);
    Table table{"", {"stride", "simulated", "bound", "measured, of dense", "reached"}, {}};
    std::vector<double> simulated, measured;
    bool below = true;
    for (const auto& stride : all) {
      report(double(simulated.size()) / double(all.size()), fmt::format("stride {}", stride[2]));
      kernels::Neighborhood around;
      around.rank = 3;
      for (size_t a = 0; a < 3; ++a)
        around.axes[a] = {std::array<int64_t, 3>{8, 16, 16}[a], std::array<int64_t, 3>{4, 8, 8}[a], stride[a]};
      const auto tiling = kernels::neighborhood_tiling(around);
      const auto found = bench::simulate(around, {tiling.tile, {1, 1, tiling.strip}, true});
      kernel.around = around;
      const double gain = dense / bench::time_kernel(kernel);
      simulated.push_back(found.speed_up), measured.push_back(gain);
      below = below && gain <= found.bound;
      table.rows.push_back({fmt::format("{} x {} x {}", stride[0], stride[1], stride[2]),
                            fmt::format("{:.2f}x", found.speed_up), fmt::format("{:.2f}x", found.bound),
                            fmt::format("{:.2f}x", gain), fmt::format("{:.0f} %", 100 * gain / found.speed_up)});
    }
    int64_t agree = 0, pairs = 0;
    for (size_t i = 0; i < all.size(); ++i)
      for (size_t j = 0; j < i; ++j) {
        if (std::abs(simulated[i] - simulated[j]) <= 0.02 * simulated[j]) continue;  // the simulator sees no difference
        ++pairs;
        agree += (simulated[i] > simulated[j]) == (measured[i] > measured[j]);
      }
    return Finding{
        "A grid of 8 x 16 x 16 cells with windows of 4 x 8 x 8, one head of 64 in float32, the kernel's own "
        "tiles; speed over dense attention in the same run.",
        {table},
        {holds("whatever the simulator tells apart, the kernel orders the same way", agree == pairs,
               fmt::format("{} of {} pairs of strides", agree, pairs)),
         holds("no measured gain lies above the bound of equal work a pair", below,
               fmt::format("at most {:.2f}x", *std::max_element(measured.begin(), measured.end()))),
         holds("the widest strides gain at least 1.2 times what stride 1 does",
               measured.back() > 1.2 * measured.front(),
               fmt::format("{:.2f}x and {:.2f}x", measured.back(), measured.front()))}};
  };
  return {"strides",
          "Neighbours that share a window",
          {"generalized_neighborhood"},
          "strides make neighbourhoods block-sparse, and a kernel in tiles gains what counting its tiles says (arXiv "
          "2504.16922, on a GPU).",
          run};
}

Experiment neighborhood_kernels() {
  const auto run = [](const Report& report) {
    constexpr int64_t kSide = 64, kCells = kSide * kSide, kHeads = 2, kSize = 32;
    const std::vector<int64_t> windows{7, 15, 31};
    const auto normal = [&](uint64_t seed) { return nn::seeded_normal({1, kHeads, kCells, kSize}, seed); };
    const auto q = normal(1), k = normal(2), v = normal(3);
    Table table{"",
                {"window", "a query at a time", "weights written out", "fused", "memory of weights written out",
                 "memory, fused"},
                {}};
    std::vector<Cost> plain, written, fused;
    for (const auto window : windows) {
      report(double(plain.size()) / double(windows.size()), fmt::format("windows of {}", window));
      ops::NeighborhoodOptions options;
      options.grid = {kSide, kSide}, options.window = {window};
      plain.push_back(cost_of([&] { by_query(q, k, v, kSide, window); }));
      written.push_back(
          cost_of([&] { ops::neighborhood_av(torch::softmax(ops::neighborhood_qk(q, k, options), -1), v, options); }));
      fused.push_back(cost_of([&] { ops::neighborhood(q, k, v, options); }));
      table.rows.push_back({std::to_string(window), bench::time_text(plain.back().seconds),
                            bench::time_text(written.back().seconds), bench::time_text(fused.back().seconds),
                            bench::bytes_text(written.back().bytes), bench::bytes_text(fused.back().bytes)});
    }
    bool fastest = true;
    for (size_t i = 0; i < windows.size(); ++i)
      fastest = fastest && fused[i].seconds < written[i].seconds && fused[i].seconds < plain[i].seconds;
    const double squares = double(31 * 31) / double(7 * 7), grown = double(written[2].bytes) / double(written[0].bytes);
    return Finding{
        fmt::format("{0} x {0} cells, {1} heads of {2} in float32, forward; memory held at once beside the inputs.",
                    kSide, kHeads, kSize),
        {table},
        {holds("the fused kernel is the fastest for every window", fastest,
               fmt::format("{:.1f}x to {:.1f}x of weights written out", written[0].seconds / fused[0].seconds,
                           written[2].seconds / fused[2].seconds)),
         holds("its memory does not grow with the window, up to a quarter",
               double(fused[2].bytes) < 1.25 * double(fused[0].bytes),
               fmt::format("{} and {}", bench::bytes_text(fused[0].bytes), bench::bytes_text(fused[2].bytes))),
         holds("that of weights written out grows with its square, at two thirds of that or more",
               grown > squares / 1.5, fmt::format("{:.1f}x for {:.1f}x the pairs", grown, squares))}};
  };
  return {
      "neighborhood_kernels",
      "Three ways to compute neighbourhoods",
      {"fused_neighborhood"},
      "tiles and fusion are faster than a query at a time and than weights in memory, and need no memory that grows "
      "with the window (arXiv 2403.04690).",
      run};
}

}  // namespace heed::results::sparse
