// RazorAttention (arXiv 2407.15891): retrieval heads keep everything; the others sinks, a buffer, and one slot that
// stands for all that they dropped.
#include <cmath>

#include "cache/head_sets.h"
#include "cache/rows.h"
#include "cache/sink_window.h"
#include "heed/error.h"

namespace heed::cache {
namespace {

using torch::Tensor;

/// The prompt is attended in full; what does not fit is dropped behind it. The slot holds the mean of the dropped keys
/// and values with the logit bias ln(their number).
class RazorAttention : public SinkWindow {
 public:
  RazorAttention(const Settings& settings, double compression, bool compensates)
      : SinkWindow(settings), compression_(compression), compensates_(compensates) {}
  int64_t policy_bytes() const override { return dropped_ ? int64_t(k_.nbytes() + v_.nbytes()) : 0; }

 protected:
  int64_t reserved_slots(int64_t tokens) const override { return tokens; }
  int64_t window(int64_t seen) const override {
    return std::max(settings().window, static_cast<int64_t>(std::ceil(double(seen) / compression_)));
  }

  void leaving(const std::vector<int64_t>& slots) override {
    if (!compensates_) return;
    if (dropped_ == 0) {
      k_ = torch::zeros({kv_.batch(), kv_.heads(), 1, kv_.key_slab().dim()});
      v_ = torch::zeros({kv_.batch(), kv_.heads(), 1, kv_.value_slab().dim()});
    }
    const auto index = torch::tensor(slots);
    const double count = double(slots.size());
    dropped_ += int64_t(slots.size());
    for (int64_t r = 0; r < kv_.rows(); ++r) {
      if (!streams(r)) continue;
      const auto update = [&](Tensor mean, const Tensor& held) {
        mean += (held.to(torch::kFloat32).mean(0) - mean) * (count / double(dropped_));
      };
      update(k_[r / kv_.heads()][r % kv_.heads()][0], kv_.keys_at(r, index));
      update(v_[r / kv_.heads()][r % kv_.heads()][0], kv_.values_at(r, index));
    }
  }

  Tensor attend_chunk(const Chunk& chunk) override {
    if (dropped_ == 0) return LayerCache::attend_chunk(chunk);
    Tensor lse;
    const auto out = attend_slots(chunk, chunk.call.options.mask, &lse);
    AttentionOptions options = chunk.call.options;
    options.mask = {};
    options.bias = bias(chunk);
    const auto type = chunk.q.scalar_type();
    const auto slot = attention_with_lse(chunk.q, k_.to(type), v_.to(type), options);
    return merge({out, lse.unsqueeze(-1)}, {slot.out, slot.lse.unsqueeze(-1)}).out;
  }

  Tensor attend_step(const Chunk& chunk) override {
    auto options = decode_options(chunk);
    if (dropped_ > 0) {
      options.synthetic_k = k_;
      options.synthetic_v = v_;
      options.synthetic_bias = bias(chunk);
    }
    return decode(chunk.q, everything(), options).out;
  }

  void after_chunk(const Chunk&) override {
    if (!in_prompt()) shrink();
  }
  void compress() override { shrink(); }

 private:
  /// float [1, Hq, 1, 1]: ln of the number that the slot stands for; heads that dropped nothing do not see it.
  const Tensor& bias(const Chunk& chunk) {
    if (!bias_.defined()) bias_ = torch::full({1, chunk.q.size(1), 1, 1}, -INFINITY);
    for (int64_t h = 0; h < chunk.q.size(1); ++h)
      if (streams(h / group(chunk))) bias_.data_ptr<float>()[h] = std::log(float(dropped_));
    return bias_;
  }

  double compression_;
  bool compensates_;
  int64_t dropped_ = 0;  // tokens of each streaming row that the slot stands for
  Tensor k_, v_;         // float [B, Hkv, 1, D|Dv]
  Tensor bias_;
};

HeadSet unite(HeadSet a, const HeadSet& b) {
  for (size_t l = 0; l < a.size(); ++l)
    for (size_t h = 0; h < a[l].size(); ++h) a[l][h] = a[l][h] || b[l][h];
  return a;
}

/// Heads of a model with ALiBi that can see past the buffer: behind (2 S - ln eps) / slope no weight is above eps.
HeadSet far_heads(ConfigReader& reader, double largest_score, int64_t buffer, const ModelShape& shape) {
  const auto epsilon = reader.get<double>("epsilon", 1e-3);
  require(shape.positions.kind == "alibi", "{}: largest_score is for models with ALiBi, not {}", reader.owner(),
          shape.positions.kind);
  require(largest_score >= 0 && std::isfinite(largest_score), "{}: largest_score = {}: 0 or more is accepted",
          reader.owner(), largest_score);
  require(epsilon > 0 && epsilon < 1, "{}: epsilon = {}: between 0 and 1 is accepted", reader.owner(), epsilon);
  const auto slopes = nn::alibi_slopes(shape.heads);
  auto heads = no_heads(shape);
  for (auto& layer : heads) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      const double scope = (2 * largest_score - std::log(epsilon)) / slopes[h].item<double>();
      if (scope > double(buffer)) layer[size_t(h / (shape.heads / shape.kv_heads))] = true;
    }
  }
  return heads;
}

Policy make_razor(ConfigReader& reader, const ModelShape& shape) {
  const auto top = [&](const std::string& file_key, const std::string& share_key, double fallback) {
    const auto file = reader.get<std::string>(file_key, "");
    const auto share = reader.get<double>(share_key, fallback);
    require(share >= 0 && share <= 1, "{}: {} = {}: 0 to 1 is accepted", reader.owner(), share_key, share);
    if (file.empty()) return no_heads(shape);
    const auto table = read_head_table(file, shape);
    const auto heads = double(table.layers() * table.heads());
    return largest_heads(table, static_cast<int64_t>(std::ceil(share * heads)), shape);
  };
  SinkWindow::Settings settings{.in_cache = false};
  settings.sinks = reader.integer("sinks", 4, 0);
  settings.window = reader.integer("least_buffer", 4000, 1);
  const bool from_file = !reader.get<std::string>("heads", "").empty();
  const auto named = reader.get<nlohmann::json>("retrieval", nullptr),
             score = reader.get<nlohmann::json>("largest_score", nullptr);
  require(from_file + !named.is_null() + !score.is_null() == 1,
          "{}: heads = FILE, retrieval = all, none or [[layer, KV head], ...], or largest_score: one of them is needed",
          reader.owner());
  require(score.is_null() || score.is_number(), "{}: largest_score = {}: a number is accepted", reader.owner(),
          score.dump());
  auto retrieval = unite(top("heads", "share", 0.14), top("echo_heads", "echo_share", 0.01));
  if (!named.is_null()) retrieval = unite(retrieval, named_heads(reader, "retrieval", named, shape));
  if (!score.is_null()) retrieval = unite(retrieval, far_heads(reader, score.get<double>(), settings.window, shape));
  const auto compression = reader.get<double>("compression", 5);
  require(compression >= 1 && std::isfinite(compression), "{}: compression = {}: 1 or more is accepted", reader.owner(),
          compression);
  const auto compensates = reader.get<bool>("compensation", true);
  return [=](const LayerContext& layer) {
    auto own = settings;
    own.full = retrieval[size_t(layer.index)];
    return std::make_unique<RazorAttention>(own, compression, compensates);
  };
}

}  // namespace

namespace rows {

PolicyRow razor_attention() {
  auto row = policy_row(
      "razor_attention", "arXiv 2407.15891", 2024,
      "retrieval heads: N; others: sinks + max(least, N / compression) + 1",
      {{"heads", "", "file of induction scores (heed probe heads --save-heads)"},
       {"share", 0.14, "share of its heads, those with the largest scores, that keep everything"},
       {"echo_heads", "", "file of echo scores"},
       {"echo_share", 0.01, "share of its heads that keep everything, too"},
       {"retrieval", nullptr, "instead of heads: all, none or [[layer, KV head], ...]"},
       {"largest_score", nullptr,
        "instead, with ALiBi: the largest |q k| / sqrt(D); heads keep everything that see past least_buffer"},
       {"epsilon", 1e-3, "weight below which they see nothing"},
       {"sinks", 4, "first tokens that the other heads keep"},
       {"least_buffer", 4000, "recent tokens that they keep at least"},
       {"compression", 5, "they keep N / compression recent tokens where that is more"},
       {"compensation", true, "whether one slot stands for what they drop"}},
      make_razor);
  row.at_mean_budget = [](int64_t budget, int64_t prompt, const HeadRanking& ranking) {
    const SplitBudget split(budget, prompt, ranking.size());
    const int64_t sinks = std::min<int64_t>(4, split.others / 4);
    const int64_t buffer = std::max<int64_t>(1, split.others - sinks - 1);
    return nlohmann::json{{"retrieval", heads_json(ranking, 0, split.full)},
                          {"sinks", sinks},
                          {"least_buffer", buffer},
                          {"compression", std::max(1.0, double(prompt) / double(buffer))}};
  };
  row.covering = {{"retrieval", "none"}};
  row.tight = {{"retrieval", {{0, 1}, {1, 0}}}, {"sinks", 3}, {"least_buffer", 17}, {"compression", 9}};
  row.chunk_invariant = true;
  return row;
}

}  // namespace rows
}  // namespace heed::cache
