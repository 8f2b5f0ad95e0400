// Values that compete for what flows out of them, and outputs gated by what flows into them.
#include "mixers/linear/linear_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

class FlowAttention final : public linear::LinearAttention {
 public:
  FlowAttention(const HeadsConfig& config, double clamp, double eps)
      : LinearAttention("flow_attention", config), clamp_(clamp), eps_(eps) {}

 protected:
  bool takes_memory() const override { return !causal_; }

  Tensor attend(RecurrentCall& call, const Heads& heads) override {
    require(!call.input.cu_seqlens, "flow_attention: cu_seqlens is not accepted");
    const Heads wide = linear::wide(heads);
    const auto q = torch::sigmoid(wide.q), k = torch::sigmoid(wide.k);
    return (causal_ ? causal(call, q, k, wide.v) : bidirectional(call, q, k, wide.v)).to(heads.v.scalar_type());
  }

 private:
  /// (a + eps) . (b + eps) over the last dimension, kept.
  Tensor dot(const Tensor& a, const Tensor& b) const { return ((a + eps_) * (b + eps_)).sum(-1, true); }
  /// The same as a denominator: with eps = 0 nothing flows to or from padding, whose share is 0 all the same.
  Tensor flow(const Tensor& a, const Tensor& b) const { return dot(a, b).clamp_min(1e-30); }

  Tensor bidirectional(RecurrentCall& call, Tensor q, Tensor k, const Tensor& v) const {
    const bool self = !call.input.memory;
    Tensor hidden;
    auto sinks = torch::full({1, 1, 1, 1}, double(q.size(2)), v.options());
    auto sources = torch::full({1, 1, 1, 1}, double(k.size(2)), v.options());
    if (call.input.key_padding) {
      hidden = call.input.key_padding->view({-1, 1, k.size(2), 1});
      k = k.masked_fill(hidden, 0);
      sources = hidden.logical_not().sum(2, true).to(v.scalar_type());
      if (self) q = q.masked_fill(hidden, 0), sinks = sources;
    }
    const auto incoming = flow(q, k.sum(2, true)), outgoing = flow(k, q.sum(2, true));
    const auto conserved_incoming = dot(q, (k / outgoing).sum(2, true));
    auto conserved_outgoing = dot(k, (q / incoming).sum(2, true)).clamp(-clamp_, clamp_);
    if (hidden.defined()) conserved_outgoing = conserved_outgoing.masked_fill(hidden, -INFINITY);
    // Exponentials of at most `clamp` need no maximum taken off, and an item of padding alone stays finite.
    const auto strength = torch::exp(conserved_outgoing);
    const auto competition = strength * (sources / strength.sum(2, true).clamp_min(1e-30));
    return torch::sigmoid(conserved_incoming * sinks / sources.clamp_min(1)) *
           ops::linear_noncausal(q / incoming, k, v * competition);
  }

  /// Sums over the tokens so far, those of earlier calls included; t [B, H, N, D].
  static Tensor running(RecurrentCall& call, size_t slot, const Tensor& t) {
    auto sums = t.cumsum(2);
    auto& held = call.slot(slot);
    if (held.defined()) sums = sums + held;
    if (t.size(2) > 0) held = sums.narrow(2, t.size(2) - 1, 1).clone();
    return sums;
  }

  Tensor causal(RecurrentCall& call, Tensor q, Tensor k, const Tensor& v) const {
    auto present = torch::ones({call.batch(), 1, call.tokens(), 1}, v.options());
    present = call.heads_without_padding(present);
    q = call.heads_without_padding(q), k = call.heads_without_padding(k);
    const auto count = running(call, 1, present).clamp_min(1);
    const auto incoming = flow(q, running(call, 2, k)), outgoing = flow(k, running(call, 3, q));
    const auto conserved_incoming = dot(q, running(call, 4, call.heads_without_padding(k * count / outgoing))) / count;
    const auto conserved_outgoing =
        (dot(k, running(call, 5, call.heads_without_padding(q * count / incoming))) / count).clamp(-clamp_, clamp_);
    const auto strength = torch::exp(conserved_outgoing) * present;
    const auto competition = strength * (count / running(call, 6, strength).clamp_min(1e-30));
    const auto out = call.linear(0, q / incoming, k, v * competition, std::nullopt);
    return torch::sigmoid(conserved_incoming) * out;
  }

  double clamp_, eps_;
};

}  // namespace

RegistryRow rows::flow_attention() {
  return {.name = "flow_attention",
          .family = "linear_and_recurrent",
          .paper = "Flowformer (arXiv 2202.06258)",
          .year = 2022,
          .patterns = {true, true, true, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .core = true,
          .cost = "O(N)",
          .parameters = linear::heads_parameters({{"clamp", 1.0, "of conserved outgoing flows (5 for language models)"},
                                                  {"eps", 1e-6, "added to both factors of every flow"}}),
          .small = {{"dim", 24}, {"heads", 3}},
          .make = linear::heads_maker("flow_attention", [](const HeadsConfig& config, ConfigReader& reader) {
            const double clamp = reader.get("clamp", 1.0), eps = reader.get("eps", 1e-6);
            require(clamp > 0 && clamp <= 80, "flow_attention: clamp = {}: above 0, up to 80 is accepted", clamp);
            require(eps >= 0 && eps < 1, "flow_attention: eps = {}: 0 up to 1 is accepted", eps);
            return std::make_shared<FlowAttention>(config, clamp, eps);
          })};
}

}  // namespace heed
