// Every query attends to pairs of tokens, or to larger tuples.
#include "heed/error.h"
#include "mixers/exact/tensor_core.h"
#include "mixers/linear/heads_config.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

class TensorAttention final : public RecurrentMixer {
 public:
  TensorAttention(const linear::HeadsConfig& c, int64_t degree, int64_t order)
      : RecurrentMixer("tensor_attention", c.dim, c.causal), config_(c), degree_(degree) {
    require(c.key_dim == c.head_dim, "tensor_attention: key_dim = {} and head_dim = {}: equal ones are accepted",
            c.key_dim, c.head_dim);
    const auto made = [&](const std::string& name) {
      auto linear = project(name, c.dim, c.values());
      torch::nn::init::xavier_uniform_(linear->weight);
      return linear;
    };
    q_ = made("q_proj");
    for (int64_t member = 1; member < order; ++member) {
      k_.push_back(made("k" + std::to_string(member) + "_proj"));
      v_.push_back(made("v" + std::to_string(member) + "_proj"));
    }
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
    exact::TupleKeys keys;
    for (auto& projection : k_) keys.k.push_back(heads(projection, source));
    for (auto& projection : v_) keys.v.push_back(heads(projection, source));
    keys.hidden = call.input.key_padding.value_or(Tensor());
    if (degree_ > 0) {
      std::vector<Tensor> sums(k_.size());
      for (size_t i = 0; i < sums.size(); ++i) sums[i] = call.slot(i);
      const auto out = exact::polynomial_tuple_attention(q, keys, degree_, causal_, sums);
      for (size_t i = 0; i < sums.size(); ++i) call.slot(i) = sums[i];
      return o_(join_heads(out));
    }
    if (call.carries()) remember(call, keys);
    return o_(join_heads(exact::tuple_attention(q, keys, causal_)));
  }

 private:
  /// Puts the tokens before these ones before them, in `keys` and in the state.
  static void remember(RecurrentCall& call, exact::TupleKeys& keys) {
    if (!keys.hidden.defined()) keys.hidden = torch::zeros({call.batch(), call.tokens()}, torch::kBool);
    size_t slot = 0;
    const auto grown = [&](Tensor& part, int64_t dim) {
      auto& held = call.slot(slot++);
      if (held.defined()) part = torch::cat({held, part}, dim);
      held = part;
    };
    for (auto& part : keys.k) grown(part, 2);
    for (auto& part : keys.v) grown(part, 2);
    grown(keys.hidden, 1);
  }

  linear::HeadsConfig config_;
  int64_t degree_;  // 0: exact
  torch::nn::Linear q_{nullptr}, o_{nullptr};
  std::vector<torch::nn::Linear> k_, v_;  // one a member of a tuple
};

}  // namespace

RegistryRow rows::tensor_attention() {
  return {.name = "tensor_attention",
          .family = "exact_and_systems",
          .paper =
              "How to Capture Higher-order Correlations? Generalizing Matrix Softmax Attention to Kronecker "
              "Computation (arXiv 2310.04064)",
          .year = 2023,
          .patterns = {true, true, true, false},
          .step = true,
          .one_way = true,
          .cost = "O(N^order); a polynomial O(N r)",
          .parameters = linear::heads_parameters(
              {{"degree", 0, "0: exact; even: a Taylor polynomial of exp of that degree, for small heads and entries"},
               {"order", 3, "of the tensor of weights: a query attends to tuples of one token fewer"}}),
          .small = {{"dim", 24}, {"heads", 3}},
          .make = linear::heads_maker("tensor_attention", [](const linear::HeadsConfig& config, ConfigReader& reader) {
            const auto degree = reader.integer("degree", 0, 0, 16);
            require(degree % 2 == 0, "tensor_attention: degree = {}: even ones keep weights positive and are accepted",
                    degree);
            return std::make_shared<TensorAttention>(config, degree, reader.integer("order", 3, 3, 8));
          })};
}

}  // namespace heed
