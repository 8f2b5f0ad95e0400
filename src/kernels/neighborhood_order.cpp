#include "kernels/neighborhood_order.h"

#include <algorithm>

namespace heed::kernels {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Bits [begin, end) of a word, for any begin and end; no branch in it.
uint64_t bit_range(int64_t begin, int64_t end) {
  const auto below = [](int64_t bit) {
    const int64_t count = std::clamp<int64_t>(bit, 0, 64);
    return (count < 64 ? uint64_t{1} << count : 0) - 1;
  };
  return below(end) & ~below(begin);
}

bool meets(const AxisWindow& a, int64_t begin, int64_t end) { return std::max(a.begin, begin) < std::min(a.end, end); }

/// Calls visit(cell) for every cell of a box of these sizes, the last axis fastest.
template <class Visit>
void each_cell(const std::array<int64_t, 3>& sizes, const Visit& visit) {
  for (int64_t z = 0; z < sizes[0]; ++z) {
    for (int64_t y = 0; y < sizes[1]; ++y) {
      for (int64_t x = 0; x < sizes[2]; ++x) visit(std::array<int64_t, 3>{z, y, x});
    }
  }
}

}  // namespace

NeighborhoodOrder::NeighborhoodOrder(const Neighborhood& around, int64_t extra_keys, int64_t most_rows, int64_t batch,
                                     const uint8_t* hidden)
    : axes_(around), shape_(choose_tiles(axes_, most_rows)), tokens_(around.tokens()), extra_keys_(extra_keys) {
  strips_ = ceil_div(axes_.length(2) + shape_.shift, shape_.strip);
  line_slots_ = axes_.length(1) * shape_.strip;
  block_rows_ = TileShape::kQueries * shape_.block[0] * shape_.block[1] * shape_.block[2];
  for (int a = 0; a < 3; ++a) {
    const NeighborhoodAxis& axis = axes_.axes[a];
    for (int64_t group = 0; group < axis.dilation; ++group) {
      auto& windows = windows_[a].emplace_back();
      const int64_t length = axis.group_length(group);
      for (int64_t c = 0; c < length; ++c) windows.push_back(window_at(axis, length, c));
    }
  }
  whole_ = range_in_tile(shape_.tile, 0, TileShape::kQueries);
  int64_t query = 0;
  each_cell(shape_.tile, [&](const Cell& cell) { cells_[query++] = cell; });
  lay_out_keys();
  lay_out_queries();
  if (hidden != nullptr) hide(batch, hidden);
}

void NeighborhoodOrder::add_rows(const Cell& group, const Cell& first, int64_t count,
                                 std::vector<int32_t>& rows) const {
  int64_t row = 0;
  bool there = true;
  for (int a = 0; a < 3; ++a) {
    there &= a == 2 || (first[a] >= 0 && first[a] < length(a, group));
    row = row * axes_.axes[a].length + group[a] + first[a] * axes_.axes[a].dilation;
  }
  const int64_t columns = length(2, group), step = axes_.axes[2].dilation;
  for (int64_t x = first[2]; x < first[2] + count; ++x, row += step)
    rows.push_back(there && x >= 0 && x < columns ? static_cast<int32_t>(row) : -1);
}

void NeighborhoodOrder::lay_out_keys() {
  const std::array<int64_t, 3> groups{axes_.axes[0].dilation, axes_.axes[1].dilation, axes_.axes[2].dilation};
  key_rows_.reserve(groups[0] * groups[1] * groups[2] * strips_ * axes_.length(0) * line_slots_ + extra_keys_);
  each_cell(groups, [&](const Cell& group) {
    each_cell({1, strips_, axes_.length(0)}, [&](const Cell& at) {
      const int64_t column = at[1] * shape_.strip - shape_.shift, plane = at[2];
      lines_.push_back({group, plane, column, key_slots()});
      for (int64_t y = 0; y < axes_.length(1); ++y) add_rows(group, {plane, y, column}, shape_.strip, key_rows_);
    });
  });
  grid_slots_ = key_slots();
  for (int64_t e = 0; e < extra_keys_; ++e) key_rows_.push_back(static_cast<int32_t>(tokens_ + e));
}

void NeighborhoodOrder::lay_out_queries() {
  std::array<int64_t, 3> blocks{};
  for (int a = 0; a < 3; ++a) blocks[a] = ceil_div(axes_.length(a), shape_.tile[a] * shape_.block[a]);
  each_cell({axes_.axes[0].dilation, axes_.axes[1].dilation, axes_.axes[2].dilation}, [&](const Cell& group) {
    // Along the strips last: blocks that follow each other share keys, and a few of them visit neighbouring strips.
    each_cell({blocks[2], blocks[0], blocks[1]}, [&](const Cell& block) {
      lay_out_block(group, {block[1], block[2], block[0]});
    });
  });
}

void NeighborhoodOrder::lay_out_block(const Cell& group, const Cell& block) {
  Cell corner{};
  for (int a = 0; a < 3; ++a) corner[a] = block[a] * shape_.block[a] * shape_.tile[a];
  each_cell(shape_.block, [&](const Cell& tile) {
    Place place{group, corner, {}};
    for (int a = 0; a < 3; ++a) place.origin[a] += tile[a] * shape_.tile[a];
    place.box = seen_by(place, whole_);
    places_.push_back(place);
    each_cell({shape_.tile[0], shape_.tile[1], 1}, [&](const Cell& line) {
      add_rows(group, {place.origin[0] + line[0], place.origin[1] + line[1], place.origin[2]}, shape_.tile[2],
               query_rows_);
    });
  });
  list_runs({group, corner, {}});
}

void NeighborhoodOrder::list_runs(const Place& first) {
  TileRange range{};
  for (int a = 0; a < 3; ++a) range.high[a] = shape_.block[a] * shape_.tile[a] - 1;
  const Box box = seen_by(first, range);
  const size_t begin = runs_.size();
  const auto add = [&](const Run& run) {
    if (run.begin >= run.end) return;
    if (runs_.size() > begin && runs_.back().end == run.begin) {
      runs_.back().end = run.end;
    } else {
      runs_.push_back(run);
    }
  };
  for (const Line& line : lines_) add(in_line(line, first.group, box));
  if (box[0].size() > 0) add({grid_slots_, grid_slots_ + extra_keys_});
  offsets_.push_back(static_cast<int64_t>(runs_.size()));
}

TileOrder::Run NeighborhoodOrder::in_line(const Line& line, const Cell& group, const Box& box) const {
  if (line.group != group || !box[0].holds(line.plane) || !meets(box[2], line.column, line.column + shape_.strip))
    return {0, 0};
  return {line.first + box[1].begin * shape_.strip, line.first + box[1].end * shape_.strip};
}

NeighborhoodOrder::Box NeighborhoodOrder::seen_by(const Place& place, const TileRange& range) const {
  Box box{};
  for (int a = 0; a < 3; ++a) {
    const int64_t low = place.origin[a] + range.low[a],
                  high = std::min(place.origin[a] + range.high[a], length(a, place.group) - 1);
    if (low > high) return {};
    box[a] = {window(a, place.group, low).begin, window(a, place.group, high).end};
  }
  return box;
}

void NeighborhoodOrder::hide(int64_t batch, const uint8_t* hidden) {
  shown_words_ = key_slots() / 64 + 2;  // a word that begins inside is read with the one after it
  shown_.assign(batch * shown_words_, 0);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t j = 0; j < key_slots(); ++j) {
      const bool seen = key_rows_[j] >= 0 && hidden[b * (tokens_ + extra_keys_) + key_rows_[j]] == 0;
      shown_[b * shown_words_ + j / 64] |= static_cast<uint64_t>(seen) << (j % 64);
    }
  }
}

uint64_t NeighborhoodOrder::shown(int64_t batch, int64_t j) const {
  if (shown_.empty()) return ~uint64_t{0};
  const uint64_t* words = shown_.data() + batch * shown_words_ + j / 64;
  const int64_t bit = j % 64;
  return bit == 0 ? words[0] : words[0] >> bit | words[1] << (64 - bit);
}

void NeighborhoodOrder::words(const Place& place, int64_t first, int64_t rows, int64_t j, int64_t end,
                              uint64_t* words) const {
  std::fill_n(words, rows, 0);
  const uint64_t ones = ~uint64_t{0};
  // A pair is visible where it is along every axis: few words an axis are and'ed.
  std::array<std::array<uint64_t, TileShape::kQueries>, 3> axis;
  const auto along = [&](int a, const auto& bits) {
    const auto& windows = windows_[a][place.group[a]];
    const int64_t origin = place.origin[a], tile = shape_.tile[a],
                  there = std::min(tile, static_cast<int64_t>(windows.size()) - origin);
    for (int64_t t = 0; t < there; ++t) axis[a][t] = bits(windows[origin + t]);
    for (int64_t t = std::max<int64_t>(there, 0); t < tile; ++t) axis[a][t] = 0;
  };
  const auto add = [&] {
    for (int64_t r = 0; r < rows;) {
      const Cell& cell = cells_[first + r];
      const uint64_t outer = axis[0][cell[0]] & axis[1][cell[1]];
      const int64_t stop = std::min(rows, r + shape_.tile[2] - cell[2]);
      for (const uint64_t* inner = &axis[2][cell[2]]; r < stop; ++r, ++inner) words[r] |= outer & *inner;
    }
  };
  const int64_t strip = shape_.strip;
  for (int64_t at = j; at < std::min(end, grid_slots_);) {
    const Line& line = lines_[at / line_slots_];
    const int64_t stop = std::min(end, line.first + line_slots_), bit = at - j, row = (at - line.first) / strip;
    if (line.group == place.group) {
      const uint64_t repeated = ones / (strip == 64 ? ones : (uint64_t{1} << strip) - 1);
      along(0, [&](const AxisWindow& w) { return w.holds(line.plane) ? ones : 0; });
      const uint64_t of_line = bit_range(bit, stop - j);
      along(1, [&](const AxisWindow& w) {
        return bit_range(bit + (w.begin - row) * strip, bit + (w.end - row) * strip) & of_line;
      });
      along(2, [&](const AxisWindow& w) {
        return repeated * bit_range(std::max<int64_t>(w.begin - line.column, 0), std::min(w.end - line.column, strip));
      });
      add();
    }
    at = stop;
  }
  if (end <= grid_slots_) return;
  for (int a = 0; a < 3; ++a) along(a, [&](const AxisWindow&) { return ones; });
  for (int64_t t = 0; t < shape_.tile[0]; ++t) axis[0][t] &= bit_range(grid_slots_ - j, end - j);
  add();
}

TileCover NeighborhoodOrder::cover(int64_t batch, int64_t i0, int64_t rows, int64_t j0, int64_t j1, int64_t width,
                                   uint32_t* bits) const {
  const Place& place = places_[i0 / TileShape::kQueries];
  const int64_t first = i0 % TileShape::kQueries;
  const Box box = rows == TileShape::kQueries ? place.box : seen_by(place, range_in_tile(shape_.tile, first, rows));
  if (box[0].size() == 0) return {};
  int64_t begin = j1, end = j0;
  for (int64_t line = j0 / line_slots_; line * line_slots_ < std::min(j1, grid_slots_); ++line) {
    const Run run = in_line(lines_[line], place.group, box);
    if (std::max(run.begin, j0) >= std::min(run.end, j1)) continue;
    begin = std::min(begin, std::max(run.begin, j0)), end = std::min(run.end, j1);
  }
  if (j1 > grid_slots_) begin = std::min(begin, std::max(j0, grid_slots_)), end = j1;
  if (begin >= end) return {};
  TileBits tile(bits, width, rows);
  std::array<uint64_t, TileShape::kQueries> seen;
  for (int64_t j = begin; j < end; j += 64) {
    const int64_t keys = std::min<int64_t>(64, end - j);
    words(place, first, rows, j, j + keys, seen.data());
    const uint64_t there = shown(batch, j);
    for (int64_t r = 0; r < rows; ++r) seen[r] &= there;
    tile.add(seen.data(), keys);
  }
  return tile.cover(begin, end);
}

int64_t NeighborhoodOrder::tile_pairs(int64_t lanes) const {
  int64_t pairs = 0;
  const int64_t strip = shape_.strip;
  for (const Place& place : places_) {
    for (int64_t first = 0; first < TileShape::kQueries; first += lanes) {
      const Box box = seen_by(place, range_in_tile(shape_.tile, first, lanes));
      if (box[0].size() == 0) continue;
      const int64_t strips = (box[2].end - 1 + shape_.shift) / strip - (box[2].begin + shape_.shift) / strip + 1;
      pairs += lanes * box[0].size() * box[1].size() * strips * strip;
    }
  }
  return pairs;
}

}  // namespace heed::kernels
