// FlexPrefill (arXiv 2502.20766): each head and chunk of the prompt reads as much as holds a share of the attention.
#include "cache/flex_prefill.h"

#include "cache/rows.h"
#include "cache/sparse_prompt.h"

namespace heed::cache {

using torch::Tensor;

Tensor jensen_shannon_distance(const Tensor& p, const Tensor& q) {
  const auto middle = (p + q) / 2;
  const auto divergence = [&](const Tensor& x) { return (torch::xlogy(x, x) - torch::xlogy(x, middle)).sum(-1); };
  return ((divergence(p) + divergence(q)) / 2).clamp_min(0).sqrt();
}

namespace {

struct FlexPrefillSettings {
  int64_t block = 128, least = 512;
  double mass = 0.9, threshold = 0.1;
};

class FlexPrefill : public SparsePrompt {
 public:
  explicit FlexPrefill(const FlexPrefillSettings& settings) : s_(settings) {}

 protected:
  bool reads_all(int64_t, int64_t m) const override { return m <= std::max(2 * s_.block, s_.least); }

  Tensor attend_sparse(const Chunk& chunk, int64_t& pairs) override {
    const auto g = grid(chunk, s_.block);
    const auto lines = last_lines(chunk, s_.block);
    const auto q_means = ops::block_means(chunk.q, s_.block), k_means = ops::block_means(kv_.keys(), s_.block);
    const auto by_blocks = estimate_holds(chunk, lines.columns, k_means);
    const auto weights = ops::block_weights(q_means, k_means, g, chunk.call.options.scale).flatten(2).unsqueeze(2);
    const int64_t least = (s_.least + s_.block - 1) / s_.block * g.query_blocks();
    const auto pairs_of = ops::top_p(weights, s_.mass, 0, 0, least).masked_fill_(~by_blocks, -1);
    const auto line_of = [&](const Tensor& sums) {
      return ops::top_p(sums, s_.mass, 0, 0, s_.least).masked_fill_(by_blocks, -1);
    };
    auto options = chunk.call.options;
    options.mask = Causal{};
    options.blocks = ops::unite(ops::block_list_of_pairs(pairs_of, g),
                                ops::block_list_of_lines(line_of(lines.columns), line_of(lines.diagonals), g), g);
    options.blocks = ops::unite(*options.blocks, ops::block_list_of_rows(own_blocks(g, true), g), g);
    pairs += ops::area(*options.blocks, g, options.mask, chunk.q.size(0), chunk.q.size(1));
    return attention(chunk.q, kv_.keys(), kv_.values(), options);
  }

 private:
  /// Whether scores of means tell how much the last queries read of each block: bool [B, Hq, 1, 1].
  Tensor estimate_holds(const Chunk& chunk, const Tensor& columns, const Tensor& k_means) const {
    const int64_t rows = std::min(s_.block, chunk.size()), blocks = k_means.size(2);
    auto sums = torch::zeros({columns.size(0), columns.size(1), blocks}, torch::kFloat32);
    const auto block_of = torch::div(torch::arange(columns.size(3)), s_.block, "floor");
    sums.index_add_(2, block_of, columns.squeeze(2));
    const auto q = chunk.q.slice(2, chunk.size() - rows).mean(2, true, torch::kFloat32);
    const auto keys = k_means.repeat_interleave(group(chunk), 1);
    const double scale = chunk.call.options.scale > 0 ? chunk.call.options.scale : 1 / std::sqrt(double(q.size(3)));
    const auto guess = torch::softmax(torch::matmul(q, keys.transpose(2, 3)).squeeze(2) * scale, 2);
    const auto distance = jensen_shannon_distance(guess, sums / sums.sum(2, true));
    return (distance < s_.threshold).unsqueeze(2).unsqueeze(3);
  }

  FlexPrefillSettings s_;
};

}  // namespace

namespace rows {

PolicyRow flex_prefill() {
  auto row = policy_row(
      "flex_prefill", "arXiv 2502.20766", 2025, "prompt: the blocks that hold the mass after 128 N; N held and read",
      {{"mass", 0.9, "share of the estimated attention that is read"},
       {"threshold", 0.1,
        "heads whose estimate from means is closer (root of Jensen-Shannon) choose blocks, not lines"},
       {"block", 128, "tokens of a block, and last queries of a chunk that estimate"},
       {"least", 512, "keys, distances and tokens of blocks that are read at least; no longer prompts are cut"}},
      [](ConfigReader& reader, const ModelShape&) -> Policy {
        FlexPrefillSettings s;
        s.mass = reader.get("mass", s.mass);
        s.threshold = reader.get("threshold", s.threshold);
        s.block = reader.integer("block", s.block, 1, 1 << 20);
        s.least = reader.integer("least", s.least, 0);
        require(s.mass > 0 && s.mass <= 1, "{}: mass = {}: above 0 and at most 1 is accepted", reader.owner(), s.mass);
        require(s.threshold >= 0, "{}: threshold = {}: 0 or more is accepted", reader.owner(), s.threshold);
        return [s](const LayerContext&) { return std::make_unique<FlexPrefill>(s); };
      });
  row.variants = [](int64_t prompt) {
    const int64_t block = std::clamp<int64_t>(prompt / 32, 16, 128);
    std::vector<nlohmann::json> masses;
    for (const double mass : {0.5, 0.8, 0.9, 0.95})
      masses.push_back({{"mass", mass}, {"block", block}, {"least", 2 * block}});
    return masses;
  };
  row.covering = {{"mass", 1.0}, {"block", 16}, {"least", 0}};
  row.tight = {{"mass", 0.5}, {"block", 16}, {"least", 0}};
  return row;
}

}  // namespace rows
}  // namespace heed::cache
