// MInference (arXiv 2407.02490): each head reads the prompt in one of three sparse patterns; nothing is dropped.
#include <map>

#include "cache/rows.h"
#include "cache/sparse_prompt.h"

namespace heed::cache {
namespace {

using torch::Tensor;

constexpr int64_t kBlock = 64;
/// Lines that a vertical-slash head always reads.
constexpr int64_t kFirstColumns = 30, kLastDiagonals = 100;

struct Pattern {
  enum class Kind { a_shape, vertical_slash, block_sparse };
  Kind kind = Kind::vertical_slash;
  int64_t sinks = 100, window = 800;         // A-shape
  int64_t columns = 1000, diagonals = 6096;  // vertical-slash
  int64_t blocks = 100;                      // block-sparse
  auto operator<=>(const Pattern&) const = default;

  static Pattern read(ConfigReader& reader, Pattern fallback) {
    static const std::vector<std::string> names{"a_shape", "vertical_slash", "block_sparse"};
    Pattern p;
    const auto name = reader.choice("pattern", names[static_cast<int>(fallback.kind)], names);
    p.kind = static_cast<Kind>(std::find(names.begin(), names.end(), name) - names.begin());
    p.sinks = reader.integer("sinks", fallback.sinks, 0);
    p.window = reader.integer("window", fallback.window, 1);
    p.columns = reader.integer("columns", fallback.columns, 0);
    p.diagonals = reader.integer("diagonals", fallback.diagonals, 1);
    p.blocks = reader.integer("blocks", fallback.blocks, 1);
    return p;
  }
  bool covers(int64_t keys) const {
    switch (kind) {
      case Kind::a_shape:
        return sinks + window >= keys;
      case Kind::vertical_slash:
        return std::max(columns, diagonals) >= keys;
      case Kind::block_sparse:
        return blocks * kBlock >= keys;
    }
    return true;
  }
};

class MInference : public SparsePrompt {
 public:
  /// `heads`: a pattern a query head; one is shared by all.
  MInference(std::vector<Pattern> heads, int64_t last) : heads_(std::move(heads)), last_(last) {}

 protected:
  bool reads_all(int64_t, int64_t m) const override {
    return std::all_of(heads_.begin(), heads_.end(), [&](const Pattern& p) { return p.covers(m); });
  }

  Tensor attend_sparse(const Chunk& chunk, int64_t& pairs) override {
    const int64_t heads = chunk.q.size(1);
    std::map<Pattern, std::vector<int64_t>> by_pattern;
    for (int64_t h = 0; h < heads; ++h) by_pattern[heads_.size() == 1 ? heads_[0] : heads_[h]].push_back(h);
    if (!lines_wanted()) return attend_patterns(chunk, by_pattern, {}, pairs);
    return attend_patterns(chunk, by_pattern, last_lines(chunk, last_), pairs);
  }

 private:
  bool lines_wanted() const {
    return std::any_of(heads_.begin(), heads_.end(),
                       [](const Pattern& p) { return p.kind == Pattern::Kind::vertical_slash; });
  }

  Tensor attend_patterns(const Chunk& chunk, const std::map<Pattern, std::vector<int64_t>>& by_pattern,
                         const ops::LineSums& lines, int64_t& pairs) const {
    auto out = torch::empty({chunk.q.size(0), chunk.q.size(1), chunk.size(), chunk.v.size(3)}, chunk.q.options());
    for (const auto& [pattern, heads] : by_pattern) {
      const auto index = torch::tensor(heads, torch::kInt64);
      const auto kv_index = torch::div(index, group(chunk), "floor");
      Part part{chunk.q.index_select(1, index), kv_index, chunk.call.options, grid(chunk, kBlock)};
      switch (pattern.kind) {
        case Pattern::Kind::a_shape:
          attend_a_shape(part, pattern, pairs);
          break;
        case Pattern::Kind::vertical_slash:
          attend_lines(part, pattern, lines.columns.index_select(1, index), lines.diagonals.index_select(1, index),
                       pairs);
          break;
        case Pattern::Kind::block_sparse:
          attend_blocks(part, pattern, pairs);
          break;
      }
      out.index_copy_(1, index, part.out);
    }
    return out;
  }

  /// The heads of one pattern.
  struct Part {
    Tensor q, kv_heads;  // [B, H, n, D], int64 [H]
    AttentionOptions options;
    ops::BlockGrid grid;
    Tensor out = {};
    int64_t lists() const { return q.size(0) * q.size(1); }
  };

  AttentionResult attend(const Part& part, AttentionOptions options) const {
    const auto map = part.kv_heads.to(torch::kInt32);
    options.q_to_k_head = options.q_to_v_head = map;
    return attention_with_lse(part.q, kv_.keys(), kv_.values(), options);
  }

  void attend_a_shape(Part& part, const Pattern& pattern, int64_t& pairs) const {
    auto options = part.options;
    options.mask = Causal{} & (SinkTokens{pattern.sinks} | Window{pattern.window});
    part.out = attend(part, options).out;
    pairs += part.lists() * options.mask.area({0, 0, part.grid.queries, part.grid.keys});
  }

  void attend_blocks(Part& part, const Pattern& pattern, int64_t& pairs) const {
    const auto keys = ops::block_means(kv_.keys(), kBlock).index_select(1, part.kv_heads);
    const auto weights = ops::block_weights(ops::block_means(part.q, kBlock), keys, part.grid, part.options.scale);
    // Blocks with a row's own key are taken whatever their score, or a row might read nothing.
    const auto chosen = ops::unite(ops::block_list_of_rows(ops::top_k(weights, pattern.blocks), part.grid),
                                   ops::block_list_of_rows(own_blocks(part.grid, false), part.grid), part.grid);
    auto options = part.options;
    options.mask = Causal{};
    options.blocks = chosen;
    part.out = attend(part, options).out;
    pairs += ops::area(chosen, part.grid, options.mask, part.q.size(0), part.q.size(1));
  }

  /// Diagonals are read as blocks, columns as single keys gathered beside them; the two sets are disjoint.
  void attend_lines(Part& part, const Pattern& pattern, const Tensor& column_sums, const Tensor& diagonal_sums,
                    int64_t& pairs) const {
    const auto distances = ops::top_k(diagonal_sums, pattern.diagonals, std::min(kLastDiagonals, pattern.diagonals));
    auto options = part.options;
    options.mask = Causal{};
    options.blocks = ops::block_list_of_lines(
        torch::full({1, 1, 1, 1}, -1, torch::kInt32).expand({distances.size(0), distances.size(1), 1, 1}), distances,
        part.grid);
    const auto slashes = attend(part, options);
    pairs += ops::area(*options.blocks, part.grid, options.mask, part.q.size(0), part.q.size(1));
    if (pattern.columns == 0) {
      part.out = slashes.out;
      return;
    }
    const auto columns = ops::top_k(column_sums, pattern.columns, std::min(kFirstColumns, pattern.columns));
    const auto index = columns.squeeze(2).to(torch::kInt64);  // [B, H, K]
    const auto k = at_columns(kv_.keys(), part, index), v = at_columns(kv_.values(), part, index);
    const auto map = ops::block_map(*options.blocks, part.grid);
    const auto block_of = torch::div(index.clamp_min(0), kBlock, "floor").unsqueeze(2), own = index.unsqueeze(2);
    part.out = torch::empty_like(slashes.out);
    // A block of queries at a time: what each may see of the columns is a tensor.
    for (int64_t block = 0; block < part.grid.query_blocks(); ++block) {
      const int64_t first = block * kBlock, n = std::min(kBlock, part.grid.queries - first);
      const auto places = torch::arange(first, first + n).view({1, 1, n, 1}) + (part.grid.keys - part.grid.queries);
      const auto visible = (own >= 0) & (own <= places) & ~map.narrow(2, block, 1).gather(3, block_of);
      pairs += visible.sum().item<int64_t>();
      auto at_rows = part.options;
      at_rows.mask = {};
      at_rows.bias = torch::zeros(visible.sizes(), torch::kFloat32).masked_fill_(~visible, -INFINITY);
      const auto verticals = attention_with_lse(part.q.narrow(2, first, n), k, v, at_rows);
      const auto rows = [&](const Tensor& x) { return x.narrow(2, first, n); };
      rows(part.out).copy_(
          merge({rows(slashes.out), rows(slashes.lse).unsqueeze(3)}, {verticals.out, verticals.lse.unsqueeze(3)}).out);
    }
  }

  /// Keys or values [B, Hkv, M, D] at columns int64 [B, H, K] of the part's heads: [B, H, K, D].
  static Tensor at_columns(const Tensor& x, const Part& part, const Tensor& index) {
    auto taken = torch::empty({index.size(0), index.size(1), index.size(2), x.size(3)}, x.options());
    for (int64_t b = 0; b < index.size(0); ++b)
      for (int64_t h = 0; h < index.size(1); ++h)
        taken[b][h].copy_(x[b][part.kv_heads[h].item<int64_t>()].index_select(0, index[b][h].clamp_min(0)));
    return taken;
  }

  std::vector<Pattern> heads_;
  int64_t last_;
};

/// Patterns [layers][heads] of the setting `heads`; empty where it isn't given.
std::vector<std::vector<Pattern>> read_heads(ConfigReader& reader, const Pattern& fallback, const ModelShape& shape) {
  const auto table = reader.object("heads");
  if (table.is_object() && table.empty()) return {};
  require(table.is_array() && int64_t(table.size()) == shape.layers, "{}: heads: a list of {} layers is accepted",
          reader.owner(), shape.layers);
  std::vector<std::vector<Pattern>> layers;
  for (const auto& layer : table) {
    require(layer.is_array() && int64_t(layer.size()) == shape.heads,
            "{}: heads: a list of {} query heads for each layer is accepted, not {}", reader.owner(), shape.heads,
            layer.dump());
    auto& patterns = layers.emplace_back();
    for (const auto& head : layer) {
      ConfigReader own(reader.owner() + ": heads", head);
      patterns.push_back(Pattern::read(own, fallback));
      own.finish();
    }
  }
  return layers;
}

}  // namespace

namespace rows {

PolicyRow minference() {
  auto row = policy_row(
      "minference", "arXiv 2407.02490", 2024, "prompt: N (columns + diagonals) after 64 N; N held and read",
      {{"pattern", "vertical_slash", "a_shape, vertical_slash or block_sparse: how heads read the prompt"},
       {"columns", 1000, "vertical-slash: keys that many of the last queries read, of which 30 are the first"},
       {"diagonals", 6096, "vertical-slash: distances, of which 100 are the nearest; rounded up to blocks of 64"},
       {"sinks", 100, "A-shape: first keys"},
       {"window", 800, "A-shape: recent keys, the own one included"},
       {"blocks", 100, "block-sparse: blocks of 64 keys of each block of 64 queries, beside its own"},
       {"last", 64, "last queries of a chunk that choose lines"},
       {"heads", nlohmann::json::object(), "[layers][query heads] objects of the settings above for single heads"}},
      [](ConfigReader& reader, const ModelShape& shape) -> Policy {
        const auto all = Pattern::read(reader, {});
        const int64_t last = reader.integer("last", 64, 1, 1 << 20);
        const auto heads = read_heads(reader, all, shape);
        return [=](const LayerContext& layer) {
          return std::make_unique<MInference>(heads.empty() ? std::vector{all} : heads.at(layer.index), last);
        };
      });
  row.at_budget = [](int64_t budget) {
    const int64_t columns = budget / 4;
    return nlohmann::json{{"columns", columns}, {"diagonals", budget - columns}};
  };
  row.tight = {{"columns", 12}, {"diagonals", 5}};
  return row;
}

}  // namespace rows
}  // namespace heed::cache
