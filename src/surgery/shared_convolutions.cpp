#include "heed/surgery/shared_convolutions.h"

#include "heed/error.h"

namespace heed::surgery {
namespace {

/// The name in a dense layer of what a layer of shared convolutions calls `name`.
std::string dense_name(std::string name) {
  for (const char* map : {"q", "k", "v", "o"}) {
    const std::string own = std::string("self_attn.") + map + ".";
    if (const auto at = name.find(own); at != name.npos)
      return name.replace(at, own.size(), std::string("self_attn.") + map + "_proj.");
  }
  return name;
}

void check(const VisionConfig& c) {
  const formats::AttentionTraits& a = c.attention;
  require(c.kv_heads == c.heads && c.heads * c.head_dim == c.dim && !a.qk_norm && a.scale == 0 && a.softcap == 0 &&
              c.positions.kind == "none",
          "shared convolutions: attention of {} heads and {} key heads of {} in {} channels, with norms, scales, soft "
          "caps or positions of its own: plain heads that share the channels are accepted",
          c.heads, c.kv_heads, c.head_dim, c.dim);
  require(c.block.channel_mixer == "mlp", "shared convolutions: channel mixer {}: mlp is accepted",
          c.block.channel_mixer);
  for (const auto& layer : c.layers)
    require(layer.mixer == "dense" && layer.config.empty(), "shared convolutions: a layer of {} {}: dense is accepted",
            layer.mixer, layer.config.dump());
}

}  // namespace

VisionTransformer with_shared_convolutions(const VisionTransformer& model, bool optical) {
  auto config = model->config();
  check(config);
  config.attention = {};
  config.block.channel_mixer = "conv_share_mlp";
  for (auto& layer : config.layers) layer = {"conv_share_attention", {{"optical", optical}}};
  VisionTransformer changed(config, model->parameters().front().scalar_type());
  const auto old = model->named_parameters();
  torch::NoGradGuard no_grad;
  for (auto& entry : changed->named_parameters()) {
    auto& target = entry.value();
    if (const auto* from = old.find(dense_name(entry.key())))
      target.copy_(from->view(target.sizes()));
    else
      target.zero_();  // a bias that the linear map did not have
  }
  changed->train(model->is_training());
  return changed;
}

}  // namespace heed::surgery
