// Rows of tensors asked for ahead of their use, a few lines between one piece of work and the next: memory answers
// while the products run, and a core's few line buffers never fill up.
#pragma once

#include <cstdint>

#include "heed/kernels/view.h"

namespace heed::kernels {

class RowsAhead {
 public:
  /// What is wanted soonest comes first.
  enum Use { queries, outputs, keys, values, kUses };

  /// Rows [begin, end) of (b, h), or rows index[i] where those are not below 0, in place of what is left for this use.
  void ask(Use use, const AnyView& view, int64_t b, int64_t h, int64_t begin, int64_t end, const int32_t* index) {
    const auto width = static_cast<int64_t>(size_of(view.dtype));
    rows_[use] = {static_cast<const char*>(view.data) + (b * view.stride[0] + h * view.stride[1]) * width,
                  view.stride[2] * width,
                  view.size[3] * width,
                  index,
                  begin,
                  end};
    pending_ |= begin < end;
  }

  /// Between two pieces of work that take a few hundred nanoseconds.
  void step() {
    if (pending_) fetch_some();
  }

 private:
  static constexpr int64_t kLine = 64, kLinesAStep = 12;

  struct Rows {
    const char* head;
    int64_t stride, bytes;
    const int32_t* index;
    int64_t next = 0, end = 0;
  };

  [[gnu::noinline]] void fetch_some() {
    int64_t lines = 0;
    for (Rows& rows : rows_) {
      for (; rows.next < rows.end; ++rows.next) {
        if (lines >= kLinesAStep) return;
        const int64_t row = rows.index == nullptr ? rows.next : rows.index[rows.next];
        if (row < 0) continue;
        const char* const at = rows.head + row * rows.stride;
        for (int64_t byte = 0; byte < rows.bytes; byte += kLine, ++lines) __builtin_prefetch(at + byte);
      }
    }
    pending_ = false;
  }

  Rows rows_[kUses];
  bool pending_ = false;
};

}  // namespace heed::kernels
