// Rows of tensors asked for ahead of their use, a few lines between one piece of work and the next: memory answers
// while the arithmetic runs, and a core's few line buffers never fill up. Lines of a row follow one another, so that
// the hardware, which sees them, runs ahead as well.
#pragma once

#include <cstdint>

#include "heed/kernels/view.h"

namespace heed::kernels {

class RowsAhead {
 public:
  /// Requests stand beside each other; what is wanted soonest comes first.
  static constexpr int kRequests = 4;

  explicit RowsAhead(int lines_a_step) : lines_a_step_(lines_a_step) {}

  /// Rows [begin, end) of (b, h), or rows index[i] where those are not below 0, in place of what is left of this
  /// request; of their columns [column, column + columns), or all.
  void ask(int request, const AnyView& view, int64_t b, int64_t h, int64_t begin, int64_t end,
           const int32_t* index = nullptr, int64_t column = 0, int64_t columns = -1) {
    const auto width = static_cast<int64_t>(size_of(view.dtype));
    const char* const head =
        static_cast<const char*>(view.data) + (b * view.stride[0] + h * view.stride[1] + column) * width;
    rows_[request] = {head, view.stride[2] * width, (columns < 0 ? view.size[3] : columns) * width, index, begin, end,
                      0};
    pending_ |= begin < end;
  }

  /// Between two pieces of work.
  void step() {
    if (pending_) fetch();
  }

 private:
  static constexpr int64_t kLine = 64;

  struct Rows {
    const char* head;
    int64_t stride, bytes;
    const int32_t* index;
    int64_t next = 0, end = 0, byte = 0;
  };

  [[gnu::noinline]] void fetch() {
    int lines = lines_a_step_;
    for (Rows& rows : rows_) {
      for (; rows.next < rows.end; ++rows.next, rows.byte = 0) {
        const int64_t row = rows.index == nullptr ? rows.next : rows.index[rows.next];
        if (row < 0) continue;
        const char* const at = rows.head + row * rows.stride;
        for (; rows.byte < rows.bytes; rows.byte += kLine) {
          if (lines-- == 0) return;
          __builtin_prefetch(at + rows.byte, 0, 2);
        }
      }
    }
    pending_ = false;
  }

  const int lines_a_step_;
  bool pending_ = false;
  Rows rows_[kRequests];
};

}  // namespace heed::kernels
