// Attention less one of its principles at a time: mixing tokens, the form of the weights, or queries and keys that
// follow the text (arXiv 2510.11602).
#include <cmath>

#include "heed/error.h"
#include "heed/mixers/attention_share.h"
#include "heed/mixers/companion.h"
#include "heed/nn/feature_map.h"
#include "heed/nn/generator.h"
#include "heed/ops/linear_chunk.h"
#include "heed/ops/softmax_scan.h"
#include "mixers/sparse/sparse_mixer.h"

namespace heed {
namespace {

using torch::Tensor;

struct DeconstructedConfig {
  std::string variant = "approx";
  double sigma = 0.02;
  int64_t seed = 0;
  std::vector<int64_t> tokens;
};

/// No token mixing: a gated perceptron of as many parameters as attention has.
class DeconstructedMlp final : public RecurrentMixer {
 public:
  explicit DeconstructedMlp(const AttentionConfig& c) : RecurrentMixer("deconstructed_attention", c.dim, true) {
    const int64_t width = std::max<int64_t>(1, std::llround(4.0 * double(c.heads * c.head_dim) / 3));
    gate_ = project("gate_proj", c.dim, width);
    up_ = project("up_proj", c.dim, width);
    down_ = project("o_proj", width, c.dim);
  }

 protected:
  Tensor run(RecurrentCall& call) override { return down_(torch::silu(gate_(call.x)) * up_(call.x)); }

 private:
  torch::nn::Linear gate_{nullptr}, up_{nullptr}, down_{nullptr};
};

class DeconstructedAttention final : public sparse::SparseMixer, public CompanionSource {
 public:
  DeconstructedAttention(const AttentionConfig& config, DeconstructedConfig own)
      : SparseMixer("deconstructed_attention", config), own_(std::move(own)) {
    if (own_.variant != "rnd_emb_qk") return;
    // Drawn at its whole length, so that a token's vector does not depend on how many there are.
    auto generator = nn::seeded_generator(uint64_t(own_.seed));
    noise_ = torch::randn({1, config.max_length, config.dim}, generator, torch::kFloat32) * own_.sigma;
  }

  std::unique_ptr<MixerState> make_state(int64_t batch) const override {
    if (sums_up()) return std::make_unique<sparse::SlotState>();
    return AttentionMixer::make_state(batch);
  }

  Tensor companion(int64_t tokens, const Embedding& embed) const override {
    if (own_.variant == "rnd_emb_qk") {
      require(tokens <= config_.max_length, "deconstructed_attention: {} tokens: at most max_length = {} are accepted",
              tokens, config_.max_length);
      return noise_.narrow(1, 0, tokens).to(q_proj_->weight.scalar_type());
    }
    if (own_.variant != "fixed_seq_qk") return {};
    require(embed != nullptr, "deconstructed_attention: fixed_seq_qk is embedded by a model; a layer alone has none");
    const auto ids = torch::tensor(own_.tokens, torch::kInt64);
    return embed(ids.index_select(0, torch::arange(tokens).remainder(ids.size(0))).unsqueeze(0));
  }

 protected:
  bool serves_caches() const override { return own_.variant == "standard"; }

  void before_core(const MixerInput& in, const KvState* state, Tensor& q, Tensor& k, Tensor& v) override {
    if (own_.variant == "standard" || sums_up()) return;
    require_plain_self(in);
    if (own_.variant == "static_emb_qk") {
      if (!in.share || in.share->beside) return;  // a layer alone: x is the embeddings
      require(in.share->embedded.defined(), "deconstructed_attention: the model hands no embeddings to its layers");
      ask(in.share->embedded, q, k);
      return;
    }
    if (in.share && in.share->beside) {  // the companion attends to itself, as ever
      in.share->companion_q = q;
      in.share->companion_k = k;
      return;
    }
    const int64_t n = in.x.size(1), seen = state ? state->seen() : 0;
    Tensor all_q, all_k;
    if (in.share && in.share->companion_q.defined())
      all_q = in.share->companion_q, all_k = in.share->companion_k;
    else
      ask(companion(seen + n, {}), all_q, all_k);
    const auto own_rows = [&](const Tensor& x) { return x.narrow(2, seen, n).expand({in.x.size(0), -1, -1, -1}); };
    q = own_rows(all_q);
    k = own_rows(all_k);
  }

  std::optional<Tensor> attend_own(const MixerInput& in, KvState* any, const Tensor& q, const Tensor& k,
                                   const Tensor& v, const Tensor& positions) override {
    if (!sums_up()) return std::nullopt;
    require_plain_self(in);
    sparse::SlotState fresh;
    auto* state = any ? dynamic_cast<sparse::SlotState*>(any) : &fresh;
    require(state != nullptr, "deconstructed_attention: this state was made by another mixer");
    auto& slots = state->held.slots;
    slots.resize(1);
    state->tokens += q.size(2);
    const auto initial = slots[0].defined() ? std::optional(slots[0]) : std::nullopt;
    const auto queries = positions_->rotate(q, positions), keys = positions_->rotate(k, positions);
    if (own_.variant == "nonapprox") {
      const double scale = config_.scale > 0 ? config_.scale : 1 / std::sqrt(double(config_.head_dim));
      auto scores = (torch::silu(q) * k).sum(3) * scale;
      if (in.key_padding) scores = scores.masked_fill(in.key_padding->unsqueeze(1), -INFINITY);
      const auto result = ops::softmax_scan(scores, v, initial);
      slots[0] = result.state;
      return result.out;
    }
    auto features = expanded(keys);
    if (in.key_padding) features = features.masked_fill(in.key_padding->unsqueeze(1).unsqueeze(3), 0);
    ops::LinearChunkOptions options;
    options.normalize = true;
    options.eps = 1e-12;
    const auto result = ops::linear_chunk(expanded(queries), features, v, std::nullopt, initial, options);
    slots[0] = result.state;
    return result.out;
  }

 private:
  /// Whether the past is sums of a fixed size.
  bool sums_up() const {
    return own_.variant == "approx" || own_.variant == "approx_diag" || own_.variant == "nonapprox";
  }

  /// Queries and keys that x [1|B, n, C] asks for.
  void ask(const Tensor& x, Tensor& q, Tensor& k) {
    q = split_heads(q_proj_(x), config_.heads);
    k = split_heads(k_proj_(x), config_.kv_heads);
    normalize(q, k);
  }

  Tensor expanded(const Tensor& x) const {
    if (own_.variant == "approx") return nn::taylor_features(x);
    const double root = std::sqrt(double(x.size(3)));
    return torch::cat({torch::ones_like(x.narrow(3, 0, 1)), x / std::sqrt(root), x * x / (std::sqrt(2.0) * root)}, 3);
  }

  DeconstructedConfig own_;
  Tensor noise_;  // [1, max_length, C]: no parameter, the seed is all there is to keep
};

const std::vector<std::string> kDeconstructed{"standard",  "mlp",        "approx",       "approx_diag",
                                              "nonapprox", "rnd_emb_qk", "fixed_seq_qk", "static_emb_qk"};

}  // namespace

RegistryRow rows::deconstructed_attention() {
  return {.name = "deconstructed_attention",
          .family = "exact_and_systems",
          .paper =
              "Deconstructing Attention: Investigating Design Principles for Effective Language Modeling (arXiv "
              "2510.11602)",
          .year = 2025,
          .patterns = {false, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .cost = "O(N d^2)",
          .parameters = attention_parameters(
              {{"variant", "approx",
                "standard; mlp (no mixing); approx (Taylor-2 of exp), approx_diag; nonapprox (a key's own query); "
                "rnd_emb_qk, fixed_seq_qk, static_emb_qk (q and k of noise, of a fixed text, of the embeddings)"},
               {"sigma", 0.02, "of the noise"},
               {"seed", 0, "of the noise"},
               {"tokens", nlohmann::json::array(), "ids of the fixed text, repeated where it is too short"}}),
          .small = {{"dim", 24}, {"heads", 4}, {"positions", "rope"}},
          .make = attention_maker(
              "deconstructed_attention",
              [](const AttentionConfig& config, ConfigReader& reader) -> std::shared_ptr<TokenMixer> {
                sparse::require_causal("deconstructed_attention", config);
                DeconstructedConfig own;
                own.variant = reader.choice("variant", own.variant, kDeconstructed);
                own.sigma = reader.get("sigma", own.sigma);
                own.seed = reader.integer("seed", 0, 0);
                own.tokens = reader.get("tokens", own.tokens);
                require(own.sigma > 0, "deconstructed_attention: sigma = {}: above 0 is accepted", own.sigma);
                require(own.variant != "fixed_seq_qk" || !own.tokens.empty(),
                        "deconstructed_attention: fixed_seq_qk without tokens: one id or more is accepted");
                const bool sums = own.variant == "approx" || own.variant == "approx_diag" || own.variant == "nonapprox";
                require(!sums || config.softcap == 0, "deconstructed_attention: {} with softcap = {}: 0 is accepted",
                        own.variant, config.softcap);
                if (own.variant == "mlp") return std::make_shared<DeconstructedMlp>(config);
                return std::make_shared<DeconstructedAttention>(config, own);
              })};
}

}  // namespace heed
