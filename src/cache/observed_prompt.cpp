#include "cache/observed_prompt.h"

#include <numeric>

#include "heed/ops/attn_stats.h"

namespace heed::cache {

using torch::Tensor;
using Kind = kernels::PoolParams::Kind;

std::vector<Parameter> ObservationSettings::parameters() {
  return {{"window", 32, "last queries of the prompt that score; their tokens are kept"},
          {"capacity", 2048, "tokens of the prompt kept in all, the window included"},
          {"width", 5, "of the pooling of scores, odd"},
          {"pooling", "average", "average or max"}};
}

ObservationSettings ObservationSettings::read(ConfigReader& reader) {
  ObservationSettings s;
  s.window = reader.integer("window", s.window, 1, 1 << 20);
  s.capacity = reader.integer("capacity", s.capacity, 1);
  s.width = reader.integer("width", s.width, 1, 1 << 20);
  s.pooling = reader.choice("pooling", "average", {"average", "max"}) == "max" ? Kind::max : Kind::average;
  require(s.width % 2 == 1, "{}: width = {}: an odd number is accepted", reader.owner(), s.width);
  require(s.capacity > s.window, "{}: capacity = {}: more than the window, {}, is accepted", reader.owner(), s.capacity,
          s.window);
  return s;
}

nlohmann::json observation_at_budget(int64_t budget) {
  return {{"window", std::clamp<int64_t>(budget / 2, 1, 32)}, {"capacity", std::max<int64_t>(budget, 2)}};
}

void ObservedPrompt::after_chunk(const Chunk& chunk) {
  if (!in_prompt()) return;
  const auto all = queries_.defined() ? torch::cat({queries_, chunk.q}, 2) : chunk.q;
  queries_ = all.slice(2, std::max<int64_t>(0, all.size(2) - s_.window)).clone();
  options_ = chunk.call.options;
}

void ObservedPrompt::compress() {
  const int64_t before = seen() - s_.window, kept = kept_(seen());
  const auto queries = std::exchange(queries_, {});
  if (before <= kept) return;
  options_.mask = Causal{};
  const auto sums = ops::line_sums(queries, kv_.keys(), options_).columns.slice(2, 0, before);
  const auto scores = sums.unflatten(1, {kv_.heads(), -1}).mean(2).unsqueeze(2).to(torch::kFloat32).contiguous();
  const auto chosen = ops::top_k(ops::pool(scores, s_.width, s_.pooling), kept);
  std::vector<std::vector<int64_t>> slots;
  for (int64_t r = 0; r < kv_.rows(); ++r) {
    const auto row = chosen[r / kv_.heads()][r % kv_.heads()][0];
    std::vector<int64_t> list(row.data_ptr<int32_t>(), row.data_ptr<int32_t>() + row.size(0));
    list.resize(kept + s_.window);
    std::iota(list.begin() + kept, list.end(), before);
    slots.push_back(std::move(list));
  }
  kv_.keep(slots);
}

}  // namespace heed::cache
