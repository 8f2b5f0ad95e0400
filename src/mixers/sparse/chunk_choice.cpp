#include "mixers/sparse/chunk_choice.h"

#include <algorithm>
#include <cmath>

namespace heed::sparse {
namespace {

using torch::Tensor;

/// Queries that share gathered keys. They ask by nearly the same sums, so few keys are not theirs.
constexpr int64_t kBlock = 96;

/// One block of queries of one head, while its keys are chosen.
class BlockChoice {
 public:
  BlockChoice(const ChunkedKeys& chunks, int64_t b, int64_t first, int64_t count, int64_t budget)
      : chunks_(chunks), b_(b), first_(first), budget_(budget), closed_(chunks.closed(b, first)) {
    const int64_t most = chunks.closed(b, first + count - 1);
    for (int64_t c = 0; c < most; ++c) sizes_.push_back(chunks.real(b, chunks.begin(b, c), chunks.ends(b)[size_t(c)]));
    open_ = chunks.begin(b, closed_);
    longest_.assign(size_t(closed_), 0);
    taken_.resize(size_t(count));
  }

  /// Chunks that the last of the queries may take.
  int64_t chunks() const { return int64_t(sizes_.size()); }

  void choose(int64_t row, const double* scores) {
    const int64_t t = first_ + row, closed = chunks_.closed(b_, t),
                  used = chunks_.real(b_, chunks_.begin(b_, closed), t + 1);
    taken_[size_t(row)] = take_chunks(scores, {sizes_.data(), size_t(closed)}, budget_ - used);
    for (const auto& [chunk, tokens] : taken_[size_t(row)])
      if (chunk < closed_) longest_[size_t(chunk)] = std::max(longest_[size_t(chunk)], tokens);
  }

  /// Chunks that are closed to all queries as far as some of them takes them; then every token from what is open to the
  /// first on, among which later queries may have chunks of their own.
  ops::KeyPanel panel() const {
    std::vector<int32_t> keys;
    std::vector<int64_t> ends(longest_.size());
    for (size_t c = 0; c < longest_.size(); ++c) {
      const size_t before = keys.size();
      for (int64_t j = chunks_.ends(b_)[c] - 1; int64_t(keys.size() - before) < longest_[c]; --j)
        if (chunks_.real(b_, j, j + 1) > 0) keys.push_back(int32_t(j));
      std::reverse(keys.begin() + int64_t(before), keys.end());
      ends[c] = int64_t(keys.size());
    }
    const auto near = int64_t(keys.size());
    const auto slot_of = [&](int64_t place) { return near + chunks_.real(b_, open_, place); };
    for (int64_t j = open_; j < first_ + int64_t(taken_.size()); ++j)
      if (chunks_.real(b_, j, j + 1) > 0) keys.push_back(int32_t(j));
    ops::KeyPanel panel(kBlock, std::move(keys));
    for (int64_t row = 0; row < int64_t(taken_.size()); ++row) {
      for (const auto& [chunk, tokens] : taken_[size_t(row)]) {
        const int64_t end = chunk < closed_ ? ends[size_t(chunk)] : slot_of(chunks_.ends(b_)[size_t(chunk)]);
        panel.see(row, end - tokens, end);
      }
      const int64_t t = first_ + row;
      panel.see(row, slot_of(chunks_.begin(b_, chunks_.closed(b_, t))), slot_of(t + 1));
    }
    return panel;
  }

 private:
  const ChunkedKeys& chunks_;
  const int64_t b_, first_, budget_, closed_;
  int64_t open_;
  std::vector<int64_t> sizes_, longest_;
  std::vector<std::vector<TakenChunk>> taken_;
};

}  // namespace

std::vector<TakenChunk> take_chunks(const double* scores, std::span<const int64_t> sizes, int64_t budget) {
  std::vector<TakenChunk> taken;
  if (sizes.empty()) return taken;
  taken.push_back({0, sizes[0]});
  int64_t left = std::max<int64_t>(0, budget - sizes[0]), held = 0;
  if (left == 0) return taken;
  // The fewest best chunks that fill what is left, the worst on top.
  const auto better = [&](int64_t a, int64_t b) { return scores[a] > scores[b] || (scores[a] == scores[b] && a < b); };
  std::vector<int64_t> best;
  double least = -INFINITY;
  for (int64_t c = 1; c < int64_t(sizes.size()); ++c) {
    if (!(scores[c] > least) || sizes[size_t(c)] == 0) continue;
    best.push_back(c);
    std::push_heap(best.begin(), best.end(), better);
    held += sizes[size_t(c)];
    while (held - sizes[size_t(best.front())] >= left) {
      held -= sizes[size_t(best.front())];
      std::pop_heap(best.begin(), best.end(), better);
      best.pop_back();
    }
    // Among equals the earlier one stays, so a later chunk must be better than the worst.
    if (held >= left) least = scores[best.front()];
  }
  std::sort(best.begin(), best.end(), better);
  for (const int64_t c : best) {
    taken.push_back({c, std::min(sizes[size_t(c)], left)});
    left -= taken.back().tokens;
  }
  return taken;
}

ops::KeyPanels chunk_panels(const ChunkedKeys& chunks, const Tensor& asked, int64_t budget) {
  torch::NoGradGuard no_grad;
  const int64_t batch = asked.size(0), heads = asked.size(1), n = asked.size(2), past = chunks.tokens() - n;
  return ops::key_panels(batch, heads, n, kBlock, [&](int64_t b, int64_t h, int64_t first, int64_t count) {
    BlockChoice choice(chunks, b, past + first, count, budget);
    const int64_t known = choice.chunks();
    Tensor scores;
    if (known > 0) {
      const int64_t kv = h * chunks.vectors().size(1) / heads;
      scores = torch::mm(asked[b][h].narrow(0, first, count), chunks.vectors()[b][kv].narrow(0, 0, known).t());
    }
    for (int64_t row = 0; row < count; ++row)
      choice.choose(row, known > 0 ? scores.data_ptr<double>() + row * known : nullptr);
    return choice.panel();
  });
}

}  // namespace heed::sparse
