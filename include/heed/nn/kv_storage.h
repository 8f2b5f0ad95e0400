// Keys and values of the tokens seen so far, growing in place.
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// [B, Hkv, length, D] keys and [B, Hkv, length, Dv] values in buffers that double when full.
class KvStorage {
 public:
  /// Appends k [B, Hkv, n, D] and v [B, Hkv, n, Dv].
  void append(const torch::Tensor& k, const torch::Tensor& v);
  /// Removes tokens [begin, end); later ones move down. Capacity that is no longer needed is given back.
  void erase(int64_t begin, int64_t end);

  torch::Tensor keys() const { return length_ ? k_.narrow(2, 0, length_) : k_; }
  torch::Tensor values() const { return length_ ? v_.narrow(2, 0, length_) : v_; }
  int64_t length() const { return length_; }
  int64_t bytes() const;
  KvStorage clone() const;

 private:
  void reserve(int64_t capacity, const torch::Tensor& k, const torch::Tensor& v);
  torch::Tensor k_, v_;
  int64_t length_ = 0;
};

}  // namespace heed::nn
