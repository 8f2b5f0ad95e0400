#include "kernels/cpu/scratch.h"

#include <cstdlib>
#include <new>
#include <utility>

#include "heed/kernels/runtime.h"

namespace heed::kernels {
namespace {

constexpr int64_t kMostKept = int64_t{16} << 20;

struct Kept {
  ~Kept() { std::free(block); }
  void* block = nullptr;
  int64_t size = 0;
};
thread_local Kept kept;

}  // namespace

Block allocate(int64_t bytes) {
  int64_t size = (bytes + 4095) / 4096 * 4096 + 4096;
  const int64_t asked = size;
  void* block = nullptr;
  if (kept.size >= size) {
    block = std::exchange(kept.block, nullptr);
    size = std::exchange(kept.size, 0);
  } else {
    block = std::aligned_alloc(4096, size);
    if (block == nullptr) throw std::bad_alloc();
  }
  report_scratch(asked);
  return Block(block, GiveBack{asked, size});
}

void GiveBack::operator()(void* block) const {
  report_scratch(-asked);
  if (size > kept.size && size <= kMostKept) {
    std::free(std::exchange(kept.block, block));
    kept.size = size;
  } else {
    std::free(block);
  }
}

}  // namespace heed::kernels
