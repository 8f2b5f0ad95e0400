// Linear attention with a constant decay per head.
#include "heed/error.h"
#include "heed/nn/positions.h"
#include "mixers/linear/linear_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

class LightningAttention final : public linear::LinearAttention {
 public:
  LightningAttention(const HeadsConfig& config, bool decays) : LinearAttention("lightning_attention", config) {
    const auto slopes = nn::alibi_slopes(config.heads);
    decay_ = register_buffer("log_decay", decays ? -slopes : torch::zeros_like(slopes));
  }

 protected:
  Tensor attend(RecurrentCall& call, const Heads& heads) override {
    const auto past = call.linear(0, heads.q, heads.k, heads.v, decay_);
    if (causal_) return past;
    // The future is the past of the reversed sequence; both hold the token itself.
    require(!call.input.cu_seqlens, "lightning_attention: cu_seqlens without causal is not accepted");
    auto reversed = call.input;
    if (reversed.key_padding) reversed.key_padding = reversed.key_padding->flip(1);
    RecurrentCall back(reversed, nullptr);
    const auto future = back.linear(0, heads.q.flip(2), heads.k.flip(2), heads.v.flip(2), decay_).flip(2);
    const auto own = (heads.q * call.heads_without_padding(heads.k)).sum(-1, true) * heads.v;
    return past + future - own;
  }

 private:
  Tensor decay_;  // [H]
};

}  // namespace

RegistryRow rows::lightning_attention() {
  return {.name = "lightning_attention",
          .family = "linear_and_recurrent",
          .paper = "Lightning Attention-2 (arXiv 2401.04658)",
          .year = 2024,
          .patterns = {true, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .core = true,
          .cost = "O(N)",
          .parameters = linear::heads_parameters(
              {{"decay", true, "head h forgets by exp(-slope_h) a token, with ALiBi's slopes; false: nothing"}}),
          .small = {{"dim", 24}, {"heads", 3}},
          .make = linear::heads_maker("lightning_attention", [](const HeadsConfig& config, ConfigReader& reader) {
            return std::make_shared<LightningAttention>(config, reader.get("decay", true));
          })};
}

}  // namespace heed
