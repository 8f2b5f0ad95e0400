// A bump allocator over one aligned block: sized by a dry run of the same code that later hands the parts out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace heed::kernels {

/// Hands out 64-byte aligned parts of a block. With a null block it only counts.
class Arena {
 public:
  explicit Arena(void* block = nullptr) : block_(static_cast<char*>(block)) {}

  template <class T>
  T* take(int64_t count) {
    const int64_t begin = used_;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return block_ == nullptr ? nullptr : reinterpret_cast<T*>(block_ + begin);
  }
  int64_t used() const { return used_; }

 private:
  char* block_;
  int64_t used_ = 0;
};

struct GiveBack {
  int64_t asked = 0, size = 0;
  void operator()(void* block) const;
};
using Block = std::unique_ptr<void, GiveBack>;

/// `bytes` and a page, aligned to pages. A thread keeps the largest block that it gave back, up to 16 MiB, for its next
/// call: memory that is mapped anew costs a page fault every 4 KiB, which is more than a short call computes.
Block allocate(int64_t bytes);

}  // namespace heed::kernels
