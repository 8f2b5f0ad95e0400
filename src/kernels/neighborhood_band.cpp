#include "heed/kernels/neighborhood_band.h"

#include <algorithm>

#include "heed/kernels/runtime.h"
#include "kernels/cpu/band_task.h"

namespace heed::kernels {
namespace {

/// Calls visit(token, entries) for every token, over threads, with room for the weights of its entries.
template <class Find, class Visit>
void each_token(int64_t tokens, const Find& find, const Visit& visit) {
  constexpr int64_t kTokens = 16;  // of an item
  const int64_t items = (tokens + kTokens - 1) / kTokens;
  const int threads = static_cast<int>(std::clamp<int64_t>(items, 1, num_threads()));
#pragma omp parallel num_threads(threads)
  {
    std::vector<BandEntry> entries;
    std::vector<float> weights;
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < items; ++item) {
      for (int64_t t = item * kTokens; t < std::min(tokens, (item + 1) * kTokens); ++t) {
        find(t, entries);
        weights.resize(entries.size());
        visit(t, entries, weights);
      }
    }
  }
}

BandRow row_of(const std::vector<BandEntry>& entries, const View<float>& rows, int64_t b, int64_t h) {
  return {entries.data(), static_cast<int64_t>(entries.size()), rows.row(b, h, 0), rows.stride[2], rows.size[3]};
}

bool takes_reference(const AnyView& band) { return use_reference() || band.dtype == DType::f64; }

}  // namespace

void band_scores(const Neighborhood& around, const AnyView& rows, const AnyView& keys, double scale, double absent,
                 const AnyView& band) {
  if (takes_reference(band)) return reference::band_scores(around, rows, keys, scale, absent, band);
  check_band(around, band, rows, keys);
  const BandLists lists(around);
  const auto x = rows.as<float>(), y = keys.as<float>(), to = band.as<float>();
  each_token(
      around.tokens(), [&](int64_t i, auto& entries) { lists.keys_of(i, entries); },
      [&](int64_t i, const auto& entries, auto&) {
        for (int64_t b = 0; b < band.size[0]; ++b) {
          for (int64_t h = 0; h < band.size[1]; ++h) {
            float* const row = to.row(b, h, i);
            if (static_cast<int64_t>(entries.size()) < band.size[3])
              std::fill_n(row, band.size[3], static_cast<float>(absent));
            band_row_scores(row_of(entries, y, b, h * keys.size[1] / band.size[1]), x.row(b, h, i),
                            static_cast<float>(scale), row);
          }
        }
      });
}

void band_sums(const Neighborhood& around, const AnyView& band, const AnyView& keys, const AnyView& out) {
  if (takes_reference(band)) return reference::band_sums(around, band, keys, out);
  check_band(around, band, out, keys);
  const BandLists lists(around);
  const auto from = band.as<float>(), y = keys.as<float>(), to = out.as<float>();
  each_token(
      around.tokens(), [&](int64_t i, auto& entries) { lists.keys_of(i, entries); },
      [&](int64_t i, const auto& entries, auto& weights) {
        for (int64_t b = 0; b < band.size[0]; ++b) {
          for (int64_t h = 0; h < band.size[1]; ++h) {
            const float* row = from.row(b, h, i);
            for (size_t e = 0; e < entries.size(); ++e) weights[e] = row[entries[e].place];
            std::fill_n(to.row(b, h, i), out.size[3], 0.0f);
            band_row_sums(row_of(entries, y, b, h * keys.size[1] / band.size[1]), weights.data(), to.row(b, h, i));
          }
        }
      });
}

void band_sums_of_seeing(const Neighborhood& around, const AnyView& band, const AnyView& rows, const AnyView& out) {
  if (takes_reference(band)) return reference::band_sums_of_seeing(around, band, rows, out);
  check_band(around, band, rows, out);
  const BandLists lists(around);
  const auto from = band.as<float>(), x = rows.as<float>(), to = out.as<float>();
  const int64_t group = band.size[1] / out.size[1];
  each_token(
      around.tokens(), [&](int64_t j, auto& entries) { lists.seeing(j, entries); },
      [&](int64_t j, const auto& entries, auto& weights) {
        for (int64_t b = 0; b < band.size[0]; ++b) {
          for (int64_t h = 0; h < band.size[1]; ++h) {
            const float* const head = from.row(b, h, 0);
            for (size_t e = 0; e < entries.size(); ++e)
              weights[e] = head[entries[e].token * from.stride[2] + entries[e].place];
            float* const row = to.row(b, h / group, j);
            if (h % group == 0) std::fill_n(row, out.size[3], 0.0f);
            band_row_sums(row_of(entries, x, b, h), weights.data(), row);
          }
        }
      });
}

}  // namespace heed::kernels
