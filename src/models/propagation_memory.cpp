#include "heed/models/propagation_memory.h"

#include <algorithm>
#include <cmath>

#include "heed/error.h"

namespace heed {

using torch::Tensor;

Tensor weighted_distance_scores(const Tensor& k_m, const Tensor& s_m, const Tensor& k_q, const Tensor& e_q) {
  const auto transposed = k_m.transpose(1, 2);
  const auto distance =
      torch::bmm(e_q, transposed.square()) - 2 * torch::bmm(k_q * e_q, transposed) + (e_q * k_q.square()).sum(2, true);
  return -distance * s_m.transpose(1, 2) / std::sqrt(double(k_m.size(2)));
}

PropagationMemory::PropagationMemory(const PropagationMemoryConfig& config) : config_(config) {
  const auto& c = config_;
  require(c.top >= 1 && c.newest >= 0 && c.working > c.newest && c.prototypes >= 1 && c.capacity >= c.prototypes,
          "a memory that reads {} cells of {} frames, {} newest, {} prototypes of {}: 1 or more, and fewer newest than "
          "working frames and prototypes than cells are accepted",
          c.top, c.working, c.newest, c.prototypes, c.capacity);
}

PropagationMemory::Cells PropagationMemory::Cells::pick(const Tensor& index) const {
  const auto rows = [&](const Tensor& t) { return t.gather(1, index.unsqueeze(2).expand({-1, -1, t.size(2)})); };
  return {rows(k), rows(s), rows(v), usage.gather(1, index), age.gather(1, index)};
}

PropagationMemory::Cells PropagationMemory::Cells::join(const std::vector<Cells>& parts) {
  const auto all = [&](Tensor Cells::*member) {
    std::vector<Tensor> tensors;
    for (const auto& part : parts)
      if (part.count()) tensors.push_back(part.*member);
    return torch::cat(tensors, 1);
  };
  return {all(&Cells::k), all(&Cells::s), all(&Cells::v), all(&Cells::usage), all(&Cells::age)};
}

void PropagationMemory::add(const Tensor& k, const Tensor& s, const Tensor& v) {
  const auto none = torch::zeros({k.size(0), k.size(1)}, k.options().requires_grad(false));
  Cells cells{k, s, v, none, none.clone()};
  if (first_.count() == 0) {
    first_ = cells;
    return;
  }
  working_.push_back(cells);
  if (int64_t(working_.size()) > config_.working) compress();
}

Tensor PropagationMemory::read(const Tensor& k, const Tensor& e) {
  require(first_.count() > 0, "a memory without frames has nothing to be read");
  std::vector<Cells*> parts{&first_};
  for (auto& frame : working_) parts.push_back(&frame);
  if (long_.count()) parts.push_back(&long_);
  std::vector<Cells> joined;
  for (const auto* part : parts) joined.push_back(*part);
  const auto all = Cells::join(joined);
  const auto scores = weighted_distance_scores(all.k, all.s, k, e);  // [B, N, M]
  const auto [best, index] = scores.topk(std::min(config_.top, all.count()), 2);
  const auto weights = torch::softmax(best, 2);
  const auto dense = torch::zeros_like(scores).scatter(2, index, weights);
  const auto used = dense.detach().sum(1);
  int64_t begin = 0;
  for (auto* part : parts) {
    part->usage = part->usage + used.narrow(1, begin, part->count());
    part->age = part->age + 1;
    begin += part->count();
  }
  return torch::bmm(dense, all.v);
}

void PropagationMemory::compress() {
  const auto old = working_.end() - config_.newest;
  const auto candidates = Cells::join({working_.begin(), old});
  working_.erase(working_.begin(), old);
  const auto count = std::min(config_.prototypes, candidates.count());
  auto prototypes = candidates.pick(std::get<1>(candidates.worth().topk(count, 1)));
  // A prototype speaks for the cells that are like it.
  const auto alike = weighted_distance_scores(candidates.k, candidates.s, prototypes.k, torch::ones_like(prototypes.k));
  prototypes.v = torch::bmm(torch::softmax(alike, 2), candidates.v);
  long_ = Cells::join({long_, prototypes});
  if (long_.count() > config_.capacity) long_ = long_.pick(std::get<1>(long_.worth().topk(config_.capacity, 1)));
}

int64_t PropagationMemory::cells() const {
  int64_t count = first_.count() + long_.count();
  for (const auto& frame : working_) count += frame.count();
  return count;
}

}  // namespace heed
