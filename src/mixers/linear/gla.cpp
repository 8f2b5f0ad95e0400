// Linear attention whose state forgets per channel, as the token says.
#include "heed/nn/norm.h"
#include "mixers/linear/linear_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

struct GlaConfig {
  int64_t gate_rank = 16;
  double temperature = 16;  ///< the gate is sigmoid(.)^(1 / temperature)
  double least_log_decay = -std::numeric_limits<double>::infinity();
  std::string gate = "channel";
};

/// Projections start like those of all mixers: the authors' Xavier gain of 2^-2.5 is made for wide models, and narrow
/// ones learn from it late or never.
class Gla final : public linear::LinearAttention {
 public:
  Gla(const HeadsConfig& config, GlaConfig own) : LinearAttention("gla", config), own_(std::move(own)) {
    const bool per_channel = own_.gate == "channel";
    if (own_.gate != "none") {
      gate_down_ = project("decay_down", config.dim, own_.gate_rank);
      gate_up_ = project("decay_up", own_.gate_rank, per_channel ? config.keys() : config.heads, true);
    }
    swish_proj_ = project("gate_proj", config.dim, config.values());
    norm_ = register_module("norm", nn::Norm(formats::NormKind::rms, config.head_dim, 1e-5));
  }

 protected:
  Tensor attend(RecurrentCall& call, const Heads& heads) override {
    ops::LinearChunkOptions options;
    options.scale = 1 / std::sqrt(static_cast<double>(config_.key_dim));
    return norm_(call.linear(0, heads.q, heads.k, heads.v, log_decay(call.x), options));
  }

  Tensor before_output(RecurrentCall& call, Tensor joined) override {
    return joined * torch::silu(swish_proj_(call.x));
  }

 private:
  /// In float32 at least: a sum of many of them is exponentiated.
  std::optional<Tensor> log_decay(const Tensor& x) {
    if (own_.gate == "none") return std::nullopt;
    auto logits = gate_up_(gate_down_(x));
    if (logits.scalar_type() != torch::kFloat64) logits = logits.to(torch::kFloat32);
    auto decay = torch::log_sigmoid(logits) / own_.temperature;
    if (std::isfinite(own_.least_log_decay)) decay = decay.clamp_min(own_.least_log_decay);
    return own_.gate == "channel" ? split_heads(decay, config_.heads) : decay.transpose(1, 2);
  }

  GlaConfig own_;
  torch::nn::Linear gate_down_{nullptr}, gate_up_{nullptr}, swish_proj_{nullptr};
  nn::Norm norm_{nullptr};
};

}  // namespace

RegistryRow rows::gla() {
  return {
      .name = "gla",
      .family = "linear_and_recurrent",
      .paper = "Gated Linear Attention Transformers (arXiv 2312.06635)",
      .year = 2023,
      .patterns = {false, true, false, false},
      .step = true,
      .fixed_state = true,
      .one_way = true,
      .cost = "O(N)",
      .parameters = linear::heads_parameters({{"gate", "channel", "what forgets: channel, head, or none"},
                                              {"gate_rank", 16, "inner size of the gate's projection"},
                                              {"gate_temperature", 16.0, "gates are sigmoid(.)^(1 / temperature)"},
                                              {"least_log_decay", nullptr, "gates are clamped from below; null: not"}}),
      .small = {{"dim", 24}, {"heads", 2}, {"gate_rank", 5}, {"gate_temperature", 2.0}},
      .make = linear::heads_maker(
          "gla",
          [](const HeadsConfig& config, ConfigReader& reader) {
            require(config.causal, "gla: causal = false is not accepted: gates have a direction");
            GlaConfig own;
            own.gate = reader.choice("gate", own.gate, {"channel", "head", "none"});
            own.gate_rank = reader.integer("gate_rank", own.gate_rank, 1, 1 << 16);
            own.temperature = reader.get("gate_temperature", own.temperature);
            require(own.temperature > 0, "gla: gate_temperature = {}: more than 0 is accepted", own.temperature);
            own.least_log_decay = reader.get("least_log_decay", own.least_log_decay);
            require(own.least_log_decay < 0, "gla: least_log_decay = {}: less than 0 is accepted", own.least_log_decay);
            return std::make_shared<Gla>(config, own);
          },
          true, 0.5)};
}

}  // namespace heed
