#include "heed/nn/ragged_kv.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "heed/error.h"

namespace heed::nn {
namespace {

using torch::Tensor;

/// Spare slots that a row which must grow gets, so that a token is moved about 16 times: a share of it, and at most.
constexpr int64_t kSpareShare = 16, kMostSpare = 512;

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

}  // namespace

int64_t RaggedKv::longest() const { return lengths_.empty() ? 0 : *std::max_element(lengths_.begin(), lengths_.end()); }

bool RaggedKv::uniform() const {
  return std::adjacent_find(lengths_.begin(), lengths_.end(), std::not_equal_to<>()) == lengths_.end() &&
         std::adjacent_find(capacities_.begin(), capacities_.end(), std::not_equal_to<>()) == capacities_.end();
}

// Groups of a format may not belong to two rows.
int64_t RaggedKv::rounded(int64_t slots) const { return round_up(slots, format_.exact() ? kPage : KvFormat::kGroup); }

void RaggedKv::lay_out(const std::vector<int64_t>& capacities) {
  const int64_t slots = std::accumulate(capacities.begin(), capacities.end(), int64_t{0});
  std::vector<int64_t> offsets(capacities.size());
  std::exclusive_scan(capacities.begin(), capacities.end(), offsets.begin(), int64_t{0});
  std::vector<KvSlab::Move> moves;
  for (int64_t r = 0; r < rows(); ++r) moves.push_back({offsets_[r], offsets[r], lengths_[r]});
  for (auto* slab : {&k_, &v_}) slab->lay_out(slots, moves);
  offsets_ = std::move(offsets);
  capacities_ = capacities;
}

void RaggedKv::remember_positions(int64_t row) {
  auto& positions = positions_[row];
  if (!positions.empty() || lengths_[row] == 0) return;
  positions.resize(lengths_[row]);
  std::iota(positions.begin(), positions.end(), 0);
}

bool RaggedKv::old_group(int64_t row, int64_t group) const {
  const int64_t begin = group * KvFormat::kGroup, end = begin + KvFormat::kGroup;
  if (end > lengths_[row]) return false;
  for (int64_t s = begin; s < end; ++s)
    if (position(row, s) > newest_[row] - format_.recent) return false;
  return true;
}

std::vector<bool> RaggedKv::old_groups(int64_t row) const {
  std::vector<bool> old(size_t(lengths_[row] / KvFormat::kGroup + 1));
  for (size_t group = 0; group < old.size(); ++group) old[group] = old_group(row, int64_t(group));
  return old;
}

void RaggedKv::pack_old(int64_t row) {
  if (format_.recent == 0) return;
  for (int64_t group = 0; group < lengths_[row] / KvFormat::kGroup; ++group) {
    const int64_t at = offsets_[row] + group * KvFormat::kGroup;
    if (k_.packed(at) || !old_group(row, group)) continue;
    for (auto* slab : {&k_, &v_}) slab->pack(at);
  }
}

void RaggedKv::quantise(const KvFormat& format) {
  torch::NoGradGuard no_grad;
  require(format_.exact(), "this cache is in a format of {} bits already", format_.bits);
  format_ = format;
  if (!k_.defined() || format.exact()) return;
  std::vector<int64_t> capacities, offsets(lengths_.size());
  for (const int64_t length : lengths_) capacities.push_back(rounded(std::max(length, reserved_)));
  std::exclusive_scan(capacities.begin(), capacities.end(), offsets.begin(), int64_t{0});
  const int64_t slots = std::accumulate(capacities.begin(), capacities.end(), int64_t{0});
  for (auto* slab : {&k_, &v_}) {
    KvSlab coded(format, slab == &k_ && format.keys_by_channel, slab->data(), slots);
    for (int64_t r = 0; r < rows(); ++r)
      coded.write_row(offsets[r], slab->read(offsets_[r], lengths_[r]), old_groups(r));
    *slab = std::move(coded);
  }
  offsets_ = std::move(offsets);
  capacities_ = std::move(capacities);
}

void RaggedKv::append(const Tensor& k, const Tensor& v, int64_t first, const std::vector<bool>& into) {
  torch::NoGradGuard no_grad;
  if (!k_.defined()) {
    batch_ = k.size(0), heads_ = k.size(1);
    k_ = KvSlab(format_, format_.keys_by_channel, k, 0);
    v_ = KvSlab(format_, false, v, 0);
    for (auto* of_rows : {&offsets_, &capacities_, &lengths_, &newest_}) of_rows->assign(rows(), 0);
    positions_.resize(rows());
  }
  require(k.size(0) == batch_ && k.size(1) == heads_ && k.size(3) == k_.dim() && v.size(3) == v_.dim(),
          "this cache holds {} sequences of {} KV heads of size {} and {}, not {} of {} of {} and {}", batch_, heads_,
          k_.dim(), v_.dim(), k.size(0), k.size(1), k.size(3), v.size(3));
  require(into.empty() || int64_t(into.size()) == heads_, "{} entries for {} heads", into.size(), heads_);
  const auto gets = [&](int64_t r) { return into.empty() || into[r % heads_]; };
  const int64_t n = k.size(2);
  bool moves = false;
  auto capacities = capacities_;
  for (int64_t r = 0; r < rows(); ++r) {
    const int64_t needed = lengths_[r] + n;
    if (needed <= capacities[r] || !gets(r)) continue;
    const int64_t spare = capacities[r] == 0 ? 0 : std::min(needed / kSpareShare, kMostSpare);
    capacities[r] = rounded(std::max(needed + spare, reserved_));
    moves = true;
  }
  if (moves) lay_out(capacities);
  for (int64_t r = 0; r < rows(); ++r) {
    if (!gets(r)) continue;
    const int64_t at = offsets_[r] + lengths_[r], b = r / heads_, h = r % heads_;
    k_.write(at, k[b][h]);
    v_.write(at, v[b][h]);
    if (first != lengths_[r]) remember_positions(r);
    if (!positions_[r].empty() || first != lengths_[r])
      for (int64_t i = 0; i < n; ++i) positions_[r].push_back(static_cast<int32_t>(first + i));
    lengths_[r] += n;
    newest_[r] = std::max(newest_[r], first + n - 1);
    pack_old(r);
  }
  if (n > KvFormat::kGroup)
    for (auto* slab : {&k_, &v_}) slab->trim();
}

void RaggedKv::replace(int64_t row, int64_t slot, const Tensor& k, const Tensor& v, int64_t position) {
  torch::NoGradGuard no_grad;
  require(slot >= 0 && slot < lengths_[row], "slot {} of row {}: 0 to {} is accepted", slot, row, lengths_[row] - 1);
  k_.write(offsets_[row] + slot, k.unsqueeze(0));
  v_.write(offsets_[row] + slot, v.unsqueeze(0));
  remember_positions(row);
  positions_[row][slot] = static_cast<int32_t>(position);
  newest_[row] = std::max(newest_[row], position);
  pack_old(row);
}

void RaggedKv::keep(const std::vector<std::vector<int64_t>>& slots) {
  torch::NoGradGuard no_grad;
  require(int64_t(slots.size()) == rows(), "{} lists of slots for {} rows", slots.size(), rows());
  int64_t needed = 0;
  for (int64_t r = 0; r < rows(); ++r) {
    const auto& kept = slots[r];
    const int64_t count = static_cast<int64_t>(kept.size());
    for (const int64_t slot : kept)
      require(slot >= 0 && slot < lengths_[r], "kept slot {} of row {}: 0 to {} is accepted", slot, r, lengths_[r] - 1);
    needed += rounded(count);
    const bool in_place =
        std::adjacent_find(kept.begin(), kept.end(), [](auto a, auto b) { return b != a + 1; }) == kept.end() &&
        (kept.empty() || kept.front() == 0);
    if (in_place) {
      if (!positions_[r].empty()) positions_[r].resize(count);
      lengths_[r] = count;
      continue;
    }
    const auto index = torch::tensor(kept, torch::kInt64) + offsets_[r];
    remember_positions(r);
    std::vector<int32_t> positions(count);
    for (int64_t i = 0; i < count; ++i) positions[i] = positions_[r][kept[i]];
    positions_[r] = std::move(positions);
    lengths_[r] = count;
    const auto old = old_groups(r);
    for (auto* slab : {&k_, &v_}) slab->select(offsets_[r], index, old);
  }
  for (int64_t r = 0; r < rows(); ++r)
    for (auto* slab : {&k_, &v_}) slab->forget(offsets_[r] + lengths_[r], offsets_[r] + capacities_[r]);
  const int64_t held = std::accumulate(capacities_.begin(), capacities_.end(), int64_t{0});
  if (held - needed <= needed / 8) {
    for (auto* slab : {&k_, &v_}) slab->trim();
    return;
  }
  reserved_ = 0;  // room was asked for tokens that are gone
  std::vector<int64_t> capacities;
  for (const int64_t length : lengths_) capacities.push_back(rounded(length));
  lay_out(capacities);
}

void RaggedKv::shorten(int64_t length) {
  for (int64_t r = 0; r < rows(); ++r) {
    lengths_[r] = std::min(lengths_[r], length);
    if (!positions_[r].empty()) positions_[r].resize(lengths_[r]);
    newest_[r] = 0;
    for (int64_t s = 0; s < lengths_[r]; ++s) newest_[r] = std::max(newest_[r], position(r, s));
    for (auto* slab : {&k_, &v_}) slab->forget(offsets_[r] + lengths_[r], offsets_[r] + capacities_[r]);
  }
}

Tensor RaggedKv::all(const KvSlab& slab) const {
  if (format_.exact()) {
    const int64_t capacity = slab.slots() / std::max<int64_t>(rows(), 1);
    return slab.data().view({batch_, heads_, capacity, slab.dim()}).narrow(2, 0, lengths_[0]);
  }
  std::vector<Tensor> parts;
  for (int64_t r = 0; r < rows(); ++r) parts.push_back(slab.read(offsets_[r], lengths_[r]));
  return torch::stack(parts).unflatten(0, {batch_, heads_});
}

Tensor RaggedKv::keys() const { return all(k_); }
Tensor RaggedKv::values() const { return all(v_); }
Tensor RaggedKv::keys(int64_t row) const { return k_.read(offsets_[row], lengths_[row]); }
Tensor RaggedKv::values(int64_t row) const { return v_.read(offsets_[row], lengths_[row]); }

ops::CacheTensors RaggedKv::pages(int64_t page) const {
  ops::CacheTensors cache;
  cache.k = k_.data().view({-1, page, 1, k_.data().size(1)});
  cache.v = v_.data().view({-1, page, 1, v_.data().size(1)});
  cache.k_codes = k_.codes();
  cache.v_codes = v_.codes();
  cache.page_size = page;
  return cache;
}

Tensor RaggedKv::positions(int64_t row) const {
  if (positions_[row].empty()) return torch::arange(lengths_[row]);
  return torch::tensor(positions_[row], torch::kInt32).to(torch::kInt64);
}

Tensor RaggedKv::lengths() const { return torch::tensor(lengths_, torch::kInt64).view({batch_, heads_}); }

Tensor RaggedKv::page_table() const {
  const int64_t pages = round_up(longest(), kPage) / kPage;
  auto table = torch::zeros({batch_, heads_, pages}, torch::kInt32);
  auto* entries = table.data_ptr<int32_t>();
  for (int64_t r = 0; r < rows(); ++r)
    for (int64_t p = 0; p < round_up(lengths_[r], kPage) / kPage; ++p)
      entries[r * pages + p] = static_cast<int32_t>(offsets_[r] / kPage + p);
  return table;
}

RaggedKv RaggedKv::clone() const {
  RaggedKv copy = *this;
  copy.k_ = k_.clone();
  copy.v_ = v_.clone();
  return copy;
}

int64_t RaggedKv::bytes() const {
  int64_t bytes = k_.bytes() + v_.bytes();
  for (const auto& positions : positions_) bytes += static_cast<int64_t>(positions.size() * sizeof(int32_t));
  return bytes;
}

int64_t RaggedKv::used_bytes() const {
  const int64_t slots = std::accumulate(lengths_.begin(), lengths_.end(), int64_t{0});
  return k_.defined() ? std::llround(double(slots) * (k_.slot_bytes() + v_.slot_bytes())) : 0;
}

}  // namespace heed::nn
