// One attention layer of frozen random scores and trained values, a convex problem in what is trained.
#include <cmath>

#include "heed/error.h"
#include "mixers/rows.h"

#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/generator.h"
#include "mixers/linear/random_attention.h"

namespace heed {
namespace linear {

using torch::Tensor;

RandomScores::RandomScores(int64_t dim, int64_t heads, double deviation, bool biased, uint64_t seed) {
  auto generator = nn::seeded_generator(seed);
  weights_ = torch::randn({heads, dim + 1, dim + 1}, generator, torch::kFloat64) * deviation;
  if (biased) weights_.diagonal(0, 1, 2).slice(1, 0, dim).add_(1);
}

Tensor with_one(const Tensor& x) {
  auto sizes = x.sizes().vec();
  sizes.back() = 1;
  return torch::cat({x, x.new_ones(sizes)}, -1);
}

Tensor RandomScores::features(const Tensor& queries, const Tensor& keys,
                              const std::optional<Tensor>& key_padding) const {
  const auto q = with_one(queries), k = with_one(keys);
  const auto w = weights_.to(q.scalar_type());
  auto scores = torch::relu(torch::einsum("bnd,hde,bme->bhnm", {q, w, k}));
  auto count = torch::full({1, 1, 1, 1}, double(keys.size(1)), q.options());
  if (key_padding) {
    const auto hidden = key_padding->view({-1, 1, 1, keys.size(1)});
    scores = scores.masked_fill(hidden, 0);
    count = hidden.logical_not().sum(3, true).clamp_min(1).to(q.scalar_type());
  }
  return torch::einsum("bhnm,bmd->bnhd", {scores / count, k});
}

Tensor ridge(const Tensor& features, const Tensor& targets, double penalty) {
  require(features.dim() == 2 && targets.dim() == 2 && features.size(0) == targets.size(0),
          "ridge: features {} and targets {}; [samples, F] and [samples, outputs] are accepted",
          c10::str(features.sizes()), c10::str(targets.sizes()));
  require(penalty > 0, "ridge: a penalty of {}; above 0 is accepted", penalty);
  const auto f = features.to(torch::kFloat64), y = targets.to(torch::kFloat64);
  // Whichever of the two systems is smaller.
  const bool wide = f.size(1) > f.size(0);
  const auto square = wide ? torch::matmul(f, f.t()) : torch::matmul(f.t(), f);
  const auto factor = torch::linalg_cholesky(square + penalty * torch::eye(square.size(0), square.options()));
  return wide ? torch::matmul(f.t(), torch::cholesky_solve(y, factor))
              : torch::cholesky_solve(torch::matmul(f.t(), y), factor);
}

}  // namespace linear

namespace {

using torch::Tensor;

class RfAttentionLayer final : public RecurrentMixer {
 public:
  RfAttentionLayer(int64_t dim, int64_t heads, double deviation, bool biased, uint64_t seed)
      : RecurrentMixer("rf_attention_layer", dim, false), scores_(dim, heads, deviation, biased, seed) {
    values_ = register_parameter("values", torch::randn({heads, dim + 1, dim}) / std::sqrt(double(heads * (dim + 1))));
  }

 protected:
  bool takes_memory() const override { return true; }

  Tensor run(RecurrentCall& call) override {
    require(!call.input.cu_seqlens, "rf_attention_layer: cu_seqlens is not accepted");
    const auto& keys = call.input.memory ? *call.input.memory : call.x;
    return torch::einsum("bnhd,hdo->bno", {scores_.features(call.x, keys, call.input.key_padding), values_});
  }

 private:
  linear::RandomScores scores_;
  Tensor values_;  // [H, dim + 1, dim]
};

}  // namespace

RegistryRow rows::rf_attention_layer() {
  return {.name = "rf_attention_layer",
          .family = "linear_and_recurrent",
          .paper = "What can a Single Attention Layer Learn? (arXiv 2307.11353)",
          .year = 2023,
          .patterns = {true, false, true, false},
          .cost = "O(N^2)",
          .parameters = {{"dim", 16, "channels C of the tokens"},
                         {"heads", 64, "random score matrices M"},
                         {"deviation", 0.5, "of their entries"},
                         {"biased", false, "the identity is added to them, so that q . k enters as it is"},
                         {"seed", 0, "of their draw"},
                         {"causal", false, "only false is accepted"}},
          .small = {{"dim", 6}, {"heads", 5}, {"biased", true}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("rf_attention_layer", json);
            const auto dim = reader.integer("dim", 16, 1, 1 << 14), heads = reader.integer("heads", 64, 1, 1 << 16);
            const double deviation = reader.get("deviation", 0.5);
            require(deviation >= 0 && std::isfinite(deviation),
                    "rf_attention_layer: deviation = {}: 0 or more is "
                    "accepted",
                    deviation);
            const bool biased = reader.get("biased", false);
            const auto seed = static_cast<uint64_t>(reader.integer("seed", 0, 0));
            require(!reader.get("causal", false), "rf_attention_layer: causal = true is not accepted");
            reader.finish();
            return std::make_shared<RfAttentionLayer>(dim, heads, deviation, biased, seed);
          }};
}

}  // namespace heed
