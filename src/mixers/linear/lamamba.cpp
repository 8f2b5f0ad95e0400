// LaMamba: a block of scans over the whole image, attention in windows and a channel mixer, each modulated by what
// conditions the image.
#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/config.h"
#include "heed/nn/gelu.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;

struct LaMambaConfig {
  int64_t dim = 64, heads = 4, window = 8, mlp_ratio = 4, expand = 2, state_dim = 1;
  std::string shift = "alternate";
  bool scan = true, attention = true;
};

class LaMamba final : public RecurrentMixer {
 public:
  explicit LaMamba(const LaMambaConfig& c) : RecurrentMixer("lamamba", c.dim, false), config_(c) {
    condition_proj_ = register_module("condition_proj", torch::nn::Linear(c.dim, c.dim));
    modulation_ = register_module("modulation", torch::nn::Linear(c.dim, 9 * c.dim));
    // Every gate is closed at first, and the block is the identity.
    torch::NoGradGuard no_grad;
    modulation_->weight.zero_();
    modulation_->bias.zero_();
    if (c.scan)
      scan_ = register_module("scan", make_mixer("ss2d", {{"dim", c.dim},
                                                          {"expand", c.expand},
                                                          {"state_dim", c.state_dim},
                                                          {"paths", "snake"},
                                                          {"conv_bias", false}}));
    if (c.attention) {
      qkv_proj_ = project("qkv_proj", c.dim, 3 * c.dim, true);
      o_proj_ = project("o_proj", c.dim, c.dim, true);
      windows_ = register_module("windows", vision::WindowCore(c.heads, c.window, c.window));
    }
    up_proj_ = project("up_proj", c.dim, c.mlp_ratio * c.dim, true);
    down_proj_ = project("down_proj", c.mlp_ratio * c.dim, c.dim, true);
  }

 protected:
  bool takes_memory() const override { return true; }

  Tensor run(RecurrentCall& call) override {
    require(call.input.grid && call.input.grid->sizes.size() == 2, "lamamba: a grid of height and width is needed");
    require(!call.input.cu_seqlens, "lamamba: cu_seqlens are not accepted: the tokens are one grid");
    const auto m = modulation_(torch::silu(condition_proj_(condition(call)))).chunk(9, 2);
    auto x = call.x;
    const auto add = [&](size_t part, const auto& layer) {
      const auto normed = torch::layer_norm(x, {config_.dim}, {}, {}, 1e-6);
      x = x + m[3 * part + 2] * layer(normed * (1 + m[3 * part + 1]) + m[3 * part]);
    };
    if (scan_)
      add(0, [&](const Tensor& t) {
        MixerInput input;
        input.x = t;
        input.grid = call.input.grid;
        if (!call.input.memory) input.key_padding = call.input.key_padding;
        return scan_->forward(input);
      });
    if (qkv_proj_) add(1, [&](const Tensor& t) { return attend(call, t); });
    add(2, [&](const Tensor& t) { return down_proj_(nn::gelu(up_proj_(t))); });
    return x;
  }

 private:
  /// The sum of the embeddings that condition each image, [B, 1, C]; without any, 0.
  Tensor condition(const RecurrentCall& call) const {
    if (!call.input.memory) return torch::zeros({call.batch(), 1, config_.dim}, call.x.options());
    return call.without_padding(*call.input.memory).sum(1, true);
  }

  Tensor attend(RecurrentCall& call, const Tensor& x) {
    const auto& sizes = call.input.grid->sizes;
    const bool shifted = config_.shift == "always" || (config_.shift == "alternate" && call.input.layer.index % 2 == 1);
    const nn::Windows windows(nn::Windows::Kind::block, sizes[0], sizes[1], config_.window, config_.window,
                              shifted ? config_.window / 2 : 0);
    const auto cells = [&](const Tensor& t) { return t.unflatten(1, {sizes[0], sizes[1]}); };
    vision::Image image{cells(x), {}};
    if (call.input.key_padding && !call.input.memory) image.hidden = cells(*call.input.key_padding);
    const auto qkv = cells(qkv_proj_(x)).chunk(3, 3);
    return o_proj_(windows_(windows, image, qkv[0], qkv[1], qkv[2]).flatten(1, 2));
  }

  LaMambaConfig config_;
  torch::nn::Linear condition_proj_{nullptr}, modulation_{nullptr}, qkv_proj_{nullptr}, o_proj_{nullptr},
      up_proj_{nullptr}, down_proj_{nullptr};
  std::shared_ptr<TokenMixer> scan_;
  vision::WindowCore windows_{nullptr};
};

}  // namespace

RegistryRow rows::lamamba() {
  return {.name = "lamamba",
          .kind = Kind::block,
          .family = "linear_and_recurrent",
          .paper = "LaMamba-Diff (arXiv 2408.02615)",
          .year = 2024,
          // Across: from the embeddings that condition the image.
          .patterns = {true, false, true, false},
          .grid = true,
          .cost = "O(N)",
          .parameters = {{"dim", 64, "channels C of the tokens, and of the embeddings that condition them (memory)"},
                         {"heads", 4, "heads of the attention in windows"},
                         {"window", 8, "cells of a window's side"},
                         {"shift", "alternate", "windows shifted by half: alternate (in odd layers), always, never"},
                         {"expand", 2, "inner channels of the scan are expand * dim"},
                         {"state_dim", 1, "states of an inner channel of the scan"},
                         {"mlp_ratio", 4, "inner channels of the channel mixer are mlp_ratio * dim"},
                         {"scan", true, "the scan is there"},
                         {"attention", true, "the attention is there"},
                         {"causal", false, "only false is accepted"}},
          .small = {{"dim", 16}, {"heads", 2}, {"window", 3}, {"shift", "always"}, {"mlp_ratio", 2}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("lamamba", json);
            LaMambaConfig c;
            c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
            c.heads = reader.integer("heads", c.heads, 1, 1 << 16);
            require(c.dim % c.heads == 0, "lamamba: dim = {} is no multiple of heads = {}", c.dim, c.heads);
            c.window = reader.integer("window", c.window, 1, 1 << 10);
            c.shift = reader.choice("shift", c.shift, {"alternate", "always", "never"});
            c.expand = reader.integer("expand", c.expand, 1, 64);
            c.state_dim = reader.integer("state_dim", c.state_dim, 1, 1 << 16);
            c.mlp_ratio = reader.integer("mlp_ratio", c.mlp_ratio, 1, 1 << 10);
            c.scan = reader.get("scan", c.scan);
            c.attention = reader.get("attention", c.attention);
            require(!reader.get("causal", false), "lamamba: causal = true is not accepted: every cell sees all others");
            reader.finish();
            return std::make_shared<LaMamba>(c);
          }};
}

}  // namespace heed
