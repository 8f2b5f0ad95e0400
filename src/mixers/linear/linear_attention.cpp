#include "mixers/linear/linear_attention.h"

#include "heed/error.h"

namespace heed::linear {

using torch::Tensor;

namespace {

/// [B, H / group, N, D] -> [B, H, N, D]: a head that several query heads share stands once for each.
Tensor repeated(const Tensor& t, int64_t group) { return group == 1 ? t : t.repeat_interleave(group, 1); }

}  // namespace

LinearAttention::LinearAttention(std::string name, const HeadsConfig& config)
    : RecurrentMixer(std::move(name), config.dim, config.causal), config_(config) {
  q_proj_ = project("q_proj", config.dim, config.keys(), config.qkv_bias);
  k_proj_ = project("k_proj", config.dim, config.keys() / config.group(), config.qkv_bias);
  v_proj_ = project("v_proj", config.dim, config.values() / config.group(), config.qkv_bias);
  o_proj_ = project("o_proj", config.values(), config.dim, config.output_bias);
  if (config.positions.kind != "none")
    positions_ = register_module("positions", nn::Positions(config.positions, config.dim, config.heads, config.causal));
}

Heads LinearAttention::project_heads(const RecurrentCall& call) {
  auto x = call.x, source = call.input.memory.value_or(x);
  Tensor at, source_at;
  if (positions_) {
    at = call.positions();
    source_at = call.input.memory ? torch::arange(source.size(1)) : at;
    source = positions_->embed(source, source_at);
    x = positions_->embed(x, at);
  }
  const int64_t group = config_.group(), kv_heads = config_.heads / group;
  auto q = split_heads(q_proj_(x), config_.heads), k = split_heads(k_proj_(source), kv_heads);
  if (positions_) {
    q = positions_->rotate(q, at);
    k = positions_->rotate(k, source_at);
  }
  return {q, repeated(k, group), repeated(split_heads(v_proj_(source), kv_heads), group)};
}

Tensor LinearAttention::run(RecurrentCall& call) {
  return o_proj_(before_output(call, join_heads(attend(call, project_heads(call)))));
}

Tensor LinearAttention::mix(const CoreInput& in) {
  MixerInput input;
  input.x = join_heads(in.q);  // for its sizes and dtype; the core is given below
  input.key_padding = in.key_padding;
  input.cu_seqlens = in.cu_seqlens;
  input.positions = in.q_positions;
  input.grid = in.grid;
  RecurrentCall call(input, nullptr);
  const auto shared = [&](const Tensor& t) {
    const int64_t heads = in.q.size(1);
    require(t.size(1) > 0 && heads % t.size(1) == 0,
            "{}: {} query heads over {} of keys or values; a multiple is accepted", mixer_name(), heads, t.size(1));
    return repeated(t, heads / t.size(1));
  };
  return attend(call, {in.q, shared(in.k), shared(in.v)});
}

}  // namespace heed::linear
