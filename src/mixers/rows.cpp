#include "mixers/rows.h"

namespace heed::rows {

std::vector<Parameter> attention_parameters(std::vector<Parameter> own) {
  std::vector<Parameter> all{
      {"dim", 64, "channels C of the tokens"},
      {"heads", 4, "query heads"},
      {"kv_heads", 0, "key and value heads; 0: as many as heads"},
      {"head_dim", 0, "head size; 0: dim / heads"},
      {"causal", true, "token i sees tokens up to i"},
      {"bias", false, "biases on all projections"},
      {"qkv_bias", false, "biases on the projections to q, k and v; default: bias"},
      {"output_bias", false, "bias on the output projection; default: bias"},
      {"qk_norm", "none", "none, rms or layer: norm over each head's q and k, before positions"},
      {"norm_eps", 1e-5, "of qk_norm"},
      {"scale", 0.0, "of the logits; 0: 1 / sqrt(head_dim)"},
      {"softcap", 0.0, "c > 0: logits s become c tanh(s / c)"},
      {"dropout", 0.0, "of attention weights, in training"},
      {"max_length", 2048, "length that length constants are taken from"},
      {"positions", "none", "none, rope, alibi, t5, learned, sinusoidal, or an object with kind and its options"}};
  all.insert(all.end(), own.begin(), own.end());
  return all;
}

}  // namespace heed::rows
