#include "heed/nn/kv_storage.h"

#include <algorithm>

namespace heed::nn {
namespace {

constexpr int64_t kSmallest = 4;

torch::Tensor resized(const torch::Tensor& old, const torch::Tensor& like, int64_t capacity, int64_t length) {
  auto grown = torch::empty({like.size(0), like.size(1), capacity, like.size(3)}, like.options().requires_grad(false));
  if (length) grown.narrow(2, 0, length).copy_(old.narrow(2, 0, length));
  return grown;
}

}  // namespace

void KvStorage::reserve(int64_t capacity, const torch::Tensor& k, const torch::Tensor& v) {
  k_ = resized(k_, k, capacity, length_);
  v_ = resized(v_, v, capacity, length_);
}

void KvStorage::append(const torch::Tensor& k, const torch::Tensor& v) {
  torch::NoGradGuard no_grad;
  const int64_t needed = length_ + k.size(2), capacity = k_.defined() ? k_.size(2) : 0;
  if (!k_.defined() || needed > capacity) reserve(std::max({kSmallest, needed, capacity * 2}), k, v);
  k_.narrow(2, length_, k.size(2)).copy_(k);
  v_.narrow(2, length_, v.size(2)).copy_(v);
  length_ = needed;
}

void KvStorage::erase(int64_t begin, int64_t end) {
  if (begin >= end) return;
  torch::NoGradGuard no_grad;
  const int64_t tail = length_ - end;
  if (tail) {
    k_.narrow(2, begin, tail).copy_(k_.narrow(2, end, tail).clone());
    v_.narrow(2, begin, tail).copy_(v_.narrow(2, end, tail).clone());
  }
  length_ -= end - begin;
  // Half as many again as there are: what slides over a window appends as many tokens as it erases.
  if (k_.size(2) > 2 * length_ + kSmallest) reserve(std::max(kSmallest, length_ + (length_ + 1) / 2), k_, v_);
}

int64_t KvStorage::bytes() const { return k_.defined() ? int64_t(k_.nbytes() + v_.nbytes()) : 0; }

KvStorage KvStorage::clone() const {
  KvStorage copy;
  if (k_.defined()) {
    copy.k_ = k_.clone();
    copy.v_ = v_.clone();
  }
  copy.length_ = length_;
  return copy;
}

}  // namespace heed::nn
