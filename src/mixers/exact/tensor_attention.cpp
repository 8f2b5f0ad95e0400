// Every query attends to pairs of tokens.
#include "heed/error.h"
#include "mixers/exact/tensor_core.h"
#include "mixers/linear/heads_config.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

class TensorAttention final : public RecurrentMixer {
 public:
  TensorAttention(const linear::HeadsConfig& c, int64_t degree)
      : RecurrentMixer("tensor_attention", c.dim, c.causal), config_(c), degree_(degree) {
    require(c.key_dim == c.head_dim, "tensor_attention: key_dim = {} and head_dim = {}: equal ones are accepted",
            c.key_dim, c.head_dim);
    const auto made = [&](const char* name) {
      auto linear = project(name, c.dim, c.values());
      torch::nn::init::xavier_uniform_(linear->weight);
      return linear;
    };
    q_ = made("q_proj");
    k1_ = made("k1_proj"), k2_ = made("k2_proj");
    v1_ = made("v1_proj"), v2_ = made("v2_proj");
    o_ = project("o_proj", c.values(), c.dim);
  }

 protected:
  bool takes_memory() const override { return !causal_; }

  Tensor run(RecurrentCall& call) override {
    require(!call.input.cu_seqlens, "tensor_attention: cu_seqlens is not accepted");
    const auto& source = call.input.memory ? *call.input.memory : call.x;
    const auto heads = [&](torch::nn::Linear& projection, const Tensor& x) {
      return split_heads(projection(x), config_.heads);
    };
    const auto q = heads(q_, call.x);
    exact::PairKeys keys{heads(k1_, source), heads(k2_, source), heads(v1_, source), heads(v2_, source),
                         call.input.key_padding.value_or(Tensor())};
    if (degree_ > 0) {
      return o_(join_heads(exact::polynomial_pair_attention(q, keys, degree_, causal_, call.slot(0), call.slot(1))));
    }
    if (call.carries()) remember(call, keys);
    return o_(join_heads(exact::pair_attention(q, keys, causal_)));
  }

 private:
  /// Puts the tokens before these ones before them, in `keys` and in the state.
  static void remember(RecurrentCall& call, exact::PairKeys& keys) {
    if (!keys.hidden.defined()) keys.hidden = torch::zeros({call.batch(), call.tokens()}, torch::kBool);
    size_t slot = 0;
    for (auto* part : {&keys.k1, &keys.k2, &keys.v1, &keys.v2, &keys.hidden}) {
      auto& held = call.slot(slot++);
      if (held.defined()) *part = torch::cat({held, *part}, part->dim() == 4 ? 2 : 1);
      held = *part;
    }
  }

  linear::HeadsConfig config_;
  int64_t degree_;  // 0: exact
  torch::nn::Linear q_{nullptr}, k1_{nullptr}, k2_{nullptr}, v1_{nullptr}, v2_{nullptr}, o_{nullptr};
};

}  // namespace

RegistryRow rows::tensor_attention() {
  return {
      .name = "tensor_attention",
      .family = "exact_and_systems",
      .paper =
          "How to Capture Higher-order Correlations? Generalizing Matrix Softmax Attention to Kronecker "
          "Computation (arXiv 2310.04064)",
      .year = 2023,
      .patterns = {true, true, true, false},
      .step = true,
      .one_way = true,
      .cost = "O(N^3); a polynomial O(N r)",
      .parameters = linear::heads_parameters(
          {{"degree", 0, "0: exact; even: a Taylor polynomial of exp of that degree, for small heads and entries"}}),
      .small = {{"dim", 24}, {"heads", 3}},
      .make = linear::heads_maker("tensor_attention", [](const linear::HeadsConfig& config, ConfigReader& reader) {
        const auto degree = reader.integer("degree", 0, 0, 16);
        require(degree % 2 == 0, "tensor_attention: degree = {}: even ones keep weights positive and are accepted",
                degree);
        return std::make_shared<TensorAttention>(config, degree);
      })};
}

}  // namespace heed
