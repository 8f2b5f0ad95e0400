// heed bench simulate: what a neighbourhood can gain, by counting tiles, and what the kernel does gain.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/commands.h"
#include "heed/bench/kernel_bench.h"
#include "heed/bench/neighborhood_simulator.h"
#include "heed/error.h"
#include "heed/nn/sizes.h"

namespace heed::cli {
namespace {

using bench::SimulatedTiles;
using kernels::Neighborhood;

struct SimulateOptions {
  Common common;
  std::string grid, window, dilation = "1", causal = "0", query_tile, key_tile;
  std::vector<std::string> strides{"1"};
  bool dynamic = false, measure = false;
  double attention_share = 0;
};

/// A number an axis of what --`name` says; one stands for all.
std::vector<int64_t> on_axes(const std::string& text, const char* name, size_t axes) {
  auto sizes = nn::parse_sizes(text, std::string("--") + name);
  require(sizes.size() == 1 || sizes.size() == axes, "--{} {}: 1 or {} numbers are accepted, as --grid has {}", name,
          text, axes, axes);
  if (sizes.size() == 1) sizes.resize(axes, sizes[0]);
  return sizes;
}

Neighborhood neighborhood_of(const SimulateOptions& o, const std::string& stride) {
  const auto grid = nn::parse_sizes(o.grid, "--grid");
  require(grid.size() <= 3, "--grid {}: 1, 2 or 3 axes are accepted", o.grid);
  const size_t axes = grid.size();
  const auto window = on_axes(o.window, "window", axes), strides = on_axes(stride, "stride", axes),
             dilation = on_axes(o.dilation, "dilation", axes), causal = on_axes(o.causal, "causal", axes);
  Neighborhood around;
  around.rank = static_cast<int>(axes);
  for (size_t a = 0; a < axes; ++a) {
    require(causal[a] == 0 || causal[a] == 1, "--causal {}: 0 or 1 an axis is accepted", o.causal);
    around.axes[a] = {grid[a], window[a], strides[a], dilation[a], causal[a] == 1};
  }
  check(around);
  return around;
}

/// The tiles asked for, else those of the kernel.
SimulatedTiles tiles_of(const SimulateOptions& o, const Neighborhood& around) {
  const auto tiling = kernels::neighborhood_tiling(around);
  // The kernel's strips of keys begin where the windows of its tiles do.
  const bool of_kernel = o.query_tile.empty() && o.key_tile.empty();
  SimulatedTiles tiles{.queries = tiling.tile, .dynamic = o.dynamic || of_kernel};
  const auto axes = static_cast<size_t>(around.rank);
  tiles.keys[axes - 1] = tiling.strip;
  const auto read = [&](const std::string& text, const char* name, std::array<int64_t, 3>& to) {
    if (text.empty()) return;
    to.fill(1);
    const auto sizes = on_axes(text, name, axes);
    std::copy(sizes.begin(), sizes.end(), to.begin());
  };
  read(o.query_tile, "query-tile", tiles.queries);
  read(o.key_tile, "key-tile", tiles.keys);
  return tiles;
}

std::string text_of(const std::array<int64_t, 3>& sizes, int rank) {
  return fmt::format("{}", fmt::join(sizes.begin(), sizes.begin() + rank, "x"));
}

void print_rows(const SimulateOptions& o, const nlohmann::ordered_json& report) {
  fmt::print("grid {}, window {}, dilation {}, causal {}, {} key tiles\n\n", o.grid, o.window, o.dilation, o.causal,
             report["dynamic"].get<bool>() ? "dynamic" : "static");
  fmt::print("{:<12} {:<12} {:<12} {:<12} {:>9} {:>9} {:>11}", "stride", "query tile", "key tile", "visited",
             "speed-up", "bound", "of stride 1");
  if (o.attention_share > 0) fmt::print(" {:>10}", "end to end");
  if (o.measure) fmt::print(" {:>10} {:>10} {:>9} {:>9}", "kernel", "dense", "measured", "reached");
  fmt::print("\n");
  for (const auto& r : report["results"]) {
    fmt::print("{:<12} {:<12} {:<12} {:<12} {:>8.2f}x {:>8.2f}x {:>10.2f}x", r["stride"].get<std::string>(),
               r["query_tile"].get<std::string>(), r["key_tile"].get<std::string>(), r["visited"].get<std::string>(),
               r["speed_up"].get<double>(), r["flop_bound"].get<double>(), r["over_stride_one"].get<double>());
    if (r.contains("end_to_end")) fmt::print(" {:>9.2f}x", r["end_to_end"].get<double>());
    if (r.contains("measured"))
      fmt::print(" {:>7.2f} ms {:>7.0f} ms {:>8.2f}x {:>8.0f}%", r["kernel_ms"].get<double>(),
                 r["dense_ms"].get<double>(), r["measured"].get<double>(),
                 100 * r["measured"].get<double>() / r["speed_up"].get<double>());
    fmt::print("{}\n", r["perfect"].get<bool>() ? "  no waste" : "");
  }
}

void run_simulate(const SimulateOptions& o) {
  apply(o.common);
  auto rows = nlohmann::ordered_json::array();
  double dense_ms = 0;
  bool dynamic = o.dynamic;
  for (const auto& stride : o.strides) {
    const auto around = neighborhood_of(o, stride);
    const auto tiles = tiles_of(o, around);
    dynamic = tiles.dynamic;
    const auto result = bench::simulate(around, tiles);
    std::array<int64_t, 3> strides{};
    for (int a = 0; a < 3; ++a) strides[a] = around.axes[a].stride;
    nlohmann::ordered_json row{{"stride", text_of(strides, around.rank)},
                               {"query_tile", text_of(tiles.queries, around.rank)},
                               {"key_tile", text_of(tiles.keys, around.rank)},
                               {"visited", text_of(result.visited, around.rank)},
                               {"speed_up", result.speed_up},
                               {"flop_bound", result.bound},
                               {"over_stride_one", result.over_stride_one},
                               {"perfect", result.perfect}};
    if (o.attention_share > 0) row["end_to_end"] = bench::end_to_end(o.attention_share, result.speed_up);
    if (o.measure) {
      bench::KernelCase c{.name = "forward"};
      c.q_heads = c.kv_heads = 1;
      c.queries = c.keys = around.tokens();
      if (dense_ms == 0) dense_ms = bench::time_kernel(c) * 1e3;
      c.around = around;
      row["kernel_ms"] = bench::time_kernel(c) * 1e3;
      row["dense_ms"] = dense_ms;
      row["measured"] = dense_ms / row["kernel_ms"].get<double>();
    }
    rows.push_back(std::move(row));
  }
  const nlohmann::ordered_json report{{"grid", o.grid},     {"window", o.window}, {"dilation", o.dilation},
                                      {"causal", o.causal}, {"dynamic", dynamic}, {"results", rows}};
  if (!write_json(o.common, report.dump(1))) print_rows(o, report);
}

}  // namespace

void add_bench_simulate(CLI::App& bench) {
  auto* command = bench.add_subcommand(
      "simulate",
      "the speed-up over dense attention that a tiled kernel can reach on neighbourhoods of a grid: the tiles it "
      "visits "
      "are counted\n"
      "example: heed bench simulate --grid 30x48x80 --window 18x24x24 --stride 1 1x1x8 16x8x8 --query-tile 4x8x8 "
      "--key-tile 2x8x8");
  auto o = std::make_shared<SimulateOptions>();
  command->add_option("--grid", o->grid, "cells an axis, as 256x256")->required();
  command->add_option("--window", o->window, "visible cells an axis, as 13x13, or one number for all")->required();
  command->add_option("--stride", o->strides, "neighbours that share a window; each value is a row (default 1)");
  command->add_option("--dilation", o->dilation, "steps between visible cells (default 1)");
  command->add_option("--causal", o->causal, "1: no later cell along the axis, as 1x0x0 (default 0)");
  command->add_option("--query-tile", o->query_tile, "queries of a tile an axis (default: the kernel's)");
  command->add_option("--key-tile", o->key_tile, "keys of a tile an axis (default: the kernel's)");
  command->add_flag("--dynamic", o->dynamic, "key tiles begin where the windows of a query tile do");
  command
      ->add_option("--attention-share", o->attention_share,
                   "also the speed-up of a model that spends this share of its time on attention")
      ->check(number(0, 1));
  command->add_flag("--measure", o->measure, "also time the kernel and dense attention, one head of 64");
  add_threads(*command, o->common);
  add_json(*command, o->common);
  command->callback([o] { run_simulate(*o); });
}

}  // namespace heed::cli
