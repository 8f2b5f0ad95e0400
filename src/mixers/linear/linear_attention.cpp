#include "mixers/linear/linear_attention.h"

#include "heed/error.h"

namespace heed::linear {

using torch::Tensor;

LinearAttention::LinearAttention(std::string name, const HeadsConfig& config)
    : RecurrentMixer(std::move(name), config.dim, config.causal), config_(config) {
  q_proj_ = project("q_proj", config.dim, config.keys());
  k_proj_ = project("k_proj", config.dim, config.keys());
  v_proj_ = project("v_proj", config.dim, config.values());
  o_proj_ = project("o_proj", config.values(), config.dim);
}

Tensor LinearAttention::run(RecurrentCall& call) {
  const auto& source = call.input.memory ? *call.input.memory : call.x;
  const auto heads = [&](torch::nn::Linear& projection, const Tensor& x) {
    return split_heads(projection(x), config_.heads);
  };
  const auto out = attend(call, {heads(q_proj_, call.x), heads(k_proj_, source), heads(v_proj_, source)});
  return o_proj_(before_output(call, join_heads(out)));
}

Tensor LinearAttention::mix(const CoreInput& in) {
  MixerInput input;
  input.x = join_heads(in.q);  // for its sizes and dtype; the core is given below
  input.key_padding = in.key_padding;
  input.cu_seqlens = in.cu_seqlens;
  input.positions = in.q_positions;
  input.grid = in.grid;
  RecurrentCall call(input, nullptr);
  // A head of keys or values that several query heads share stands once for each.
  const auto shared = [&](const Tensor& t) {
    const int64_t heads = in.q.size(1);
    require(t.size(1) > 0 && heads % t.size(1) == 0,
            "{}: {} query heads over {} of keys or values; a multiple is accepted", mixer_name(), heads, t.size(1));
    return t.size(1) == heads ? t : t.repeat_interleave(heads / t.size(1), 1);
  };
  return attend(call, {in.q, shared(in.k), shared(in.v)});
}

}  // namespace heed::linear
