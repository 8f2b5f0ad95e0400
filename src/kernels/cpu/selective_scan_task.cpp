#include "kernels/cpu/selective_scan_task.h"

#include <algorithm>

namespace heed::kernels {
SelectiveScanTask::SelectiveScanTask(const SelectiveScanParams& params, int64_t slice_channels, int64_t pieces)
    : p(params), width(params.a.size[3]), chunked(false) {
  const int64_t channels = p.x.size[3], b_channels = channels / p.b.size[1], c_channels = channels / p.c.size[1];
  int64_t most = 0;
  for (int64_t d = 0; d < channels;) {
    const int64_t end =
        std::min({d + slice_channels, (d / b_channels + 1) * b_channels, (d / c_channels + 1) * c_channels});
    slices.push_back({d, end, d / b_channels, d / c_channels});
    most = std::max(most, end - d);
    d = end;
  }
  slice_width = (most + 15) / 16 * 16;
  units = units_of(p, p.x, unit_tokens(p, p.x, p.chunk, pieces, 4, 1024));
  chunked = static_cast<int64_t>(units.size()) > count_spans(p, p.x);
}

}  // namespace heed::kernels
