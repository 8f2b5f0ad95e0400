// Mamba-2: a state-space model with one decay a head, computed as linear attention by chunks.
#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/norm.h"
#include "mixers/linear/selective_ssm.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

struct Mamba2Config {
  int64_t dim = 64, expand = 2, head_dim = 64, state_dim = 128, groups = 1, conv = 4;
  bool norm_before_gate = false;
  int64_t inner() const { return expand * dim; }
  int64_t heads() const { return inner() / head_dim; }
};

class Mamba2 final : public RecurrentMixer {
 public:
  explicit Mamba2(const Mamba2Config& config) : RecurrentMixer("mamba2", config.dim, true), config_(config) {
    const int64_t inner = config.inner(), shared = config.groups * config.state_dim, heads = config.heads();
    in_proj_ = linear::wide_projection(project("in_proj", config.dim, 2 * inner + 2 * shared + heads));
    conv_ = register_module("conv", nn::ShortConv(inner + 2 * shared, config.conv, true));
    o_proj_ = project("o_proj", inner, config.dim);
    norm_ = register_module("norm", nn::Norm(formats::NormKind::rms, inner, 1e-5));
    a_log_ = register_parameter("a_log", torch::empty({heads}).uniform_(1, 16).log());
    skip_ = register_parameter("skip", torch::ones({heads}));
    step_bias_ = register_parameter("step_bias", linear::initial_step_bias(heads));
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    const auto& c = config_;
    const int64_t inner = c.inner(), shared = c.groups * c.state_dim;
    const auto parts = in_proj_(call.x).split_with_sizes({inner, inner + 2 * shared, c.heads()}, 2);
    const auto mixed = call.conv(1, conv_, parts[1]).split_with_sizes({inner, shared, shared}, 2);
    const auto x = split_heads(mixed[0], c.heads()), b = split_heads(mixed[1], c.groups),
               read = split_heads(mixed[2], c.groups);
    const auto wide = [](const Tensor& t) { return t.scalar_type() == torch::kFloat64 ? t : t.to(torch::kFloat32); };
    const auto step = torch::softplus(wide(parts[2]) + wide(step_bias_)).transpose(1, 2);  // [B, H, N]
    const auto decay = step * -torch::exp(wide(a_log_)).view({1, -1, 1});
    const auto written = x * step.unsqueeze(-1).to(x.scalar_type());
    const auto y = call.linear(0, read, b, written, decay) + x * skip_.view({1, -1, 1, 1});
    const auto gate = torch::silu(parts[0]);
    const auto joined = join_heads(y);
    return o_proj_(c.norm_before_gate ? norm_(joined) * gate : norm_(joined * gate));
  }

 private:
  Mamba2Config config_;
  torch::nn::Linear in_proj_{nullptr}, o_proj_{nullptr};
  nn::ShortConv conv_{nullptr};
  nn::Norm norm_{nullptr};
  Tensor a_log_, skip_, step_bias_;  // [H]
};

}  // namespace

RegistryRow rows::mamba2() {
  return {.name = "mamba2",
          .family = "linear_and_recurrent",
          .paper = "Transformers are SSMs (arXiv 2405.21060)",
          .year = 2024,
          .patterns = {false, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .cost = "O(N)",
          .parameters = {{"dim", 64, "channels C of the tokens"},
                         {"expand", 2, "inner channels are expand * dim"},
                         {"head_dim", 64, "inner channels of a head"},
                         {"state_dim", 128, "size of the state of a channel"},
                         {"groups", 1, "groups of heads that share B and C"},
                         {"conv", 4, "tokens of the short convolution"},
                         {"norm_before_gate", false, "the output is normed before it is gated"},
                         {"causal", true, "only true is accepted"}},
          .small = {{"dim", 24}, {"head_dim", 8}, {"state_dim", 6}, {"groups", 2}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("mamba2", json);
            Mamba2Config c;
            c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
            c.expand = reader.integer("expand", c.expand, 1, 64);
            c.head_dim = reader.integer("head_dim", std::min<int64_t>(c.head_dim, c.inner()), 1, 1 << 16);
            c.state_dim = reader.integer("state_dim", c.state_dim, 1, 1 << 16);
            c.groups = reader.integer("groups", c.groups, 1, 1 << 16);
            c.conv = reader.integer("conv", c.conv, 1, 64);
            c.norm_before_gate = reader.get("norm_before_gate", false);
            require(reader.get("causal", true), "mamba2: causal = false is not accepted: a scan has a direction");
            require(c.inner() % c.head_dim == 0, "mamba2: {} inner channels are no multiple of head_dim = {}",
                    c.inner(), c.head_dim);
            require(c.heads() % c.groups == 0, "mamba2: {} heads are no multiple of groups = {}", c.heads(), c.groups);
            reader.finish();
            return std::make_shared<Mamba2>(c);
          }};
}

}  // namespace heed
