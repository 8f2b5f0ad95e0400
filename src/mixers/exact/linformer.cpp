// Keys and values projected from N rows to k learned mixtures (arXiv 2006.04768). Bidirectional only; the length is
// bounded.
#include <cmath>

#include "heed/error.h"
#include "mixers/rows.h"

namespace heed {
namespace {

class Linformer final : public AttentionMixer {
 public:
  Linformer(const AttentionConfig& c, int64_t rank, const std::string& sharing) : AttentionMixer("linformer", c) {
    // N(0, 1/k): not fixed by the paper.
    const int64_t heads = sharing == "none" ? c.kv_heads : 1;
    const auto matrix = [&] { return torch::randn({heads, rank, c.max_length}) / std::sqrt(double(rank)); };
    k_rows_ = register_parameter("k_rows", matrix());
    v_rows_ = sharing == "key_value" ? k_rows_ : register_parameter("v_rows", matrix());
  }

  std::unique_ptr<MixerState> make_state(int64_t) const override {
    fail("linformer has no step: every projected key mixes the whole sequence");
  }

  torch::Tensor mix(const CoreInput& in) override {
    const int64_t m = in.k.size(2);
    require(m <= config_.max_length, "linformer: {} tokens: at most max_length = {} are accepted", m,
            config_.max_length);
    require(!in.cu_seqlens, "linformer: packed sequences are not accepted: the projection mixes all tokens");
    auto k = in.k, v = in.v;
    auto options = options_for(in);
    if (in.key_padding) {
      const auto real = in.key_padding->logical_not().unsqueeze(1).unsqueeze(-1).to(k.scalar_type());
      k = k * real;
      v = v * real;
      options.q_documents.reset();
      options.k_documents.reset();
    }
    const auto mixed = [m](const torch::Tensor& rows, const torch::Tensor& x) {
      return torch::matmul(rows.slice(2, 0, m).to(x.scalar_type()), x);
    };
    return attention(in.q, mixed(k_rows_, k), mixed(v_rows_, v), options);
  }

 private:
  torch::Tensor k_rows_, v_rows_;
};

}  // namespace

RegistryRow rows::linformer() {
  return {
      .name = "linformer",
      .family = "exact_and_systems",
      .paper = "Linformer: Self-Attention with Linear Complexity (arXiv 2006.04768)",
      .year = 2020,
      .patterns = {true, false, true, false},
      .fixed_n = true,
      .cost = "O(N k)",
      .parameters = attention_parameters(
          {{"rank", 128, "k: rows that keys and values are projected to"},
           {"sharing", "layer", "none: matrices a head; layer: shared by the heads; key_value: one matrix for both"}}),
      .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"max_length", 64}, {"rank", 6}, {"sharing", "none"}},
      .make = attention_maker("linformer", [](AttentionConfig config, ConfigReader& reader) {
        const auto causal = reader.get("causal", false);
        require(!causal,
                "linformer: causal = true leaks the future through the projection: causal = false is accepted");
        config.causal = false;
        require(
            config.positions.kind != "alibi" && config.positions.kind != "t5",
            "linformer: positions {}: projected keys have no position; none, rope, learned or sinusoidal is accepted",
            config.positions.kind);
        const auto rank = reader.integer("rank", 128, 1, 1 << 20);
        return std::make_shared<Linformer>(config, rank,
                                           reader.choice("sharing", "layer", {"none", "layer", "key_value"}));
      })};
}

}  // namespace heed
