#include "kernels/band_list.h"

#include "heed/error.h"

namespace heed::kernels {

BandLists::BandLists(const Neighborhood& around) {
  for (int a = 0; a < 3; ++a) {
    const NeighborhoodAxis& axis = around.axes[a];
    lengths_[a] = axis.length, windows_[a] = axis.window;
    keys_[a].resize(axis.length), seeing_[a].resize(axis.length);
    for (int64_t i = 0; i < axis.length; ++i) {
      const AxisWindow window = window_at(axis, axis.group_length(i), i / axis.dilation);
      for (int64_t c = window.begin; c < window.end; ++c) {
        const auto offset = static_cast<int32_t>(c - window.begin);
        const int64_t key = i % axis.dilation + c * axis.dilation;
        keys_[a][i].push_back({static_cast<int32_t>(key), offset});
        seeing_[a][key].push_back({static_cast<int32_t>(i), offset});
      }
    }
  }
}

void BandLists::combine(const std::array<const std::vector<Step>*, 3>& steps, std::vector<BandEntry>& entries) const {
  entries.clear();
  for (const Step& z : *steps[0]) {
    for (const Step& y : *steps[1]) {
      const int64_t token = (z.cell * lengths_[1] + y.cell) * lengths_[2],
                    place = (z.offset * windows_[1] + y.offset) * windows_[2];
      for (const Step& x : *steps[2])
        entries.push_back({static_cast<int32_t>(token + x.cell), static_cast<int32_t>(place + x.offset)});
    }
  }
}

void BandLists::keys_of(int64_t i, std::vector<BandEntry>& entries) const {
  const int64_t x = i % lengths_[2], y = i / lengths_[2] % lengths_[1], z = i / lengths_[2] / lengths_[1];
  combine({&keys_[0][z], &keys_[1][y], &keys_[2][x]}, entries);
}

void BandLists::seeing(int64_t j, std::vector<BandEntry>& entries) const {
  const int64_t x = j % lengths_[2], y = j / lengths_[2] % lengths_[1], z = j / lengths_[2] / lengths_[1];
  combine({&seeing_[0][z], &seeing_[1][y], &seeing_[2][x]}, entries);
}

void check_band(const Neighborhood& around, const AnyView& band, const AnyView& rows, const AnyView& keys) {
  check(around);
  const int64_t tokens = around.tokens(), entries = around.window_keys();
  for (const auto& [view, name] : {std::pair{&band, "the band"}, {&rows, "rows"}, {&keys, "keys"}}) {
    require(view->dtype == DType::f32 || view->dtype == DType::f64,
            "{} of a neighbourhood is {}; float32 or float64 is accepted", name, name_of(view->dtype));
    require(view->dtype == band.dtype, "{} of a neighbourhood is {}, the band {}; one type is accepted", name,
            name_of(view->dtype), name_of(band.dtype));
    require(view->size[2] == tokens, "{} of a neighbourhood has {} tokens, the grid {}; equal numbers are accepted",
            name, view->size[2], tokens);
    require(view->size[3] <= 1 || view->stride[3] == 1, "{} has stride {} in its last dimension; 1 is accepted", name,
            view->stride[3]);
    require(view->size[0] == band.size[0], "{} of a neighbourhood has batch size {}, the band {}", name, view->size[0],
            band.size[0]);
  }
  require(band.size[3] == entries, "a band of {} entries a token; the windows have {}", band.size[3], entries);
  require(rows.size[1] == band.size[1], "a band of {} heads for rows of {}; equal numbers are accepted", band.size[1],
          rows.size[1]);
  require(keys.size[1] >= 1 && band.size[1] % keys.size[1] == 0, "{} heads over {} key heads; a multiple is accepted",
          band.size[1], keys.size[1]);
  require(rows.size[3] == keys.size[3], "rows of {} channels and keys of {}; equal numbers are accepted", rows.size[3],
          keys.size[3]);
}

}  // namespace heed::kernels
