// The sums of a band over all pairs of tokens, in double.
#include "heed/kernels/neighborhood_band.h"
#include "kernels/band_list.h"
#include "kernels/reference/element.h"

namespace heed::kernels::reference {
namespace {

/// The place in the row of token i of its pair with token j; -1: i does not see j.
int64_t place_of(const Neighborhood& around, int64_t i, int64_t j) {
  if (!sees(around, i, j)) return -1;
  int64_t place = 0, step = 1;
  for (int a = 2; a >= 0; --a) {
    const NeighborhoodAxis& axis = around.axes[a];
    const int64_t own = i % axis.length, other = j % axis.length;
    i /= axis.length, j /= axis.length;
    const AxisWindow window = window_at(axis, axis.group_length(own), own / axis.dilation);
    place += (other / axis.dilation - window.begin) * step;
    step *= axis.window;
  }
  return place;
}

/// Calls visit(b, h, head of the keys, i, j, place) for every visible pair.
template <class Visit>
void each_pair(const Neighborhood& around, const AnyView& band, int64_t key_heads, const Visit& visit) {
  for (int64_t i = 0; i < around.tokens(); ++i) {
    for (int64_t j = 0; j < around.tokens(); ++j) {
      const int64_t place = place_of(around, i, j);
      if (place < 0) continue;
      for (int64_t b = 0; b < band.size[0]; ++b)
        for (int64_t h = 0; h < band.size[1]; ++h) visit(b, h, h * key_heads / band.size[1], i, j, place);
    }
  }
}

void add(const AnyView& to, int64_t b, int64_t h, int64_t n, int64_t d, double value) {
  store_element(to, b, h, n, d, load_element(to, b, h, n, d) + value);
}

}  // namespace

void band_scores(const Neighborhood& around, const AnyView& rows, const AnyView& keys, double scale, double absent,
                 const AnyView& band) {
  check_band(around, band, rows, keys);
  fill(band, absent);
  each_pair(around, band, keys.size[1], [&](int64_t b, int64_t h, int64_t hk, int64_t i, int64_t j, int64_t place) {
    double sum = 0;
    for (int64_t d = 0; d < rows.size[3]; ++d) sum += load_element(rows, b, h, i, d) * load_element(keys, b, hk, j, d);
    store_element(band, b, h, i, place, scale * sum);
  });
}

void band_sums(const Neighborhood& around, const AnyView& band, const AnyView& keys, const AnyView& out) {
  check_band(around, band, out, keys);
  fill(out, 0);
  each_pair(around, band, keys.size[1], [&](int64_t b, int64_t h, int64_t hk, int64_t i, int64_t j, int64_t place) {
    const double weight = load_element(band, b, h, i, place);
    for (int64_t d = 0; d < out.size[3]; ++d) add(out, b, h, i, d, weight * load_element(keys, b, hk, j, d));
  });
}

void band_sums_of_seeing(const Neighborhood& around, const AnyView& band, const AnyView& rows, const AnyView& out) {
  check_band(around, band, rows, out);
  fill(out, 0);
  each_pair(around, band, out.size[1], [&](int64_t b, int64_t h, int64_t hk, int64_t i, int64_t j, int64_t place) {
    const double weight = load_element(band, b, h, i, place);
    for (int64_t d = 0; d < out.size[3]; ++d) add(out, b, hk, j, d, weight * load_element(rows, b, h, i, d));
  });
}

}  // namespace heed::kernels::reference
