#include "heed/models/transformer.h"

#include <cmath>
#include <map>

#include "heed/error.h"
#include "heed/mixers/attention_share.h"
#include "heed/mixers/shared_parameters.h"
#include "heed/mixers/taps.h"
#include "heed/models/bare_block.h"
#include "heed/models/reversible.h"
#include "heed/nn/start.h"
#include "heed/registry.h"
#include "models/mixer_parameters.h"

namespace heed {

using formats::NormPlacement;
using torch::Tensor;

bool has_parameter(std::string_view mixer, std::string_view key) {
  for (const auto& row : mixer_rows()) {
    if (row.name != mixer) continue;
    return std::any_of(row.parameters.begin(), row.parameters.end(), [&](const auto& p) { return p.name == key; });
  }
  return false;
}

namespace {

/// The mixer's own keys, and beneath them what the model says of all layers and the mixer has a parameter for.
nlohmann::json mixer_config(const TransformerConfig& c, const LayerPlan& plan, bool causal) {
  const formats::AttentionTraits plain;
  const auto& a = c.attention;
  nlohmann::json json{{"dim", c.dim},           {"heads", c.heads},           {"kv_heads", c.kv_heads},
                      {"head_dim", c.head_dim}, {"max_length", c.max_length}, {"positions", c.positions.to_json()}};
  for (const char* key : {"heads", "kv_heads", "head_dim", "max_length", "positions"})
    if (!has_parameter(plan.mixer, key)) json.erase(key);
  if (c.grid.size() == 2) {
    json.update({{"height", c.grid[0]}, {"width", c.grid[1]}, {"side", std::max(c.grid[0], c.grid[1])}});
    for (const char* key : {"height", "width", "side"})
      if (!has_parameter(plan.mixer, key)) json.erase(key);
  }
  // A mixer that knows one direction alone refuses the other.
  if (!causal || has_parameter(plan.mixer, "causal")) json["causal"] = causal;
  // Of these a mixer is told only what is out of the ordinary.
  if (a.qkv_bias != plain.qkv_bias) json["qkv_bias"] = a.qkv_bias;
  if (a.output_bias != plain.output_bias) json["output_bias"] = a.output_bias;
  if (a.qk_norm) json.update({{"qk_norm", name_of(*a.qk_norm)}, {"norm_eps", c.norm_eps}});
  if (a.scale != plain.scale) json["scale"] = a.scale;
  if (a.softcap != plain.softcap) json["softcap"] = a.softcap;
  if (!plan.config.is_null()) json.update(plan.config);
  return json;
}

}  // namespace

std::shared_ptr<TokenMixer> make_layer_mixer(const TransformerConfig& c, size_t layer, bool causal) {
  const auto& plan = c.layers.at(layer);
  return make_mixer(plan.mixer, mixer_config(c, plan, causal));
}

TransformerBlockImpl::TransformerBlockImpl(const TransformerConfig& c, size_t layer, bool causal)
    : placement_(c.block.placement),
      one_residual_(c.layers.at(layer).one_residual),
      plain_(c.block.layer_scale == 0 && c.block.norm != formats::NormKind::batch) {
  const auto& plan = c.layers.at(layer);
  const auto norm = [&](const char* name) { return register_module(name, nn::Norm(c.block.norm, c.dim, c.norm_eps)); };
  input_norm = norm("input_layernorm");
  mixer = register_module("self_attn", make_layer_mixer(c, layer, causal));
  const auto channels = make_channel_mixer(c.block, c.dim, c.hidden);
  require(channels || placement_ == NormPlacement::pre,
          "a block of placement {} has a channel mixer; without one, pre is accepted", name_of(placement_));
  if (!plan.before_tokens.empty())
    before_tokens = register_module("before_tokens", make_local_conv(plan.before_tokens, c.dim));
  if (!plan.before_channels.empty())
    before_channels = register_module("before_channels", make_local_conv(plan.before_channels, c.dim));
  require(
      (!before_tokens && !before_channels && !one_residual_) || (placement_ == NormPlacement::pre && channels),
      "a block with local convolutions or one residual: placement {} and channel mixer {}: pre, and one, are accepted",
      name_of(placement_), c.block.channel_mixer);
  require(!one_residual_ || !before_channels,
          "a block of one residual has no stream between its mixers for a convolution before the second");
  if (channels) {
    mlp_norm = c.shared_norm ? input_norm : norm("post_attention_layernorm");
    mlp = register_module("mlp", channels);
  }
  if (placement_ == NormPlacement::sandwich) {
    mixer_output_norm = norm("mixer_output_norm");
    mlp_output_norm = norm("mlp_output_norm");
  }
  require(!causal || c.block.norm != formats::NormKind::batch,
          "a norm of kind batch sees all tokens: in causal layers rms, rms_plus_one, layer and srms are accepted");
  const double scale = c.block.layer_scale;
  require(scale == 0 || (scale > 0 && std::isfinite(scale)), "layer_scale = {}: 0 (none) or more is accepted", scale);
  require(scale == 0 || (placement_ == NormPlacement::pre && !one_residual_),
          "layer_scale = {}: blocks of placement pre with a residual around each mixer are accepted", scale);
  if (scale == 0) return;
  mixer_scale = register_parameter("mixer_scale", torch::full({c.dim}, scale));
  if (mlp) mlp_scale = register_parameter("mlp_scale", torch::full({c.dim}, scale));
}

Tensor TransformerBlockImpl::mix_tokens(const MixerInput& input, const Tensor& normed, MixerState* state) {
  auto inner = input;
  inner.x = normed;
  inner.residual = input.x;
  const auto mixed = mixer->forward(inner, state);
  require(mixed.size(1) == normed.size(1), "a layer's mixer gives {} tokens of {}: as many are accepted", mixed.size(1),
          normed.size(1));
  return mixer_scale.defined() ? mixed * mixer_scale : mixed;
}

Tensor TransformerBlockImpl::mix_channels(const MixerInput& input, Tensor normed) {
  if (input.taps) input.taps->mlp_input(input.layer, normed);
  auto added = mlp->forward(normed, input.grid);
  if (mlp_output_norm) added = mlp_output_norm(added);
  if (mlp_scale.defined()) added = added * mlp_scale;
  if (input.taps) input.taps->mlp_output(input.layer, added);
  return added;
}

Tensor TransformerBlockImpl::token_half(const MixerInput& given, MixerState* state) {
  auto input = given;
  auto& x = input.x;
  require(!one_residual_, "a block of one residual has no halves; token reducers between them are not accepted");
  if (input.taps) input.taps->block_input(input.layer, x);
  if (before_tokens) x = before_tokens->forward(x, input);
  switch (placement_) {
    case NormPlacement::pre:
      return x + mix_tokens(input, input_norm(x), state);
    case NormPlacement::post:
      return input_norm(x + mix_tokens(input, x, state));
    case NormPlacement::sandwich:
      return x + mixer_output_norm(mix_tokens(input, input_norm(x), state));
    default:
      fail("a block of placement {} has no halves of one stream; pre, post and sandwich are accepted",
           name_of(placement_));
  }
}

Tensor TransformerBlockImpl::channel_half(const MixerInput& input, const Tensor& residual) {
  const auto y = before_channels ? before_channels->forward(residual, input) : residual;
  auto out = y;
  if (mlp)
    out =
        placement_ == NormPlacement::post ? mlp_norm(y + mix_channels(input, y)) : y + mix_channels(input, mlp_norm(y));
  if (input.taps) input.taps->block_output(input.layer, out);
  return out;
}

Tensor TransformerBlockImpl::forward(const MixerInput& input, MixerState* state) {
  if (placement_ != NormPlacement::parallel && !one_residual_) return channel_half(input, token_half(input, state));
  auto own = input;
  if (own.taps) own.taps->block_input(own.layer, own.x);
  if (before_tokens) own.x = before_tokens->forward(own.x, own);
  const auto mixed = mix_tokens(own, input_norm(own.x), state);
  auto out =
      one_residual_ ? own.x + mix_channels(own, mlp_norm(mixed)) : own.x + mixed + mix_channels(own, mlp_norm(own.x));
  if (own.taps) own.taps->block_output(own.layer, out);
  return out;
}

std::vector<TransformerBlock> make_blocks(torch::nn::Module& owner, const TransformerConfig& config, bool causal,
                                          torch::ScalarType dtype) {
  require(!config.layers.empty(), "a model has at least one layer");
  std::vector<TransformerBlock> blocks;
  std::map<std::string, TokenMixer*> first_of;  // layers that have parameters in common, by mixer
  torch::NoGradGuard no_grad;
  // What is added twice a layer starts smaller, so that the residual stream keeps its size over the depth.
  const double residual = 1 / std::sqrt(2.0 * double(config.layers.size()));
  for (size_t i = 0; i < config.layers.size(); ++i) {
    auto block = owner.register_module("layers_" + std::to_string(i), TransformerBlock(config, i, causal));
    if (block->mlp) block->mlp->output_weight().mul_(residual);
    nn::scale_outputs(*block->mixer, residual);
    if (auto* shares = dynamic_cast<SharedParameters*>(block->mixer.get())) {
      const auto [first, alone] = first_of.try_emplace(config.layers[i].mixer, block->mixer.get());
      if (!alone) shares->take_from(*first->second);
    }
    block->to(dtype);
    blocks.push_back(std::move(block));
  }
  return blocks;
}

void check_ids(const Tensor& ids, int64_t count, const char* what) {
  require(ids.dim() == 2 && ids.scalar_type() == torch::kInt64, "{}: int64 [batch, tokens] is accepted", what);
  if (ids.numel() == 0) return;
  const auto [low, high] = torch::aminmax(ids);
  const int64_t smallest = low.item<int64_t>(), largest = high.item<int64_t>();
  require(smallest >= 0 && largest < count, "{}: {} is given, 0 to {} is accepted", what,
          smallest < 0 ? smallest : largest, count - 1);
}

Tensor run_blocks(std::vector<TransformerBlock>& blocks, MixerInput input,
                  const std::vector<std::unique_ptr<MixerState>>* states, uint64_t seed) {
  if (!blocks.empty() && blocks.front()->placement() == NormPlacement::reversible)
    return run_reversible_blocks(blocks, input, seed, states);
  AttentionShare own;
  if (!input.share) input.share = &own;
  auto& share = *input.share;
  share.embedded = input.x;
  auto companion = share.companion;
  input.layer.count = int64_t(blocks.size());
  for (size_t i = 0; i < blocks.size(); ++i) {
    input.layer.index = int64_t(i);
    input.seed = seed * 0x9E3779B97F4A7C15ull + i;
    if (companion.defined()) {
      MixerInput beside;
      beside.x = companion;
      beside.layer = input.layer;
      beside.seed = input.seed;
      beside.share = &share;
      share.beside = true;
      companion = blocks[i]->forward(beside);
      share.beside = false;
    }
    input.x = blocks[i]->forward(input, states ? states->at(i).get() : nullptr);
  }
  return input.x;
}

}  // namespace heed
