// Aaren: softmax attention of one learned query over every prefix, a scan.
#include <cmath>

#include "heed/error.h"
#include "heed/nn/start.h"
#include "heed/ops/softmax_scan.h"
#include "mixers/linear/heads_config.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::HeadsConfig;
using torch::Tensor;

class Aaren final : public RecurrentMixer {
 public:
  explicit Aaren(const HeadsConfig& c) : RecurrentMixer("aaren", c.dim, true), config_(c) {
    query_ = register_parameter("query", nn::started_rows({c.dim}));
    q_proj_ = project("q_proj", c.dim, c.keys());
    k_proj_ = project("k_proj", c.dim, c.keys());
    v_proj_ = project("v_proj", c.dim, c.values());
    o_proj_ = project("o_proj", c.values(), c.dim);
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    const int64_t heads = config_.heads;
    // Every token meets the same query, so keys need not be made: s = x (W_k^T q) / sqrt(d).
    const auto q = q_proj_(query_).view({heads, -1, 1}), keys = k_proj_->weight.view({heads, -1, config_.dim});
    const auto direction = (keys * q).sum(1) / std::sqrt(static_cast<double>(config_.key_dim));
    auto scores = torch::matmul(call.x, direction.t()).transpose(1, 2);
    if (call.input.key_padding) scores = scores.masked_fill(call.input.key_padding->unsqueeze(1), -INFINITY);
    auto& seen = call.slot(0);
    const auto result =
        ops::softmax_scan(scores, split_heads(v_proj_(call.x), heads),
                          seen.defined() ? std::optional(seen) : std::nullopt, {.cu_seqlens = call.input.cu_seqlens});
    seen = result.state;
    return o_proj_(join_heads(result.out));
  }

 private:
  HeadsConfig config_;
  Tensor query_;
  torch::nn::Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, o_proj_{nullptr};
};

}  // namespace

RegistryRow rows::aaren() {
  return {.name = "aaren",
          .family = "linear_and_recurrent",
          .paper = "Attention as an RNN (arXiv 2405.13956)",
          .year = 2024,
          .patterns = {false, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .cost = "O(N)",
          .parameters = linear::heads_parameters(),
          .small = {{"dim", 24}, {"heads", 3}},
          .make = linear::heads_maker("aaren", [](const HeadsConfig& config, ConfigReader&) {
            require(config.causal, "aaren: causal = false is not accepted: a scan has a direction");
            return std::make_shared<Aaren>(config);
          })};
}

}  // namespace heed
