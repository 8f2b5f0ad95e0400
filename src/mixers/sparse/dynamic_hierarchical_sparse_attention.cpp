// Keys cut where their content changes; whole chunks are scored for a query, and the best are attended to.
#include <algorithm>
#include <cmath>

#include "heed/error.h"
#include "heed/mixers/hierarchical_sparse.h"
#include "heed/nn/keys.h"
#include "heed/nn/row_attention.h"
#include "mixers/sparse/chunk_borders.h"
#include "mixers/sparse/sparse_mixer.h"

namespace heed {
namespace {

using sparse::Chunks;
using torch::Tensor;

struct HierarchicalConfig {
  int64_t budget = 2048, window = 16, hidden = 64;
  std::string borders = "predictor", pooling = "sqrt";
  double threshold = 0.5;
  sparse::BorderRule rule;
};

/// Whether a border stands between the keys of the windows on both sides of a place.
class BorderPredictorImpl : public torch::nn::Module {
 public:
  BorderPredictorImpl(int64_t features, int64_t hidden, int64_t window) : window_(window) {
    encoder_ = register_module("encoder", torch::nn::Linear(features, hidden));
    pool_ = register_parameter("pool", torch::randn({hidden}) / std::sqrt(double(hidden)));
    in_ = register_module("hidden", torch::nn::Linear(4 * hidden + 1, hidden));
    out_ = register_module("out", torch::nn::Linear(hidden, 1));
  }

  /// features [B, M, F] -> logits [B, M - 2 w + 1] of the places w, ..., M - w, which have whole windows.
  Tensor forward(const Tensor& features) {
    const auto codes = torch::tanh(encoder_(features));                                   // [B, M, h]
    const auto windows = codes.unfold(1, window_, 1);                                     // [B, M - w + 1, h, w]
    const auto weights = torch::softmax((windows * pool_.unsqueeze(1)).sum(2, true), 3);  // attention pooling
    const auto pooled = (windows * weights).sum(3);
    const int64_t places = features.size(1) - 2 * window_ + 1;
    const auto left = pooled.slice(1, 0, places), right = pooled.slice(1, window_);
    const auto cosine = (left * right).sum(2, true) / (left.norm(2, 2, true) * right.norm(2, 2, true)).clamp_min(1e-6);
    return out_(torch::relu(in_(torch::cat({left, right, left - right, left * right, cosine}, 2)))).squeeze(2);
  }

 private:
  int64_t window_;
  torch::nn::Linear encoder_{nullptr}, in_{nullptr}, out_{nullptr};
  Tensor pool_;
};
TORCH_MODULE(BorderPredictor);

class DynamicHierarchicalSparseAttention final : public sparse::SparseMixer {
 public:
  DynamicHierarchicalSparseAttention(const AttentionConfig& c, HierarchicalConfig own)
      : SparseMixer("dynamic_hierarchical_sparse_attention", c), own_(std::move(own)) {
    if (own_.borders == "predictor")
      predictor_ = register_module("predictor", BorderPredictor(c.kv_heads * c.head_dim, own_.hidden, own_.window));
    own_.rule.lag = own_.borders == "fixed" ? 0 : own_.window;
  }

  std::unique_ptr<MixerState> make_state(int64_t) const override { return std::make_unique<sparse::SlotState>(); }

  Tensor mix(const CoreInput& in) override {
    require(!in.cu_seqlens && !in.key_sizes,
            "dynamic_hierarchical_sparse_attention: no cu_seqlens and no sizes are accepted");
    require(in.q.size(2) == in.k.size(2),
            "dynamic_hierarchical_sparse_attention: {} queries and {} keys: equal numbers are accepted", in.q.size(2),
            in.k.size(2));
    return attend({in.q, in.k, in.v}, in.q, in.k, hidden_of(in.key_padding, in.k), in.seed, in.report);
  }

  Tensor border_loss(const Tensor& x, double least) {
    require(bool(predictor_), "border_loss: borders = {} has no predictor", own_.borders);
    const auto features = split_heads(k_proj_(x), config_.kv_heads).transpose(1, 2).flatten(2).detach();
    const int64_t w = own_.window, tokens = features.size(1);
    require(tokens >= 2 * w, "border_loss: {} tokens: {} or more, two windows, are accepted", tokens, 2 * w);
    const auto near = sparse::side_similarity(features, 1).slice(1, w, tokens - w + 1);
    const auto logits = predictor_(features);
    return torch::binary_cross_entropy_with_logits(logits, (near < least).to(logits.scalar_type()));
  }

 protected:
  std::optional<Tensor> attend_own(const MixerInput& in, KvState* any, const Tensor& q, const Tensor& k,
                                   const Tensor& v, const Tensor& positions) override {
    require_plain_self(in);
    const auto turned = [&](const Tensor& x) { return positions_->rotate(x, positions); };
    const auto fresh_hidden = hidden_of(in.key_padding, k);
    if (!any) return attend({turned(q), turned(k), v}, q, k, fresh_hidden, in.seed, nullptr);
    auto* state = dynamic_cast<sparse::SlotState*>(any);
    require(state != nullptr, "dynamic_hierarchical_sparse_attention: this state was made by another mixer");
    auto& slots = state->held.slots;
    slots.resize(6);
    const auto grown = [&](size_t slot, const Tensor& fresh, int64_t dim) {
      const auto all = slots[slot].defined() ? torch::cat({slots[slot], fresh}, dim) : fresh;
      slots[slot] = all.detach();
      return all;
    };
    // Chunks are made of keys before their positions; of queries, those of what is open are kept.
    const auto keys = grown(0, turned(k), 2), values = grown(1, v, 2), plain_k = grown(2, k, 2);
    const auto plain_q = grown(3, q, 2), hidden = grown(4, fresh_hidden, 1);
    state->tokens += k.size(2);
    const auto out = attend({turned(q), keys, values}, plain_q, plain_k, hidden, in.seed, nullptr, &slots[5]);
    const int64_t needed = std::min(plain_q.size(2), own_.rule.most + own_.rule.lag);
    slots[3] = plain_q.slice(2, plain_q.size(2) - needed).detach().clone();
    return out;
  }

 private:
  static Tensor hidden_of(const std::optional<Tensor>& padding, const Tensor& k) {
    return padding ? *padding : torch::zeros({k.size(0), k.size(2)}, torch::kBool);
  }

  /// bool [B, tokens]: a border stands before the token. `settled`, those of the first tokens, are no longer asked for.
  Tensor borders_of(const Tensor& k, const Tensor& settled) {
    const int64_t done = settled.defined() ? settled.size(1) : 0;
    // What a place is told by lies within a window of it and of the place before.
    const int64_t from = std::max<int64_t>(0, done - own_.window - 1);
    const auto fresh = candidates(k.slice(2, from)).slice(1, done - from);
    if (done == 0) return sparse::choose_borders(fresh, own_.rule);
    const auto begins = (settled * torch::arange(done)).amax(1) - done;
    return torch::cat({settled, sparse::choose_borders(fresh, own_.rule, begins)}, 1);
  }

  /// bool [B, tokens]: where a border may stand.
  Tensor candidates(const Tensor& k) {
    const int64_t tokens = k.size(2);
    if (own_.borders == "fixed" || tokens < 2 * own_.window) return torch::zeros({k.size(0), tokens}, torch::kBool);
    const auto features = k.transpose(1, 2).flatten(2);
    if (own_.borders == "similarity")
      return sparse::dips(sparse::side_similarity(features, own_.window), own_.threshold);
    auto chance = torch::zeros({k.size(0), tokens}, torch::kFloat64);
    chance.slice(1, own_.window, tokens - own_.window + 1).copy_(torch::sigmoid(predictor_(features)));
    // A place needs the one behind it to be known as a peak, so a peak is told by those before it.
    const auto before = torch::constant_pad_nd(chance.slice(1, 0, tokens - 1), {1, 0});
    return (chance > own_.threshold) & (chance > before);
  }

  /// The last q.size(2) of the tokens attend: q and core.k rotated, `plain_q` and `plain_k` not; plain_q holds the last
  /// tokens, at least those of what is open. `settled`: borders that no later token moves, which the call adds to.
  Tensor attend(const CoreInput& core, const Tensor& plain_q, const Tensor& plain_k, const Tensor& hidden,
                uint64_t seed, nn::CoreReport* report, Tensor* settled = nullptr) {
    const int64_t n = core.q.size(2), m = core.k.size(2), past = m - n;
    const auto real = hidden.logical_not();
    if (own_.budget >= m) {
      auto options = plain_options(seed);
      options.mask = Causal{};
      nn::hide_keys(options, hidden, n);
      return nn::attention(core.q, core.k, core.v, options, report);
    }
    Tensor scores, counts;
    Chunks chunks;
    {
      torch::NoGradGuard no_grad;
      const auto borders = borders_of(plain_k, settled ? *settled : Tensor());
      if (settled) *settled = borders.slice(1, 0, std::max<int64_t>(0, m - own_.rule.lag)).clone();
      chunks = sparse::known_chunks(borders, own_.rule.lag);
      const auto sums = prefix(plain_k * real.unsqueeze(1).unsqueeze(3));
      counts = torch::constant_pad_nd(real.cumsum(1), {1, 0});  // [B, M + 1]: real tokens before a place
      const auto sizes = counts.gather(1, chunks.end) - counts.gather(1, chunks.begin);
      const auto of_chunk = at_places(sums, chunks.end) - at_places(sums, chunks.begin);  // [B, Hkv, C, D]
      const auto asked = open_queries(plain_q, real, chunks.open, past, m);
      const int64_t group = core.q.size(1) / core.k.size(1);
      scores = torch::matmul(asked.unflatten(1, {core.k.size(1), group}),
                             pooled(of_chunk, sizes).unsqueeze(2).transpose(3, 4))
                   .flatten(1, 2);  // [B, Hq, N, C]
      const auto unknown = torch::arange(chunks.end.size(1)) >= chunks.closed.slice(1, past).unsqueeze(2);
      scores = scores.to(torch::kFloat32).masked_fill(unknown.unsqueeze(1), -INFINITY);
      if (chunks.end.size(1) > 0)
        scores.select(3, 0).masked_fill_(chunks.closed.slice(1, past).unsqueeze(1) > 0, INFINITY);
    }
    const auto choice = [=, budget = own_.budget](int64_t first, int64_t rows) {
      return visible(chunks, scores.narrow(2, first, rows), counts, real, past + first, budget);
    };
    return nn::row_attention(core.q, core.k, core.v, plain_options(seed), choice, report);
  }

  static Tensor prefix(const Tensor& x) {
    return torch::constant_pad_nd(x.to(torch::kFloat64).cumsum(2), {0, 0, 1, 0});
  }
  /// x [B, H, M + 1, D] at places int64 [B, n].
  static Tensor at_places(const Tensor& x, const Tensor& places) {
    return nn::gather_rows(x, places.unsqueeze(1).expand({x.size(0), x.size(1), places.size(1)}));
  }
  /// A sum over `size` tokens, of a length that does not depend on how many they are.
  Tensor pooled(const Tensor& sums, const Tensor& size) const {
    const auto tokens = size.clamp_min(1).to(torch::kFloat64).unsqueeze(1).unsqueeze(3);
    if (own_.pooling == "sum") return sums;
    return own_.pooling == "mean" ? sums / tokens : sums / tokens.sqrt();
  }

  /// The queries of what is open at each token, up to it: [B, Hq, N, D].
  Tensor open_queries(const Tensor& plain_q, const Tensor& real, const Tensor& open, int64_t past, int64_t m) const {
    const int64_t dropped = m - plain_q.size(2);
    const auto shown = real.slice(1, dropped);
    const auto sums = prefix(plain_q * shown.unsqueeze(1).unsqueeze(3));
    const auto counts = torch::constant_pad_nd(shown.cumsum(1), {1, 0});
    const auto end = (torch::arange(past, m) + 1 - dropped).expand({real.size(0), m - past});
    const auto begin = open.slice(1, past) - dropped;
    return pooled(at_places(sums, end) - at_places(sums, begin), counts.gather(1, end) - counts.gather(1, begin));
  }

  /// bool [B, Hq, rows, M]: what is open, and of the chunks with the largest scores as many tokens as the budget
  /// leaves; of the last one the most recent.
  static Tensor visible(const Chunks& chunks, const Tensor& scores, const Tensor& counts, const Tensor& real,
                        int64_t first, int64_t budget) {
    const int64_t rows = scores.size(2), m = real.size(1), count = chunks.end.size(1);
    const auto at = torch::arange(first, first + rows);
    const auto open = chunks.open.slice(1, first, first + rows);  // [B, rows]
    const auto places = torch::arange(m);
    const auto own = (places >= open.unsqueeze(2)) & (places <= at.unsqueeze(1));
    auto seen = own.unsqueeze(1);
    if (count > 0) {
      const auto used = counts.gather(1, (at + 1).expand({real.size(0), rows})) - counts.gather(1, open);
      const auto left = (budget - used).clamp_min(0).unsqueeze(1).unsqueeze(3);  // [B, 1, rows, 1]
      const auto sizes = (counts.gather(1, chunks.end) - counts.gather(1, chunks.begin)).unsqueeze(1).unsqueeze(1);
      const auto order = std::get<1>(scores.sort(c10::optional<bool>(true), 3, true));
      const auto ordered = sizes.expand_as(scores).gather(3, order);
      const auto before = ordered.cumsum(3) - ordered;
      auto taken = torch::minimum(ordered, (left - before).clamp_min(0));
      // The first chunk leads the order, and is kept whatever it takes.
      const auto leads = torch::arange(count) == 0;
      taken = torch::where(leads, ordered, taken);
      auto kept = torch::zeros_like(taken).scatter_(3, order, taken);
      kept = kept.masked_fill(scores == -INFINITY, 0);
      // Real tokens from here to the end of the chunk, this one included.
      const auto of = chunks.of_token.clamp_max(count - 1);
      const auto to_end = counts.gather(1, chunks.end.gather(1, of)) - counts.slice(1, 0, m);
      const auto wanted = kept.gather(3, of.unsqueeze(1).unsqueeze(1).expand({kept.size(0), kept.size(1), rows, m}));
      const auto ended = (chunks.of_token < count) & real;
      seen = seen | ((to_end.unsqueeze(1).unsqueeze(1) <= wanted) & ended.unsqueeze(1).unsqueeze(1));
    }
    return seen & real.unsqueeze(1).unsqueeze(1);
  }

  HierarchicalConfig own_;
  BorderPredictor predictor_{nullptr};
};

}  // namespace

Tensor border_loss(TokenMixer& mixer, const Tensor& x, double least) {
  auto* layer = dynamic_cast<DynamicHierarchicalSparseAttention*>(&mixer);
  require(layer != nullptr, "border_loss: dynamic_hierarchical_sparse_attention is accepted");
  return layer->border_loss(x, least);
}

RegistryRow rows::dynamic_hierarchical_sparse_attention() {
  return {.name = "dynamic_hierarchical_sparse_attention",
          .family = "sparse_and_vision",
          .paper =
              "Long-Context Modeling with Dynamic Hierarchical Sparse Attention for On-Device LLMs (arXiv "
              "2510.24606)",
          .year = 2025,
          .patterns = {false, true, false, false},
          .step = true,
          .one_way = true,
          .core = true,
          .training_free = true,
          .cost = "O(N (b + N / c))",
          .parameters = attention_parameters(
              {{"budget", 2048, "tokens a query sees, of whole chunks; what is open and the first chunk always"},
               {"borders", "predictor", "predictor (trained by border_loss), similarity of the means beside, or fixed"},
               {"window", 16, "keys on either side that tell a border, which is known so much later"},
               {"threshold", 0.5, "predictor: probability above it; similarity: cosine below it"},
               {"min_chunk", 16, "tokens a chunk has at least"},
               {"max_chunk", 128, "and at most"},
               {"pooling", "sqrt", "chunk vectors: sum / sqrt(n), mean or sum"},
               {"hidden", 64, "width of the predictor"}}),
          .small = {{"dim", 24},
                    {"heads", 4},
                    {"kv_heads", 2},
                    {"positions", "rope"},
                    {"budget", 12},
                    {"window", 2},
                    {"min_chunk", 2},
                    {"max_chunk", 6},
                    {"hidden", 8}},
          .make = attention_maker(
              "dynamic_hierarchical_sparse_attention", [](const AttentionConfig& config, ConfigReader& reader) {
                sparse::require_causal("dynamic_hierarchical_sparse_attention", config);
                HierarchicalConfig own;
                own.budget = reader.integer("budget", own.budget, 1);
                own.borders = reader.choice("borders", own.borders, {"predictor", "similarity", "fixed"});
                own.window = reader.integer("window", own.window, 1, 1 << 20);
                own.threshold = reader.get("threshold", own.threshold);
                own.rule.least = reader.integer("min_chunk", own.rule.least, 1, 1 << 20);
                own.rule.most = reader.integer("max_chunk", own.rule.most, own.rule.least, 1 << 20);
                own.pooling = reader.choice("pooling", own.pooling, {"sqrt", "mean", "sum"});
                own.hidden = reader.integer("hidden", own.hidden, 1, 1 << 16);
                return std::make_shared<DynamicHierarchicalSparseAttention>(config, own);
              })};
}

}  // namespace heed
