#include "mixers/sparse/chunked_keys.h"

#include <algorithm>
#include <cmath>

namespace heed::sparse {
namespace {

using torch::Tensor;

/// What a sum of n vectors is multiplied by.
double pooled(int64_t n, double power) { return std::pow(double(std::max<int64_t>(n, 1)), -power); }

}  // namespace

void ChunkedKeys::append(const Tensor& keys, const Tensor& hidden, const Candidates& candidates) {
  torch::NoGradGuard no_grad;
  const int64_t batch = keys.size(0), n = keys.size(2);
  items_.resize(size_t(batch));
  const auto padding = hidden.contiguous();
  for (int64_t b = 0; b < batch; ++b) {
    auto& before = items_[size_t(b)].real_before;
    for (int64_t i = 0; i < n; ++i) before.push_back(before.back() + int32_t(!padding.data_ptr<bool>()[b * n + i]));
  }
  recent_ = recent_.defined() ? torch::cat({recent_, keys}, 2) : keys.detach();
  tokens_ += n;
  const int64_t known = tokens_ - rule_.borders.lag;
  if (known <= settled_) return;
  // What a place is told by lies within a window of it and of the place before.
  const int64_t from = std::max<int64_t>(0, settled_ - rule_.window - 1);
  const auto may = candidates(recent_.slice(2, from - recent_begin_)).slice(1, settled_ - from, known - from);
  auto begins = torch::empty({batch}, torch::kInt64);
  for (int64_t b = 0; b < batch; ++b) begins[b] = begin(b, int64_t(ends(b).size())) - settled_;
  const auto borders = choose_borders(may, rule_.borders, begins);
  const auto sums_of = recent_.to(torch::kFloat64).contiguous();
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t i = 0; i < known - settled_; ++i)
      if (borders.data_ptr<bool>()[b * (known - settled_) + i]) close(b, settled_ + i, sums_of);
  settled_ = known;
  const int64_t needed = std::min(first_open(), std::max<int64_t>(0, settled_ - rule_.window - 1));
  recent_ = recent_.slice(2, needed - recent_begin_).clone();
  recent_begin_ = needed;
}

void ChunkedKeys::close(int64_t b, int64_t end, const Tensor& recent) {
  auto& item = items_[size_t(b)];
  const int64_t chunk = int64_t(item.ends.size()), first = begin(b, chunk), heads = recent.size(1),
                held = recent.size(2), size = recent.size(3);
  item.ends.push_back(end);
  const int64_t room = vectors_.defined() ? vectors_.size(2) : 0;
  if (chunk == room) {
    auto grown = torch::zeros({int64_t(items_.size()), heads, std::max<int64_t>(16, 2 * room), size}, torch::kFloat64);
    if (room > 0) grown.narrow(2, 0, room).copy_(vectors_);
    vectors_ = grown;
  }
  const double factor = pooled(real(b, first, end), rule_.power);
  for (int64_t h = 0; h < heads; ++h) {
    double* const sum = vectors_.data_ptr<double>() + ((b * heads + h) * vectors_.size(2) + chunk) * size;
    const double* const rows = recent.data_ptr<double>() + ((b * heads + h) * held - recent_begin_) * size;
    for (int64_t j = first; j < end; ++j) {
      if (real(b, j, j + 1) == 0) continue;
      for (int64_t d = 0; d < size; ++d) sum[d] += rows[j * size + d];
    }
    for (int64_t d = 0; d < size; ++d) sum[d] *= factor;
  }
}

int64_t ChunkedKeys::closed(int64_t b, int64_t t) const {
  const auto& all = ends(b);
  return std::upper_bound(all.begin(), all.end(), t - rule_.borders.lag) - all.begin();
}

Tensor ChunkedKeys::hidden() const {
  auto result = torch::empty({int64_t(items_.size()), tokens_}, torch::kBool);
  for (int64_t b = 0; b < result.size(0); ++b)
    for (int64_t j = 0; j < tokens_; ++j) result.data_ptr<bool>()[b * tokens_ + j] = real(b, j, j + 1) == 0;
  return result;
}

int64_t ChunkedKeys::first_open() const {
  int64_t first = tokens_;
  for (const Item& item : items_) first = std::min(first, item.ends.empty() ? 0 : item.ends.back());
  return first;
}

int64_t ChunkedKeys::bytes() const {
  int64_t sum = 0;
  for (const auto* tensor : {&vectors_, &recent_})
    if (tensor->defined()) sum += int64_t(tensor->nbytes());
  for (const Item& item : items_)
    sum += int64_t(item.ends.size() * sizeof(int64_t) + item.real_before.size() * sizeof(int32_t));
  return sum;
}

ChunkedKeys ChunkedKeys::clone() const {
  auto copy = *this;
  if (vectors_.defined()) copy.vectors_ = vectors_.clone();
  if (recent_.defined()) copy.recent_ = recent_.clone();
  return copy;
}

Tensor open_queries(const ChunkedKeys& chunks, const Tensor& queries, int64_t first, int64_t past, int64_t count,
                    double power) {
  torch::NoGradGuard no_grad;
  const int64_t batch = queries.size(0), heads = queries.size(1), held = queries.size(2), size = queries.size(3);
  const auto from = queries.to(torch::kFloat64).contiguous();
  const auto asked = torch::zeros({batch, heads, count, size}, torch::kFloat64);
  at::parallel_for(0, batch * heads, 1, [&](int64_t begin_head, int64_t end_head) {
    std::vector<double> sum(size_t(size), 0);
    for (int64_t head = begin_head; head < end_head; ++head) {
      const int64_t b = head / heads;
      const double* const rows = from.data_ptr<double>() + (head * held - first) * size;
      int64_t open = -1, next = 0;
      for (int64_t t = past; t < past + count; ++t) {
        const int64_t begin = chunks.begin(b, chunks.closed(b, t));
        if (begin != open) {
          std::fill(sum.begin(), sum.end(), 0.0);
          open = next = begin;
        }
        for (; next <= t; ++next) {
          if (chunks.real(b, next, next + 1) == 0) continue;
          for (int64_t d = 0; d < size; ++d) sum[size_t(d)] += rows[next * size + d];
        }
        const double factor = pooled(chunks.real(b, open, t + 1), power);
        double* const to = asked.data_ptr<double>() + (head * count + t - past) * size;
        for (int64_t d = 0; d < size; ++d) to[d] = sum[size_t(d)] * factor;
      }
    }
  });
  return asked;
}

}  // namespace heed::sparse
