// Two gates in the place of attention: one that does not mix tokens at all, one made by a small mixer of tokens.
#include "heed/error.h"
#include "heed/nn/gelu.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;

torch::nn::LayerNorm layer_norm(int64_t channels) {
  return torch::nn::LayerNorm(torch::nn::LayerNormOptions({channels}));
}

class ActivatorGlu final : public RecurrentMixer {
 public:
  ActivatorGlu(int64_t dim, int64_t hidden) : RecurrentMixer("activator_glu", dim, false) {
    activated_ = register_module("activated", torch::nn::Linear(dim, hidden));
    linear_ = register_module("linear", torch::nn::Linear(dim, hidden));
    out_ = register_module("o_proj", torch::nn::Linear(hidden, dim));
    norm_ = register_module("norm", layer_norm(hidden));
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    return out_(norm_(nn::gelu(activated_(call.x))) * norm_(linear_(call.x)));
  }

 private:
  torch::nn::Linear activated_{nullptr}, linear_{nullptr}, out_{nullptr};
  torch::nn::LayerNorm norm_{nullptr};
};

class NinformerGating final : public RecurrentMixer {
 public:
  NinformerGating(int64_t dim, int64_t tokens, int64_t hidden, bool causal)
      : RecurrentMixer("ninformer_gating", dim, causal), tokens_(tokens) {
    value_ = register_module("value", torch::nn::Linear(dim, dim));
    token_norm_ = register_module("token_norm", layer_norm(dim));
    token_up_ = register_module("token_up", torch::nn::Linear(tokens, hidden));
    token_down_ = register_module("token_down", torch::nn::Linear(hidden, tokens));
    channel_norm_ = register_module("channel_norm", layer_norm(dim));
    channel_up_ = register_module("channel_up", torch::nn::Linear(dim, hidden));
    channel_down_ = register_module("channel_down", torch::nn::Linear(hidden, dim));
    if (!causal) return;
    // A hidden unit has a place: it hears the tokens up to there, and those from there on hear it.
    const auto place = torch::floor_divide(torch::arange(hidden) * tokens, hidden), token = torch::arange(tokens);
    hears_ = place.unsqueeze(1) >= token;
    heard_ = token.unsqueeze(1) >= place;
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    const int64_t n = call.tokens(), seen = call.seen();
    require(seen + n <= tokens_, "ninformer_gating: {} tokens: at most max_length = {} are accepted", seen + n,
            tokens_);
    require(!call.input.cu_seqlens, "ninformer_gating: cu_seqlens is not accepted");
    auto up = token_up_->weight.narrow(1, seen, n), down = token_down_->weight.narrow(0, seen, n);
    if (causal_) {
      up = up * hears_.narrow(1, seen, n);
      down = down * heard_.narrow(0, seen, n);
    }
    auto gate = call.x;
    const auto columns = call.without_padding(token_norm_(gate)).transpose(1, 2);
    auto sums = torch::matmul(columns, up.t());  // [B, C, F]
    if (call.carries()) {
      auto& before = call.slot(0);
      if (before.defined()) sums = sums + before;
      before = sums;
    }
    const auto inner = nn::gelu(sums + token_up_->bias);
    gate = gate + torch::linear(inner, down, token_down_->bias.narrow(0, seen, n)).transpose(1, 2);
    gate = gate + channel_down_(nn::gelu(channel_up_(channel_norm_(gate))));
    return value_(call.x) * gate;
  }

 private:
  int64_t tokens_;
  torch::nn::Linear value_{nullptr}, token_up_{nullptr}, token_down_{nullptr}, channel_up_{nullptr},
      channel_down_{nullptr};
  torch::nn::LayerNorm token_norm_{nullptr}, channel_norm_{nullptr};
  Tensor hears_, heard_;  // causal only: bool [F, N] and [N, F], whether a hidden unit hears a token, is heard by it
};

}  // namespace

RegistryRow rows::activator_glu() {
  return {.name = "activator_glu",
          .family = "sparse_and_vision",
          .paper = "Activator: GLU Activations as The Core Functions of a Vision Transformer (arXiv 2405.15953)",
          .year = 2024,
          .patterns = {true, true, false, false},
          .cost = "O(N)",
          .parameters = {{"dim", 64, "channels C of the tokens"},
                         {"hidden", 0, "F, inner channels; 0: 2 dim"},
                         {"causal", true, "tokens do not mix: true and false are the same"}},
          .small = {{"dim", 24}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("activator_glu", json);
            const auto dim = reader.integer("dim", 64, 1, 1 << 20), hidden = reader.integer("hidden", 0, 0, 1 << 20);
            reader.get("causal", true);
            reader.finish();
            return std::make_shared<ActivatorGlu>(dim, hidden == 0 ? 2 * dim : hidden);
          }};
}

RegistryRow rows::ninformer_gating() {
  return {.name = "ninformer_gating",
          .family = "sparse_and_vision",
          .paper =
              "NiNformer: A Network in Network Transformer with Token Mixing Generated Gating Function "
              "(arXiv 2403.02411)",
          .year = 2024,
          .patterns = {true, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .fixed_n = true,
          .cost = "O(N F)",
          .parameters = {{"dim", 64, "channels C of the tokens"},
                         {"max_length", 64, "most tokens; fewer use the first of the weights"},
                         {"hidden", 0, "F, of both inner perceptrons; 0: 2 dim"},
                         {"causal", false, "weights between tokens are triangular"}},
          .small = {{"dim", 24}, {"max_length", 96}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("ninformer_gating", json);
            const auto dim = reader.integer("dim", 64, 1, 1 << 20), hidden = reader.integer("hidden", 0, 0, 1 << 20);
            const auto tokens = reader.integer("max_length", 64, 1, 1 << 20);
            const bool causal = reader.get("causal", false);
            reader.finish();
            return std::make_shared<NinformerGating>(dim, tokens, hidden == 0 ? 2 * dim : hidden, causal);
          }};
}

}  // namespace heed
