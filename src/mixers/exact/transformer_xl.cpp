// Attention over a segment and a memory of the one before, by content and by relative position.
#include <cmath>

#include "heed/error.h"
#include "heed/mixers/shared_parameters.h"
#include "heed/nn/keys.h"
#include "heed/nn/recompute.h"
#include "heed/nn/relative_scores.h"
#include "heed/nn/start.h"
#include "mixers/sparse/sparse_mixer.h"

namespace heed {
namespace {

using torch::Tensor;

constexpr int64_t kRowsXl = 64;

class TransformerXl final : public sparse::SparseMixer, public SharedParameters {
 public:
  TransformerXl(const AttentionConfig& c, int64_t memory, bool own_biases)
      : SparseMixer("transformer_xl", c), memory_(memory), own_biases_(own_biases) {
    require(c.positions.kind == "none", "transformer_xl: positions {}: none is accepted, it has its own",
            c.positions.kind);
    require(c.softcap == 0, "transformer_xl: softcap = {}: 0 is accepted", c.softcap);
    r_proj_ = register_module("r_proj", nn::started_linear(c.dim, c.heads * c.head_dim, false));
    content_ = register_parameter("content_bias", torch::zeros({c.heads, 1, c.head_dim}));
    distance_ = register_parameter("distance_bias", torch::zeros({c.heads, 1, c.head_dim}));
  }

  void take_from(TokenMixer& first) override {
    auto& leader = dynamic_cast<TransformerXl&>(first);
    if (own_biases_ || leader.own_biases_) return;
    require(content_.sizes() == leader.content_.sizes(),
            "transformer_xl: layers of {} and {} heads of {} and {} channels: biases = layer is accepted",
            leader.config_.heads, config_.heads, leader.config_.head_dim, config_.head_dim);
    for (const char* name : {"content_bias", "distance_bias"}) parameters_.erase(name);
    content_ = leader.content_;
    distance_ = leader.distance_;
  }

 protected:
  std::optional<Tensor> attend_own(const MixerInput& in, KvState* state, const Tensor& q, const Tensor& k,
                                   const Tensor& v, const Tensor&) override {
    require_plain_self(in);
    if (!state) return attend(q, k, v, in.key_padding.value_or(Tensor()), in.seed);
    const auto padding = append_padding(in, *state);
    // What the state holds is memory: no gradient reaches it.
    const auto with_memory = [&](const Tensor& held, const Tensor& fresh) {
      return state->slots() > 0 ? torch::cat({held, fresh}, 2) : fresh;
    };
    const auto out = attend(q, with_memory(state->keys(), k), with_memory(state->values(), v), padding, in.seed);
    state->append(k, v);
    state->erase(0, state->slots() - memory_);
    return out;
  }

 private:
  /// The last N of the M keys are the queries' own.
  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& padding, uint64_t seed) {
    const int64_t n = q.size(2), m = k.size(2), past = m - n;
    if (n == 0) return q.new_empty({q.size(0), q.size(1), 0, v.size(3)});
    const double scale = config_.scale > 0 ? config_.scale : 1 / std::sqrt(double(config_.head_dim));
    // Keys of distances m - 1, m - 2, ..., 1 - (rows of a tile): [1, H, distances, D].
    const auto distances = torch::arange(m - 1, -std::min(kRowsXl, n), -1);
    const auto table = nn::sinusoidal(distances, config_.dim).to(q.scalar_type());
    const auto far = split_heads(r_proj_(table).unsqueeze(0), config_.heads);
    const auto by_content = q + content_, by_distance = (q + distance_) * scale;
    std::vector<Tensor> outs;
    for (int64_t first = 0; first < n; first += kRowsXl) {
      const int64_t rows = std::min(kRowsXl, n - first), keys = past + first + rows;
      auto options = plain_options(seed + uint64_t(first));
      options.mask = Causal{};
      if (padding.defined()) nn::hide_keys(options, padding.narrow(1, 0, keys), rows);
      outs.push_back(nn::recomputed(
          [options](const std::vector<Tensor>& t) {
            auto own = options;
            own.bias = nn::relative_shift(torch::matmul(t[1], t[2].transpose(2, 3)));
            return attention(t[0], t[3], t[4], own);
          },
          {by_content.narrow(2, first, rows), by_distance.narrow(2, first, rows),
           far.narrow(2, m - keys, keys + rows - 1), k.narrow(2, 0, keys), v.narrow(2, 0, keys)}));
    }
    return torch::cat(outs, 2);
  }

  int64_t memory_;
  bool own_biases_;
  torch::nn::Linear r_proj_{nullptr};
  Tensor content_, distance_;  // u, v [H, 1, D], of all layers of a model unless own_biases_
};

}  // namespace

RegistryRow rows::transformer_xl() {
  return {
      .name = "transformer_xl",
      .family = "exact_and_systems",
      .paper = "Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context (arXiv 1901.02860)",
      .year = 2019,
      .patterns = {false, true, false, false},
      .step = true,
      .cost = "O(N (N + m))",
      .parameters = attention_parameters(
          {{"memory", 512, "m: tokens that a state holds; a segment sees them and itself, and they get no gradient"},
           {"biases", "model",
            "u and v: of the model, which its first such layer holds, or (layer) of each layer; a layer alone has its "
            "own"}}),
      .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"memory", 64}},
      .make = attention_maker("transformer_xl", [](const AttentionConfig& config, ConfigReader& reader) {
        sparse::require_causal("transformer_xl", config);
        const auto memory = reader.integer("memory", 512, 0);
        return std::make_shared<TransformerXl>(config, memory,
                                               reader.choice("biases", "model", {"model", "layer"}) == "layer");
      })};
}

}  // namespace heed
