// A cheap low-rank attention says which pairs the exact one visits.
#include <cmath>

#include "heed/error.h"
#include "heed/mixers/sparsifiner.h"
#include "heed/nn/added_loss.h"
#include "heed/nn/row_attention.h"
#include "mixers/sparse/sparse_mixer.h"

namespace heed {
namespace {

using torch::Tensor;

struct SparsifinerConfig {
  int64_t basis = 0, coefficients = 8, class_tokens = 1;
  double keep = 0.25, basis_threshold = 0.02, coefficient_threshold = 0;
  double reconstruction = 0.01;
  bool released_scale = false;
};

class Sparsifiner final : public sparse::SparseMixer {
 public:
  Sparsifiner(const AttentionConfig& c, SparsifinerConfig own) : SparseMixer("sparsifiner", c), own_(own) {
    const int64_t half = std::max<int64_t>(1, c.head_dim / 2);
    const auto normal = [&](const char* name, std::vector<int64_t> sizes, double deviation) {
      return register_parameter(name, torch::randn(sizes).clamp(-2, 2) * deviation);
    };
    q_down_ = normal("q_down", {c.heads, c.head_dim, half}, 1 / std::sqrt(double(c.head_dim)));
    k_down_ = normal("k_down", {c.kv_heads, c.head_dim, half}, 1 / std::sqrt(double(c.head_dim)));
    tokens_down_ = normal("tokens_down", {c.max_length, own_.basis}, 0.02);  // P
    basis_ = normal("basis", {c.max_length, own_.basis}, 0.02);              // U
  }

  std::unique_ptr<MixerState> make_state(int64_t) const override {
    fail("sparsifiner has no step: its cheap attention mixes all tokens");
  }

  Tensor mix(const CoreInput& in) override {
    require(!in.cu_seqlens && !in.key_sizes, "sparsifiner: no cu_seqlens and no sizes are accepted");
    const int64_t n = in.q.size(2);
    require(n == in.k.size(2) && n <= config_.max_length,
            "sparsifiner: {} queries and {} keys: as many, and at most max_length = {}, are accepted", n, in.k.size(2),
            config_.max_length);
    const auto real = in.key_padding ? in.key_padding->logical_not() : torch::ones({in.q.size(0), n}, torch::kBool);
    const auto places = in.q_positions.value_or(torch::arange(n));
    const bool taught = own_.reconstruction > 0 && is_training() && torch::GradMode::is_enabled();
    Tensor cheap;
    {
      torch::AutoGradMode grad(taught);
      cheap = cheap_attention(in.q.detach(), in.k.detach(), real, places);
    }
    const auto basis = of_places(basis_.detach(), places).abs();
    const auto sparse_basis = basis.masked_fill(basis <= own_.basis_threshold, 0).transpose(-2, -1);
    const auto choice = [=, cheap = cheap.detach(), own = own_](int64_t first, int64_t rows) {
      const auto candidates = real.unsqueeze(1).unsqueeze(1);
      auto weights = cheap.narrow(2, first, rows);
      if (own.coefficient_threshold > 0)
        weights = weights.masked_fill(weights <= own.coefficient_threshold, 0);
      else
        weights = weights.masked_fill(
            nn::largest(weights, torch::ones_like(weights, torch::kBool), own.coefficients).logical_not(), 0);
      const auto chosen = nn::largest_share(torch::matmul(weights, sparse_basis), candidates, own.keep);
      const auto full = (torch::arange(first, first + rows) < own.class_tokens).unsqueeze(1);
      return chosen | (full & candidates);
    };
    const auto out = nn::row_attention(in.q, in.k, in.v, plain_options(in.seed), choice, in.report);
    if (!taught) return out;
    const auto apart = distance(cheap, dense_map(in.q, in.k, real), real, places);
    return nn::with_loss(out, own_.reconstruction * apart / double(in.q.size(0)));
  }

  Tensor loss(const MixerInput& in, const Tensor& teacher, double weight) {
    require_plain_self(in);
    const int64_t n = in.x.size(1);
    require(in.x.dim() == 3 && in.x.size(2) == config_.dim && n <= config_.max_length,
            "sparsifiner_loss: x of shape {}: [batch, at most {}, {}] is accepted", c10::str(in.x.sizes()),
            config_.max_length, config_.dim);
    const auto real = in.key_padding ? in.key_padding->logical_not() : torch::ones({in.x.size(0), n}, torch::kBool);
    const auto places = in.positions.value_or(torch::arange(n));
    Tensor q, k, wanted = teacher;
    {
      torch::NoGradGuard no_grad;
      const auto x = positions_->embed(in.x, places);
      q = split_heads(q_proj_(x), config_.heads);
      k = split_heads(k_proj_(x), config_.kv_heads);
      normalize(q, k);
      q = positions_->rotate(q, places), k = positions_->rotate(k, places);
      if (!wanted.defined()) wanted = dense_map(q, k, real);
    }
    require(wanted.sizes() == (std::vector<int64_t>{in.x.size(0), config_.heads, n, n}),
            "sparsifiner_loss: a teacher of shape {}: [{}, {}, {}, {}] is accepted", c10::str(wanted.sizes()),
            in.x.size(0), config_.heads, n, n);
    return weight * distance(cheap_attention(q, k, real, places), wanted.detach(), real, places);
  }

 private:
  /// The rows of a table [max_length, n] for places [N] or [B, N]: [1|B, 1, N, n].
  Tensor of_places(const Tensor& table, const Tensor& places) const {
    const int64_t last = places.numel() ? places.max().item<int64_t>() : 0;
    require(last < config_.max_length, "sparsifiner: a token at place {}: 0 to {} is accepted", last,
            config_.max_length - 1);
    const auto rows = table.index({places});
    return (rows.dim() == 2 ? rows.unsqueeze(0) : rows).unsqueeze(1);
  }

  /// A_down [B, Hq, N, n]: softmax of the queries, in half their channels, over mixtures of keys.
  Tensor cheap_attention(const Tensor& q, const Tensor& k, const Tensor& real, const Tensor& places) const {
    const auto keys = torch::matmul(k, k_down_) * real.unsqueeze(1).unsqueeze(3);
    const auto mixtures = torch::matmul(of_places(tokens_down_, places).transpose(2, 3), keys);  // [B, Hkv, n, d / 2]
    const double scale = 1 / std::sqrt(double(own_.released_scale ? config_.heads : config_.head_dim));
    const auto logits =
        torch::matmul(torch::matmul(q, q_down_), mixtures.repeat_interleave(q.size(1) / k.size(1), 1).transpose(2, 3));
    return torch::softmax(logits * scale, 3);
  }

  /// The weights [B, Hq, N, N] of dense attention, no gradient.
  Tensor dense_map(const Tensor& q, const Tensor& k, const Tensor& real) const {
    torch::NoGradGuard no_grad;
    const double scale = config_.scale > 0 ? config_.scale : 1 / std::sqrt(double(config_.head_dim));
    auto s = torch::matmul(q, k.repeat_interleave(config_.group(), 1).transpose(2, 3)) * scale;
    if (config_.softcap > 0) s = torch::tanh(s / config_.softcap) * config_.softcap;
    return torch::softmax(s.masked_fill(real.logical_not().unsqueeze(1).unsqueeze(1), -1e30), 3);
  }

  /// Sum of squared differences of A_down U^T to a map, over the rows that are predicted.
  Tensor distance(const Tensor& cheap, const Tensor& wanted, const Tensor& real, const Tensor& places) const {
    const auto map = torch::matmul(cheap, of_places(basis_, places).transpose(2, 3));
    const auto apart = (map - wanted) * (real.unsqueeze(1).unsqueeze(3) & real.unsqueeze(1).unsqueeze(1));
    return apart.slice(2, own_.class_tokens).square().sum();
  }

  SparsifinerConfig own_;
  Tensor q_down_, k_down_, tokens_down_, basis_;
};

}  // namespace

Tensor sparsifiner_loss(TokenMixer& mixer, const MixerInput& input, const Tensor& teacher, double weight) {
  auto* layer = dynamic_cast<Sparsifiner*>(&mixer);
  require(layer != nullptr, "sparsifiner_loss: sparsifiner is accepted");
  return layer->loss(input, teacher, weight);
}

RegistryRow rows::sparsifiner() {
  return {.name = "sparsifiner",
          .family = "sparse_and_vision",
          .paper =
              "Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision Transformers (arXiv "
              "2303.13755)",
          .year = 2023,
          .patterns = {true, false, false, false},
          .core = true,
          .fixed_n = true,
          .cost = "O(N n + keep N^2)",
          .parameters = attention_parameters(
              {{"keep", 0.25, "share of the keys that a query sees; 1: dense, as in the first phase of training"},
               {"basis", 0, "n: rows of the basis; 0: max_length / 6"},
               {"coefficients", 8, "largest coefficients of a query that count"},
               {"coefficient_threshold", 0.0, "above 0: in their place, those above it"},
               {"basis_threshold", 0.02, "entries of the basis up to it count as 0"},
               {"class_tokens", 1, "tokens at the begin that see all"},
               {"reconstruction", 0.01,
                "in training, weight of the predictor's loss: squared differences of its map to the dense one, summed "
                "over an image; 0: sparsifiner_loss alone teaches it"},
               {"released_scale", false, "cheap logits over sqrt(heads), as the released code has it"}}),
          .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"max_length", 64}},
          .make = attention_maker("sparsifiner", [](AttentionConfig config, ConfigReader& reader) {
            require(!reader.get("causal", false),
                    "sparsifiner: causal = true: false is accepted, a key's mixture has no "
                    "order");
            config.causal = false;
            SparsifinerConfig own;
            own.keep = reader.get("keep", own.keep);
            require(own.keep > 0 && own.keep <= 1, "sparsifiner: keep = {}: above 0 up to 1 is accepted", own.keep);
            own.basis = reader.integer("basis", 0, 0, 1 << 16);
            if (own.basis == 0) own.basis = std::max<int64_t>(1, config.max_length / 6);
            own.coefficients = reader.integer("coefficients", own.coefficients, 1);
            own.coefficient_threshold = reader.get("coefficient_threshold", 0.0);
            own.basis_threshold = reader.get("basis_threshold", own.basis_threshold);
            own.class_tokens = reader.integer("class_tokens", own.class_tokens, 0, 1 << 16);
            own.reconstruction = reader.get("reconstruction", own.reconstruction);
            require(own.reconstruction >= 0, "sparsifiner: reconstruction = {}: 0 or more is accepted",
                    own.reconstruction);
            own.released_scale = reader.get("released_scale", false);
            return std::make_shared<Sparsifiner>(config, own);
          })};
}

}  // namespace heed
