// A bump allocator over one aligned block: sized by a dry run of the same code that later hands the parts out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "heed/kernels/runtime.h"

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

struct FreeAligned {
  int64_t bytes = 0;
  void operator()(void* block) const {
    std::free(block);
    report_scratch(-bytes);
  }
};
using Block = std::unique_ptr<void, FreeAligned>;

inline Block allocate(int64_t bytes) {
  const int64_t size = (bytes + 4095) / 4096 * 4096 + 4096;
  void* block = std::aligned_alloc(4096, size);
  if (block == nullptr) throw std::bad_alloc();
  report_scratch(size);
  return Block(block, FreeAligned{size});
}

}  // namespace heed::kernels
