// Keys cut where their content changes; whole chunks are scored for a query, and the best are attended to.
#include <algorithm>
#include <cmath>

#include "heed/error.h"
#include "heed/mixers/hierarchical_sparse.h"
#include "heed/nn/added_loss.h"
#include "heed/nn/keys.h"
#include "mixers/sparse/chunk_choice.h"
#include "mixers/sparse/panels.h"
#include "mixers/sparse/sparse_mixer.h"

namespace heed {
namespace {

using sparse::ChunkedKeys;
using torch::Tensor;

constexpr double kDrop = 0.5;  // of neighbouring keys: a cosine below it teaches a border

struct HierarchicalConfig {
  int64_t budget = 2048, window = 16, hidden = 64;
  std::string borders = "similarity", pooling = "sqrt";
  double threshold = 0.5, border_weight = 1;
  sparse::ChunkRule rule;
};

/// Keys and values as they are attended to; chunks are made of keys before their positions, and of queries those of
/// what is open are kept.
struct ChunkedState final : KvState {
  explicit ChunkedState(const sparse::ChunkRule& rule) : rule(rule), chunks(rule) {}

  sparse::ChunkRule rule;
  ChunkedKeys chunks;
  Tensor queries;  ///< of the last tokens

  int64_t bytes() const override {
    return KvState::bytes() + chunks.bytes() + (queries.defined() ? int64_t(queries.nbytes()) : 0);
  }
  std::unique_ptr<MixerState> clone() const override {
    auto copy = std::make_unique<ChunkedState>(rule);
    copy->kv = kv.clone();
    copy->chunks = chunks.clone();
    if (queries.defined()) copy->queries = queries.clone();
    copy->tokens = tokens;
    return copy;
  }
  void truncate(int64_t length) override {
    require(length == 0 || length == tokens,
            "truncate to {} tokens: chunks can't be taken apart; 0 or all {} seen are accepted", length, tokens);
    if (length == tokens) return;
    *this = ChunkedState(rule);
  }
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
    auto& rule = own_.rule;
    rule.window = rule.borders.lag = own_.borders == "fixed" ? 0 : own_.window;
    rule.power = own_.pooling == "sum" ? 0 : own_.pooling == "mean" ? 1 : 0.5;
  }

  std::unique_ptr<MixerState> make_state(int64_t) const override { return std::make_unique<ChunkedState>(own_.rule); }

  Tensor mix(const CoreInput& in) override {
    require(!in.cu_seqlens && !in.key_sizes,
            "dynamic_hierarchical_sparse_attention: no cu_seqlens and no sizes are accepted");
    require(in.q.size(2) == in.k.size(2),
            "dynamic_hierarchical_sparse_attention: {} queries and {} keys: equal numbers are accepted", in.q.size(2),
            in.k.size(2));
    return attend_whole(in, in.q, in.k);
  }

  Tensor border_loss(const Tensor& x, double least) {
    require(bool(predictor_), "border_loss: borders = {} has no predictor", own_.borders);
    require(x.size(1) >= 2 * own_.window, "border_loss: {} tokens: {} or more, two windows, are accepted", x.size(1),
            2 * own_.window);
    return predictor_loss(split_heads(k_proj_(x), config_.kv_heads), {}, least);
  }

 protected:
  std::optional<Tensor> attend_own(const MixerInput& in, KvState* any, const Tensor& q, const Tensor& k,
                                   const Tensor& v, const Tensor& positions) override {
    require_plain_self(in);
    const auto turned = [&](const Tensor& x) { return positions_->rotate(x, positions); };
    if (!any) {
      CoreInput core{turned(q), turned(k), v};
      core.key_padding = in.key_padding, core.seed = in.seed;
      const auto out = attend_whole(core, q, k);
      const bool taught = predictor_ && own_.border_weight > 0 && is_training() && torch::GradMode::is_enabled() &&
                          k.size(2) >= 2 * own_.window;
      if (!taught) return out;
      return nn::with_loss(out, own_.border_weight * predictor_loss(k, in.key_padding, kDrop));
    }
    auto* state = dynamic_cast<ChunkedState*>(any);
    require(state != nullptr, "dynamic_hierarchical_sparse_attention: this state was made by another mixer");
    const int64_t first = state->tokens - (state->queries.defined() ? state->queries.size(2) : 0);
    state->append(turned(k), v);
    const auto queries = state->queries.defined() ? torch::cat({state->queries, q.detach()}, 2) : q.detach();
    const auto& chunks = followed(state->chunks, k, in.key_padding);
    const CoreInput core{turned(q), state->keys(), state->values()};
    const auto out = own_.budget >= chunks.tokens() ? attend_all(core, chunks.hidden(), in.seed)
                                                    : attend(core, queries, first, chunks, in.seed);
    state->queries = queries.slice(2, chunks.first_open() - first).clone();
    return out;
  }

 private:
  /// Mean cross-entropy of the borders of keys k [B, Hkv, N, d], places whose windows are free of padding: one is where
  /// the cosine of a key to the one before it is below `least`.
  Tensor predictor_loss(const Tensor& k, const std::optional<Tensor>& padding, double least) {
    const auto features = k.transpose(1, 2).flatten(2).detach();
    const int64_t w = own_.window, tokens = features.size(1);
    const auto near = sparse::side_similarity(features, 1).slice(1, w, tokens - w + 1);
    const auto logits = predictor_(features);
    const auto wanted = (near < least).to(logits.scalar_type());
    if (!padding) return torch::binary_cross_entropy_with_logits(logits, wanted);
    const auto real = padding->unfold(1, 2 * w, 1).any(2).logical_not().to(logits.scalar_type());
    const auto losses = torch::binary_cross_entropy_with_logits(logits, wanted, {}, {}, at::Reduction::None);
    return (losses * real).sum() / real.sum().clamp_min(1);
  }

  /// `chunks` with the next tokens.
  const ChunkedKeys& followed(ChunkedKeys& chunks, const Tensor& k, const std::optional<Tensor>& padding) {
    const auto hidden = padding ? *padding : torch::zeros({k.size(0), k.size(2)}, torch::kBool);
    chunks.append(k, hidden, [this](const Tensor& keys) { return candidates(keys); });
    return chunks;
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

  /// A sequence from its beginning: core.q and core.k rotated, q and k not.
  Tensor attend_whole(const CoreInput& core, const Tensor& q, const Tensor& k) {
    if (own_.budget >= k.size(2)) return attend_all(core, core.key_padding.value_or(Tensor()), core.seed, core.report);
    ChunkedKeys chunks(own_.rule);
    return attend(core, q, 0, followed(chunks, k, core.key_padding), core.seed, core.report);
  }

  Tensor attend_all(const CoreInput& core, const Tensor& hidden, uint64_t seed, nn::CoreReport* report = nullptr) {
    auto options = plain_options(seed);
    options.mask = Causal{};
    if (hidden.defined()) nn::hide_keys(options, hidden, core.q.size(2));
    return nn::attention(core.q, core.k, core.v, options, report);
  }

  /// The last core.q.size(2) of the tokens attend; `queries`, not rotated, are those of tokens `first` on.
  Tensor attend(const CoreInput& core, const Tensor& queries, int64_t first, const ChunkedKeys& chunks, uint64_t seed,
                nn::CoreReport* report = nullptr) {
    const int64_t n = core.q.size(2);
    const auto asked = sparse::open_queries(chunks, queries, first, chunks.tokens() - n, n, own_.rule.power);
    const auto panels = sparse::chunk_panels(chunks, asked, own_.budget);
    return sparse::attend_panels(core.q, core.k, core.v, panels, plain_options(seed), report);
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
               {"borders", "similarity",
                "similarity of the mean keys on both sides; predictor (a small one, which learns where neighbouring "
                "keys differ while the layer is trained); or fixed"},
               {"window", 16, "keys on either side that tell a border, which is known so much later"},
               {"threshold", 0.5, "predictor: probability above it; similarity: cosine below it"},
               {"min_chunk", 16, "tokens a chunk has at least"},
               {"max_chunk", 128, "and at most"},
               {"pooling", "sqrt", "chunk vectors: sum / sqrt(n), mean or sum"},
               {"hidden", 64, "width of the predictor"},
               {"border_weight", 1.0, "of the predictor's loss in training; 0: border_loss alone teaches it"}}),
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
                auto& rule = own.rule.borders;
                own.budget = reader.integer("budget", own.budget, 1);
                own.borders = reader.choice("borders", own.borders, {"predictor", "similarity", "fixed"});
                own.window = reader.integer("window", own.window, 1, 1 << 20);
                own.threshold = reader.get("threshold", own.threshold);
                rule.least = reader.integer("min_chunk", rule.least, 1, 1 << 20);
                rule.most = reader.integer("max_chunk", rule.most, rule.least, 1 << 20);
                own.pooling = reader.choice("pooling", own.pooling, {"sqrt", "mean", "sum"});
                own.hidden = reader.integer("hidden", own.hidden, 1, 1 << 16);
                own.border_weight = reader.get("border_weight", own.border_weight);
                require(own.border_weight >= 0,
                        "dynamic_hierarchical_sparse_attention: border_weight = {}: 0 or more is accepted",
                        own.border_weight);
                return std::make_shared<DynamicHierarchicalSparseAttention>(config, own);
              })};
}

}  // namespace heed
