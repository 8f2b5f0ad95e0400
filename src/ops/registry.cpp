// Operators: kernels under their own names, without projections.
#include "heed/registry.h"

namespace heed {

std::span<const RegistryRow> operator_rows() {
  static const std::vector<Parameter> scores{
      {"causal", false, "bottom-right aligned"},
      {"window", 0, "visible keys, the own one included; 0: no window"},
      {"sinks", 0, "first keys that a window keeps visible"},
      {"mask", "", "terms such as causal & (window(256) | sinks(4)); in place of causal, window, sinks"},
      {"scale", 0.0, "0: 1 / sqrt(D)"},
      {"softcap", 0.0, "c > 0: c * tanh(s / c)"},
      {"normalizer", "softmax", "softmax, sigmoid, clipped_softmax"},
      {"sigmoid_bias", nullptr, "default -log(M)"},
      {"gamma", 0.0, "clipped softmax"},
      {"zeta", 1.0, "clipped softmax"},
      {"gamma_per_key", false, "clipped softmax: gamma is divided by the number of keys a row sees"},
      {"dropout", 0.0, "of weights, after the normaliser"},
  };
  auto with = [](std::vector<Parameter> more) {
    auto all = scores;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  static const std::vector<RegistryRow> rows{
      {.name = "flash",
       .kind = Kind::op,
       .family = "exact_and_systems",
       .paper = "FlashAttention (arXiv 2205.14135)",
       .year = 2022,
       .patterns = {true, true, true, true},
       .core = true,
       .training_free = true,
       .exact = true,
       .cost = "O(N^2)",
       .parameters = scores},
      {.name = "block_sparse",
       .kind = Kind::op,
       .family = "exact_and_systems",
       .paper = "FlashAttention, block-sparse form (arXiv 2205.14135)",
       .year = 2022,
       .patterns = {true, true, true, true},
       .core = true,
       .training_free = true,
       .cost = "O(N^2 s)",
       .parameters = with({{"query_block", 64, "queries a block"}, {"key_block", 64, "keys a block"}})},
      {.name = "decode",
       .kind = Kind::op,
       .family = "exact_and_systems",
       .paper = "split-KV decoding with an exact merge",
       .year = 2023,
       .patterns = {false, true, false, true},
       .core = true,
       .training_free = true,
       .exact = true,
       .cost = "O(M)",
       .parameters = {{"causal", true, "bottom-right aligned"},
                      {"scale", 0.0, "0: 1 / sqrt(D)"},
                      {"softcap", 0.0, "c > 0: c * tanh(s / c)"},
                      {"window", 0, "visible keys, the own one included; 0: no window"},
                      {"sinks", 0, "first keys that a window keeps visible"}}},
      {.name = "lean_attention",
       .kind = Kind::op,
       .family = "exact_and_systems",
       .paper = "Lean Attention: Hardware-Aware Scalable Attention Mechanism for the Decode-Phase of Transformers "
                "(arXiv 2405.10480)",
       .year = 2024,
       .patterns = {false, true, false, true},
       .core = true,
       .training_free = true,
       .exact = true,
       .cost = "O(M)",
       .parameters = {{"causal", true, "bottom-right aligned"},
                      {"scale", 0.0, "0: 1 / sqrt(D)"},
                      {"softcap", 0.0, "c > 0: c * tanh(s / c)"},
                      {"window", 0, "visible keys, the own one included; 0: no window"},
                      {"sinks", 0, "first keys that a window keeps visible"}}},
      {.name = "linear_chunk",
       .kind = Kind::op,
       .family = "linear_and_recurrent",
       .paper = "Gated Linear Attention Transformers with Hardware-Efficient Training (arXiv 2312.06635); Lightning "
                "Attention-2 (arXiv 2401.04658)",
       .year = 2023,
       .patterns = {true, true, true, false},
       .cost = "O(N)",
       .parameters = {{"causal", true, "false: all keys at once, no decay"},
                      {"scale", 1.0, "of q"},
                      {"normalize", false, "divide by the sum of the weights"},
                      {"eps", 1e-6, "normalize: the least denominator"},
                      {"chunk", 64, "tokens a chunk, 1 to 512"}}},
      {.name = "delta_chunk",
       .kind = Kind::op,
       .family = "linear_and_recurrent",
       .paper = "Parallelizing Linear Transformers with the Delta Rule over Sequence Length (arXiv 2406.06484)",
       .year = 2024,
       .patterns = {false, true, false, false},
       .cost = "O(N)",
       .parameters = {{"scale", 1.0, "of q"}, {"chunk", 64, "tokens a chunk, 1 to 512"}}},
  };
  return rows;
}

}  // namespace heed
