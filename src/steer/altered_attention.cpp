#include "steer/altered_attention.h"

namespace heed::steer {

using torch::Tensor;

AlteredAttention::AlteredAttention(const std::vector<int64_t>& heads) : heads_(torch::tensor(heads, torch::kInt64)) {}

Tensor AlteredAttention::attend_chunk(const Chunk& chunk) {
  Tensor lse;
  const auto out = attend_slots(chunk, chunk.call.options.mask, &lse);
  return change(chunk, out, lse);
}

Tensor AlteredAttention::attend_step(const Chunk& chunk) {
  const auto result = decode(chunk.q, everything(), decode_options(chunk, chunk.call.options.mask));
  return change(chunk, result.out, result.lse.squeeze(3));
}

Tensor AlteredAttention::change(const Chunk& chunk, Tensor out, const Tensor& lse) {
  if (heads_.numel() == 0) return out;
  const auto changed = alter(chunk, chosen(out), chosen(lse));
  return out.index_copy(1, heads_, changed.to(out.scalar_type()));
}

AttentionOptions AlteredAttention::head_options(const Chunk& chunk) const {
  AttentionOptions options = chunk.call.options;
  options.q_to_k_head = options.q_to_v_head = heads_.div(group(chunk), "floor").to(torch::kInt32);
  return options;
}

AlteredAttention::Part AlteredAttention::attend_among(const Chunk& chunk, const Tensor& lse,
                                                      const Tensor& among) const {
  auto options = head_options(chunk);
  options.bias = torch::zeros(among.sizes()).masked_fill(among.logical_not(), -INFINITY);
  const auto part = attention_with_lse(chosen(chunk.q), kv_.keys(), kv_.values(), options);
  return {part.out.to(torch::kFloat32), (part.lse - lse).exp().unsqueeze(3)};
}

}  // namespace heed::steer
