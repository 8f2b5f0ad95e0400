#include "heed/kernels/work_plan.h"

#include <algorithm>

#include "heed/error.h"

namespace heed::kernels {
namespace {

using Segment = WorkPlan::Segment;

// Cuts the walk over all units at `cuts`, positions in the linear order.
void cut_linear(WorkPlan& plan, const std::vector<int64_t>& row_units, const std::vector<int64_t>& cuts) {
  int64_t row = 0, unit = 0, at = 0;
  for (size_t worker = 0; worker + 1 < cuts.size(); ++worker) {
    while (at < cuts[worker + 1]) {
      while (unit == row_units[row]) {
        ++row;
        unit = 0;
      }
      const int64_t taken = std::min(row_units[row] - unit, cuts[worker + 1] - at);
      plan.workers[worker].push_back({row, unit, unit + taken});
      unit += taken;
      at += taken;
    }
  }
}

// Deals pieces, already in linear order, to the workers in runs of nearly equal count.
void deal(WorkPlan& plan, const std::vector<Segment>& pieces) {
  const auto workers = static_cast<int64_t>(plan.workers.size());
  const auto count = static_cast<int64_t>(pieces.size());
  for (int64_t worker = 0; worker < workers; ++worker) {
    for (int64_t i = count * worker / workers; i < count * (worker + 1) / workers; ++i) {
      plan.workers[worker].push_back(pieces[i]);
    }
  }
}

}  // namespace

double WorkPlan::efficiency() const {
  int64_t most = 0;
  for (const auto& segments : workers) {
    int64_t own = 0;
    for (const Segment& segment : segments) own += segment.end - segment.begin;
    most = std::max(most, own);
  }
  return most == 0 ? 1.0
                   : static_cast<double>(units) / (static_cast<double>(workers.size()) * static_cast<double>(most));
}

WorkPlan make_work_plan(const std::vector<int64_t>& lengths, int64_t tile, int workers, WorkPlan::Split split) {
  require(tile >= 1, "a work plan's tile is {}; at least 1 slot is accepted", tile);
  require(workers >= 1, "a work plan's worker count is {}; at least 1 is accepted", workers);
  WorkPlan plan;
  plan.tile = tile;
  plan.rows = static_cast<int64_t>(lengths.size());
  plan.workers.resize(workers);
  std::vector<int64_t> row_units;
  int64_t filled_rows = 0;
  for (size_t row = 0; row < lengths.size(); ++row) {
    require(lengths[row] >= 0, "length {} of row {} is negative", lengths[row], row);
    row_units.push_back(lengths[row] / tile + (lengths[row] % tile != 0 ? 1 : 0));
    plan.units += row_units.back();
    filled_rows += row_units.back() != 0 ? 1 : 0;
  }
  if (plan.units == 0) return plan;

  if (split == WorkPlan::Split::stream_k) {
    std::vector<int64_t> cuts{0};
    for (int64_t worker = 0; worker < workers; ++worker) {
      cuts.push_back(cuts.back() + plan.units / workers + (worker < plan.units % workers ? 1 : 0));
    }
    cut_linear(plan, row_units, cuts);
    return plan;
  }

  const int64_t pieces_per_row = split == WorkPlan::Split::fixed ? (workers + filled_rows - 1) / filled_rows : 1;
  std::vector<Segment> pieces;
  for (int64_t row = 0; row < plan.rows; ++row) {
    const int64_t piece = std::max<int64_t>((row_units[row] + pieces_per_row - 1) / pieces_per_row, 1);
    for (int64_t begin = 0; begin < row_units[row]; begin += piece) {
      pieces.push_back({row, begin, std::min(begin + piece, row_units[row])});
    }
  }
  deal(plan, pieces);
  return plan;
}

}  // namespace heed::kernels
