#include "bench/kernel_buffer.h"

#include <cmath>
#include <cstring>
#include <new>
#include <random>

#include "kernels/reference/element.h"

namespace heed::bench {

using kernels::AnyView;
using kernels::DType;

Buffer::Buffer(DType dtype, const std::array<int64_t, 4>& size) {
  view_ = {nullptr, dtype, size, kernels::dense_strides(size)};
  const int64_t bytes = (count() * static_cast<int64_t>(size_of(dtype)) + 63) / 64 * 64 + 64;
  data_.reset(std::aligned_alloc(64, bytes));
  if (!data_) throw std::bad_alloc();
  view_.data = data_.get();
}

void Buffer::zero() { std::memset(view_.data, 0, count() * size_of(view_.dtype)); }

void Buffer::randomize(uint64_t seed) {
  // Drawing every element of a cache would take longer than measuring it: a table of numbers, in the element type, is
  // drawn once and its entries are picked at random.
  constexpr size_t kEntries = 1 << 16;
  const size_t element = size_of(view_.dtype);
  std::vector<std::byte> table(kEntries * element);
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  for (size_t i = 0; i < kEntries; ++i) {
    const double value = view_.dtype == DType::i8 ? static_cast<double>(random() % 255) - 127 : normal(random);
    kernels::store_element(table.data(), view_.dtype, static_cast<int64_t>(i), value);
  }
  auto* to = static_cast<std::byte*>(view_.data);
  uint64_t state = seed * 2 + 1;
  for (int64_t i = 0; i < count(); ++i, to += element) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    std::memcpy(to, table.data() + (state >> 48) * element, element);
  }
}

Buffer in_double(const AnyView& from, const std::vector<int64_t>* rows) {
  auto size = from.size;
  if (rows != nullptr) size[2] = static_cast<int64_t>(rows->size());
  Buffer copy(DType::f64, size);
  auto* to = static_cast<double*>(copy.view().data);
  for (int64_t b = 0; b < size[0]; ++b) {
    for (int64_t h = 0; h < size[1]; ++h) {
      for (int64_t n = 0; n < size[2]; ++n) {
        for (int64_t d = 0; d < size[3]; ++d) *to++ = load_element(from, b, h, rows ? (*rows)[n] : n, d);
      }
    }
  }
  return copy;
}

double relative_error(const Buffer& got, const Buffer& want) {
  const auto* a = static_cast<const double*>(got.view().data);
  const auto* b = static_cast<const double*>(want.view().data);
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < got.count(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  // NaN fails every comparison with a tolerance.
  return norm == 0 ? (difference == 0 ? 0 : INFINITY) : std::sqrt(difference / norm);
}

}  // namespace heed::bench
