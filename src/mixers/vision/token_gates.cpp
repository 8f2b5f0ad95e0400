// Perceptrons in the place of attention: a gate that does not mix tokens at all, a perceptron over tokens, and a gate
// made by one.
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

struct TokenMlpConfig {
  int64_t dim = 64, tokens = 64, hidden = 0;
  bool causal = false;

  static TokenMlpConfig read(ConfigReader& reader) {
    TokenMlpConfig c;
    c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
    c.tokens = reader.integer("max_length", c.tokens, 1, 1 << 20);
    c.hidden = reader.integer("hidden", c.hidden, 0, 1 << 20);
    if (c.hidden == 0) c.hidden = 2 * c.dim;
    c.causal = reader.get("causal", c.causal);
    return c;
  }
};

/// A perceptron over the tokens of every channel, part of a mixer that has its weights.
class TokenMlp {
 public:
  TokenMlp(torch::nn::Module& owner, const TokenMlpConfig& c) : tokens_(c.tokens), causal_(c.causal) {
    up_ = owner.register_module("token_up", torch::nn::Linear(c.tokens, c.hidden));
    down_ = owner.register_module("token_down", torch::nn::Linear(c.hidden, c.tokens));
    if (!causal_) return;
    // A hidden unit has a place: it hears the tokens up to there, and those from there on hear it.
    const auto place = torch::floor_divide(torch::arange(c.hidden) * c.tokens, c.hidden),
               token = torch::arange(c.tokens);
    hears_ = place.unsqueeze(1) >= token;
    heard_ = token.unsqueeze(1) >= place;
  }

  /// x [B, N, C] of the call's tokens -> the same; what hidden units heard so far is in slot 0.
  Tensor operator()(RecurrentCall& call, const Tensor& x, const std::string& name) {
    const int64_t n = call.tokens(), seen = call.seen();
    require(seen + n <= tokens_, "{}: {} tokens: at most max_length = {} are accepted", name, seen + n, tokens_);
    require(!call.input.cu_seqlens, "{}: cu_seqlens is not accepted", name);
    auto up = up_->weight.narrow(1, seen, n), down = down_->weight.narrow(0, seen, n);
    if (causal_) {
      up = up * hears_.narrow(1, seen, n);
      down = down * heard_.narrow(0, seen, n);
    }
    auto sums = torch::matmul(call.without_padding(x).transpose(1, 2), up.t());  // [B, C, F]
    if (call.carries()) {
      auto& before = call.slot(0);
      if (before.defined()) sums = sums + before;
      before = sums;
    }
    const auto inner = nn::gelu(sums + up_->bias);
    return torch::linear(inner, down, down_->bias.narrow(0, seen, n)).transpose(1, 2);
  }

 private:
  int64_t tokens_;
  bool causal_;
  torch::nn::Linear up_{nullptr}, down_{nullptr};
  Tensor hears_, heard_;  // causal only: bool [F, N] and [N, F], whether a hidden unit hears a token, is heard by it
};

class MlpMixer final : public RecurrentMixer {
 public:
  explicit MlpMixer(const TokenMlpConfig& c) : RecurrentMixer("mlp_mixer", c.dim, c.causal), across_(*this, c) {}

 protected:
  Tensor run(RecurrentCall& call) override { return across_(call, call.x, mixer_name()); }

 private:
  TokenMlp across_;
};

class NinformerGating final : public RecurrentMixer {
 public:
  explicit NinformerGating(const TokenMlpConfig& c)
      : RecurrentMixer("ninformer_gating", c.dim, c.causal), across_(*this, c) {
    value_ = register_module("value", torch::nn::Linear(c.dim, c.dim));
    token_norm_ = register_module("token_norm", layer_norm(c.dim));
    channel_norm_ = register_module("channel_norm", layer_norm(c.dim));
    channel_up_ = register_module("channel_up", torch::nn::Linear(c.dim, c.hidden));
    channel_down_ = register_module("channel_down", torch::nn::Linear(c.hidden, c.dim));
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    auto gate = call.x + across_(call, token_norm_(call.x), mixer_name());
    gate = gate + channel_down_(nn::gelu(channel_up_(channel_norm_(gate))));
    return value_(call.x) * gate;
  }

 private:
  TokenMlp across_;
  torch::nn::Linear value_{nullptr}, channel_up_{nullptr}, channel_down_{nullptr};
  torch::nn::LayerNorm token_norm_{nullptr}, channel_norm_{nullptr};
};

/// The row of a mixer with such a perceptron.
template <class Mixer>
RegistryRow token_mlp_row(const char* name, const char* paper, int year, const char* hidden) {
  return {.name = name,
          .family = "sparse_and_vision",
          .paper = paper,
          .year = year,
          .patterns = {true, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .fixed_n = true,
          .cost = "O(N F)",
          .parameters = {{"dim", 64, "channels C of the tokens"},
                         {"max_length", 64, "most tokens; fewer use the first of the weights"},
                         {"hidden", 0, hidden},
                         {"causal", false, "weights between tokens are triangular"}},
          .small = {{"dim", 24}, {"max_length", 96}},
          .make = [name](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader(name, json);
            const auto c = TokenMlpConfig::read(reader);
            reader.finish();
            return std::make_shared<Mixer>(c);
          }};
}

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

RegistryRow rows::mlp_mixer() {
  return token_mlp_row<MlpMixer>("mlp_mixer", "MLP-Mixer: An all-MLP Architecture for Vision (arXiv 2105.01601)", 2021,
                                 "F, of the perceptron over tokens; 0: 2 dim");
}

RegistryRow rows::ninformer_gating() {
  return token_mlp_row<NinformerGating>(
      "ninformer_gating",
      "NiNformer: A Network in Network Transformer with Token Mixing Generated Gating Function (arXiv 2403.02411)",
      2024, "F, of both inner perceptrons; 0: 2 dim");
}

}  // namespace heed
