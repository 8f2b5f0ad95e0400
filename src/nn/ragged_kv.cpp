#include "heed/nn/ragged_kv.h"

#include <algorithm>
#include <numeric>

#include "heed/error.h"

namespace heed::nn {
namespace {

using torch::Tensor;

/// Spare slots that a row which must grow gets, so that a token is moved rarely.
constexpr int64_t kMostSpare = 512;

int64_t to_pages(int64_t slots) { return (slots + RaggedKv::kPage - 1) / RaggedKv::kPage * RaggedKv::kPage; }

}  // namespace

int64_t RaggedKv::longest() const { return lengths_.empty() ? 0 : *std::max_element(lengths_.begin(), lengths_.end()); }

bool RaggedKv::uniform() const {
  return std::adjacent_find(lengths_.begin(), lengths_.end(), std::not_equal_to<>()) == lengths_.end() &&
         std::adjacent_find(capacities_.begin(), capacities_.end(), std::not_equal_to<>()) == capacities_.end();
}

void RaggedKv::lay_out(const std::vector<int64_t>& capacities) {
  const int64_t slots = std::accumulate(capacities.begin(), capacities.end(), int64_t{0});
  std::vector<int64_t> offsets(capacities.size());
  std::exclusive_scan(capacities.begin(), capacities.end(), offsets.begin(), int64_t{0});
  for (Tensor* slab : {&k_, &v_}) {
    auto moved = torch::empty({slots, slab->size(1)}, slab->options());
    for (int64_t r = 0; r < rows(); ++r)
      moved.narrow(0, offsets[r], lengths_[r]).copy_(slab->narrow(0, offsets_[r], lengths_[r]));
    *slab = moved;
  }
  offsets_ = std::move(offsets);
  capacities_ = capacities;
}

void RaggedKv::remember_positions(int64_t row) {
  auto& positions = positions_[row];
  if (!positions.empty() || lengths_[row] == 0) return;
  positions.resize(lengths_[row]);
  std::iota(positions.begin(), positions.end(), 0);
}

void RaggedKv::append(const Tensor& k, const Tensor& v, int64_t first, const std::vector<bool>& into) {
  torch::NoGradGuard no_grad;
  if (!k_.defined()) {
    batch_ = k.size(0), heads_ = k.size(1);
    k_ = torch::empty({0, k.size(3)}, k.options().requires_grad(false));
    v_ = torch::empty({0, v.size(3)}, v.options().requires_grad(false));
    for (auto* of_rows : {&offsets_, &capacities_, &lengths_}) of_rows->assign(rows(), 0);
    positions_.resize(rows());
  }
  require(k.size(0) == batch_ && k.size(1) == heads_ && k.size(3) == k_.size(1) && v.size(3) == v_.size(1),
          "this cache holds {} sequences of {} KV heads of size {} and {}, not {} of {} of {} and {}", batch_, heads_,
          k_.size(1), v_.size(1), k.size(0), k.size(1), k.size(3), v.size(3));
  require(into.empty() || int64_t(into.size()) == heads_, "{} entries for {} heads", into.size(), heads_);
  const auto gets = [&](int64_t r) { return into.empty() || into[r % heads_]; };
  const int64_t n = k.size(2);
  bool moves = false;
  auto capacities = capacities_;
  for (int64_t r = 0; r < rows(); ++r) {
    const int64_t needed = lengths_[r] + n;
    if (needed <= capacities[r] || !gets(r)) continue;
    const int64_t spare = capacities[r] == 0 ? 0 : std::min(needed / 4, kMostSpare);
    capacities[r] = to_pages(std::max(needed + spare, reserved_));
    moves = true;
  }
  if (moves) lay_out(capacities);
  for (int64_t r = 0; r < rows(); ++r) {
    if (!gets(r)) continue;
    const int64_t at = offsets_[r] + lengths_[r], b = r / heads_, h = r % heads_;
    k_.narrow(0, at, n).copy_(k[b][h]);
    v_.narrow(0, at, n).copy_(v[b][h]);
    if (first != lengths_[r]) remember_positions(r);
    if (!positions_[r].empty() || first != lengths_[r])
      for (int64_t i = 0; i < n; ++i) positions_[r].push_back(static_cast<int32_t>(first + i));
    lengths_[r] += n;
  }
}

void RaggedKv::replace(int64_t row, int64_t slot, const Tensor& k, const Tensor& v, int64_t position) {
  torch::NoGradGuard no_grad;
  require(slot >= 0 && slot < lengths_[row], "slot {} of row {}: 0 to {} is accepted", slot, row, lengths_[row] - 1);
  k_[offsets_[row] + slot].copy_(k);
  v_[offsets_[row] + slot].copy_(v);
  remember_positions(row);
  positions_[row][slot] = static_cast<int32_t>(position);
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
    needed += to_pages(count);
    const bool in_place =
        std::adjacent_find(kept.begin(), kept.end(), [](auto a, auto b) { return b != a + 1; }) == kept.end() &&
        (kept.empty() || kept.front() == 0);
    if (in_place) {
      if (!positions_[r].empty()) positions_[r].resize(count);
      lengths_[r] = count;
      continue;
    }
    const auto index = torch::tensor(kept, torch::kInt64);
    for (Tensor* slab : {&k_, &v_})
      slab->narrow(0, offsets_[r], count).copy_(slab->narrow(0, offsets_[r], lengths_[r]).index_select(0, index));
    remember_positions(r);
    std::vector<int32_t> positions(count);
    for (int64_t i = 0; i < count; ++i) positions[i] = positions_[r][kept[i]];
    positions_[r] = std::move(positions);
    lengths_[r] = count;
  }
  const int64_t held = std::accumulate(capacities_.begin(), capacities_.end(), int64_t{0});
  if (held - needed <= needed / 8) return;
  reserved_ = 0;  // room was asked for tokens that are gone
  std::vector<int64_t> capacities;
  for (const int64_t length : lengths_) capacities.push_back(to_pages(length));
  lay_out(capacities);
}

void RaggedKv::shorten(int64_t length) {
  for (int64_t r = 0; r < rows(); ++r) {
    lengths_[r] = std::min(lengths_[r], length);
    if (!positions_[r].empty()) positions_[r].resize(lengths_[r]);
  }
}

Tensor RaggedKv::keys() const {
  const int64_t capacity = k_.size(0) / std::max<int64_t>(rows(), 1);
  return k_.view({batch_, heads_, capacity, k_.size(1)}).narrow(2, 0, lengths_[0]);
}

Tensor RaggedKv::values() const {
  const int64_t capacity = v_.size(0) / std::max<int64_t>(rows(), 1);
  return v_.view({batch_, heads_, capacity, v_.size(1)}).narrow(2, 0, lengths_[0]);
}

Tensor RaggedKv::keys(int64_t row) const { return k_.narrow(0, offsets_[row], lengths_[row]); }
Tensor RaggedKv::values(int64_t row) const { return v_.narrow(0, offsets_[row], lengths_[row]); }

Tensor RaggedKv::positions(int64_t row) const {
  if (positions_[row].empty()) return torch::arange(lengths_[row]);
  return torch::tensor(positions_[row], torch::kInt32).to(torch::kInt64);
}

Tensor RaggedKv::lengths() const { return torch::tensor(lengths_, torch::kInt64).view({batch_, heads_}); }

Tensor RaggedKv::page_table() const {
  const int64_t pages = to_pages(longest()) / kPage;
  auto table = torch::zeros({batch_, heads_, pages}, torch::kInt32);
  auto* entries = table.data_ptr<int32_t>();
  for (int64_t r = 0; r < rows(); ++r)
    for (int64_t p = 0; p < to_pages(lengths_[r]) / kPage; ++p)
      entries[r * pages + p] = static_cast<int32_t>(offsets_[r] / kPage + p);
  return table;
}

int64_t RaggedKv::bytes() const {
  if (!k_.defined()) return 0;
  int64_t bytes = static_cast<int64_t>(k_.nbytes() + v_.nbytes());
  for (const auto& positions : positions_) bytes += static_cast<int64_t>(positions.size() * sizeof(int32_t));
  return bytes;
}

int64_t RaggedKv::used_bytes() const {
  const int64_t slots = std::accumulate(lengths_.begin(), lengths_.end(), int64_t{0});
  return k_.defined() ? slots * (k_.size(1) + v_.size(1)) * k_.element_size() : 0;
}

}  // namespace heed::nn
