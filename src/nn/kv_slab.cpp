#include "heed/nn/kv_slab.h"

#include <algorithm>

#include "heed/error.h"

namespace heed::nn {
namespace {

using torch::Tensor;

constexpr int64_t kGroup = KvFormat::kGroup;

int64_t groups_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

/// The largest float16 numbers that are at most x.
Tensor half_below(const Tensor& x) {
  const auto half = x.to(torch::kHalf), bits = half.view(torch::kInt16);
  // One place towards -inf: the bits of positive numbers fall, those of negative ones grow, and 0x8001 follows zero.
  const auto next = torch::where(bits > 0, bits - 1, bits + 1).masked_fill(bits.bitwise_and(0x7FFF) == 0, -0x7FFF);
  return torch::where(half.to(torch::kFloat32) > x, next.to(torch::kInt16).view(torch::kHalf), half);
}

Tensor half_above(const Tensor& x) { return -half_below(-x); }

Tensor shifts(int bits) { return torch::arange(0, 8, bits, torch::kUInt8); }

/// Codes [n, D] of `bits` each, the first in the lowest bits of a byte: uint8 [n, D * bits / 8].
Tensor packed(const Tensor& codes, int bits) {
  const auto parts = codes.view({codes.size(0), -1, 8 / bits});
  return parts.bitwise_left_shift(shifts(bits)).sum(2).to(torch::kUInt8);
}

Tensor unpacked(const Tensor& bytes, int bits) {
  return bytes.unsqueeze(2).bitwise_right_shift(shifts(bits)).bitwise_and((1 << bits) - 1).flatten(1);
}

}  // namespace

KvSlab::KvSlab(const KvFormat& format, bool by_channel, const Tensor& x, int64_t slots)
    : format_(format), by_channel_(by_channel), dim_(x.size(-1)), dtype_(x.scalar_type()) {
  const auto options = x.options().requires_grad(false);
  if (format.exact()) {
    data_ = torch::empty({slots, dim_}, options);
    return;
  }
  if (format.bits == 8) {
    data_ = torch::empty({slots, dim_}, torch::kInt8);
    scale_ = torch::empty({slots, 1}, torch::kFloat32);
    return;
  }
  require(dim_ * format.bits % 8 == 0, "keys or values of size {} in {} bits: a multiple of {} is accepted", dim_,
          format.bits, 8 / format.bits);
  data_ = torch::empty({slots, dim_ * format.bits / 8}, torch::kUInt8);
  scale_ = torch::empty({groups_of(slots, slot_group()), groups_of(dim_, channel_group())}, torch::kHalf);
  zero_ = torch::empty_like(scale_);
  if (format.recent == 0) return;
  exact_of_ = torch::full({groups_of(slots, kGroup)}, -1, torch::kInt32);
  exact_ = torch::empty({0, kGroup, dim_}, options);
}

ops::CodeTensors KvSlab::codes() const {
  if (format_.exact()) return {};
  return {format_.bits, scale_, zero_, slot_group(), channel_group(), exact_of_, exact_};
}

void KvSlab::write(int64_t at, const Tensor& x) {
  if (format_.exact()) {
    data_.narrow(0, at, x.size(0)).copy_(x);
  } else if (!grouped()) {
    encode(at, x);
  } else {
    for (int64_t done = 0; done < x.size(0);) {
      const int64_t slot = (at + done) % kGroup, count = std::min(kGroup - slot, x.size(0) - done);
      exact_group(at + done, count < kGroup).narrow(0, slot, count).copy_(x.narrow(0, done, count));
      done += count;
    }
  }
}

void KvSlab::write_row(int64_t at, const Tensor& x, const std::vector<bool>& pack) {
  if (!grouped()) return write(at, x);
  for (int64_t done = 0; done < x.size(0); done += kGroup) {
    const auto part = x.narrow(0, done, std::min(kGroup, x.size(0) - done));
    if (pack[size_t(done / kGroup)]) {
      encode(at + done, part);
      release((at + done) / kGroup);
    } else {
      exact_group(at + done, false).narrow(0, 0, part.size(0)).copy_(part);
    }
  }
}

void KvSlab::select(int64_t at, const Tensor& index, const std::vector<bool>& pack) {
  if (grouped()) return write_row(at, this->at(index), pack);
  for (auto* held : {&data_, &scale_, &zero_})
    if (held->defined()) held->narrow(0, at, index.size(0)).copy_(held->index_select(0, index));
}

void KvSlab::pack(int64_t at) {
  if (packed(at)) return;
  encode(at, exact_group(at, false));
  release(at / kGroup);
}

void KvSlab::forget(int64_t from, int64_t to) {
  if (!grouped()) return;
  for (int64_t group = groups_of(from, kGroup); group < to / kGroup; ++group) release(group);
}

void KvSlab::encode(int64_t at, const Tensor& x) {
  const int64_t n = x.size(0);
  const auto values = x.to(torch::kFloat32);
  if (format_.bits == 8) {
    const auto largest = values.abs().amax(1, true);
    const auto scale = largest.masked_fill(largest == 0, 127) / 127;
    scale_.narrow(0, at, n).copy_(scale);
    data_.narrow(0, at, n).copy_((values / scale).round().clamp(-127, 127).nan_to_num(0));
    return;
  }
  const double levels = (1 << format_.bits) - 1;
  const int64_t groups = scale_.size(1), rows = groups_of(n, slot_group());
  // A short last group of channels is filled up with its last channel, which changes neither end.
  const int64_t missing = by_channel_ ? 0 : groups * kGroup - dim_;
  const auto wide = missing == 0 ? values : torch::cat({values, values.slice(1, dim_ - 1).expand({n, missing})}, 1);
  const auto grouped = by_channel_ ? wide.view({rows, kGroup, groups, 1}) : wide.view({rows, 1, groups, kGroup});
  const auto zero = half_below(grouped.amin({1, 3}));
  auto scale = half_above((grouped.amax({1, 3}) - zero) / levels);
  scale.masked_fill_(scale == 0, 1);
  const auto of_group = [&](const Tensor& half) { return half.to(torch::kFloat32).view({rows, 1, groups, 1}); };
  const auto codes = ((grouped - of_group(zero)) / of_group(scale)).round().clamp(0, levels).nan_to_num(0);
  const auto flat = codes.to(torch::kUInt8).view({n, -1}).narrow(1, 0, dim_).contiguous();
  data_.narrow(0, at, n).copy_(nn::packed(flat, format_.bits));
  scale_.narrow(0, at / slot_group(), rows).copy_(scale);
  zero_.narrow(0, at / slot_group(), rows).copy_(zero);
}

Tensor KvSlab::decode(const Tensor& index) const {
  const auto data = data_.index_select(0, index);
  if (format_.bits == 8) return data.to(torch::kFloat32) * scale_.index_select(0, index);
  const auto group = torch::div(index, slot_group(), "floor");
  const auto of_channels = [&](const Tensor& half) {
    const auto picked = half.index_select(0, group).to(torch::kFloat32);
    return by_channel_ ? picked : picked.repeat_interleave(kGroup, 1).narrow(1, 0, dim_);
  };
  const auto values = unpacked(data, format_.bits).to(torch::kFloat32) * of_channels(scale_) + of_channels(zero_);
  if (!grouped() || exact_.size(0) == 0) return values;
  const auto kept = exact_of_.index_select(0, torch::div(index, kGroup, "floor")).to(torch::kInt64);
  const auto exact = exact_.view({-1, dim_}).index_select(0, kept.clamp_min(0) * kGroup + index.remainder(kGroup));
  return torch::where(kept.ge(0).unsqueeze(1), exact.to(torch::kFloat32), values);
}

Tensor KvSlab::at(const Tensor& index) const {
  return format_.exact() ? data_.index_select(0, index) : decode(index).to(dtype_);
}

Tensor KvSlab::read(int64_t at, int64_t count) const {
  return format_.exact() ? data_.narrow(0, at, count) : this->at(torch::arange(at, at + count));
}

Tensor KvSlab::exact_group(int64_t at, bool filled) {
  const int64_t group = at / kGroup;
  auto& kept = exact_of_.data_ptr<int32_t>()[group];
  if (kept >= 0) return exact_[kept];
  const auto before = filled ? decode(torch::arange(group * kGroup, (group + 1) * kGroup)) : Tensor();
  if (free_.empty()) {
    const int64_t held = exact_.size(0), more = std::max<int64_t>(held / 4, 4);
    exact_ = torch::cat({exact_, torch::zeros({more, kGroup, dim_}, exact_.options())});
    for (int64_t i = held + more; i > held; --i) free_.push_back(int32_t(i - 1));
  }
  kept = free_.back();
  free_.pop_back();
  if (filled) exact_[kept].copy_(before);
  return exact_[kept];
}

void KvSlab::release(int64_t group) {
  auto& kept = exact_of_.data_ptr<int32_t>()[group];
  if (kept >= 0) free_.push_back(kept);
  kept = -1;
}

void KvSlab::lay_out(int64_t slots, const std::vector<Move>& moves) {
  const auto moved = [&](Tensor& from, int64_t unit, const Tensor& to) {
    for (const auto& move : moves) {
      const int64_t count = groups_of(move.count, unit);
      to.narrow(0, move.to / unit, count).copy_(from.narrow(0, move.from / unit, count));
    }
    from = to;
  };
  const auto empty = [&](const Tensor& like, int64_t unit) {
    return torch::empty({groups_of(slots, unit), like.size(1)}, like.options());
  };
  moved(data_, 1, empty(data_, 1));
  if (scale_.defined()) moved(scale_, slot_group(), empty(scale_, slot_group()));
  if (zero_.defined()) moved(zero_, slot_group(), empty(zero_, slot_group()));
  if (!grouped()) return;
  moved(exact_of_, kGroup, torch::full({groups_of(slots, kGroup)}, -1, torch::kInt32));
  trim();
}

void KvSlab::trim() {
  if (!grouped()) return;
  const auto used = exact_of_.masked_select(exact_of_ >= 0).to(torch::kInt64);
  const int64_t spare = std::max<int64_t>(used.numel() / 4, 4);
  if (exact_.size(0) <= used.numel() + 2 * spare) {
    std::vector<bool> taken(size_t(exact_.size(0)));
    for (int64_t i = 0; i < used.numel(); ++i) taken[size_t(used.data_ptr<int64_t>()[i])] = true;
    free_.clear();
    for (int64_t i = exact_.size(0); i-- > 0;)
      if (!taken[size_t(i)]) free_.push_back(int32_t(i));
    return;
  }
  exact_ = exact_.index_select(0, used);
  int32_t next = 0;
  auto* kept = exact_of_.data_ptr<int32_t>();
  for (int64_t group = 0; group < exact_of_.numel(); ++group)
    if (kept[group] >= 0) kept[group] = next++;
  free_.clear();
}

KvSlab KvSlab::clone() const {
  KvSlab copy = *this;
  for (Tensor* held : {&copy.data_, &copy.scale_, &copy.zero_, &copy.exact_of_, &copy.exact_})
    if (held->defined()) *held = held->clone();
  return copy;
}

int64_t KvSlab::bytes() const {
  int64_t bytes = 0;
  for (const auto* held : {&data_, &scale_, &zero_, &exact_of_, &exact_})
    if (held->defined()) bytes += int64_t(held->nbytes());
  return bytes;
}

double KvSlab::slot_bytes() const {
  double bytes = double(data_.size(1) * data_.element_size());
  for (const auto* of_groups : {&scale_, &zero_})
    if (of_groups->defined()) bytes += double(of_groups->size(1) * of_groups->element_size()) / double(slot_group());
  return bytes;
}

}  // namespace heed::nn
