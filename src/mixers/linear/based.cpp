// Linear attention by the second-order Taylor series of exp.
#include "heed/nn/feature_map.h"
#include "mixers/linear/linear_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

class Based final : public linear::LinearAttention {
 public:
  explicit Based(const HeadsConfig& config) : LinearAttention("based", config) {}

 protected:
  bool takes_memory() const override { return !causal_; }

  Tensor attend(RecurrentCall& call, const Heads& heads) override {
    const auto q = nn::taylor_features(heads.q), k = nn::taylor_features(heads.k);
    constexpr double kLeast = 1e-12;
    if (!causal_) {
      require(!call.input.cu_seqlens, "based: cu_seqlens without causal is not accepted");
      return ops::linear_noncausal(q, k, heads.v, call.input.key_padding, true, kLeast);
    }
    ops::LinearChunkOptions options;
    options.normalize = true;
    options.eps = kLeast;
    return call.linear(0, q, k, heads.v, std::nullopt, options);
  }
};

}  // namespace

RegistryRow rows::based() {
  auto parameters = linear::heads_parameters();
  for (auto& parameter : parameters)
    if (parameter.name == "key_dim") parameter = {"key_dim", 16, "d of the 1 + d + d (d + 1) / 2 features"};
  return {.name = "based",
          .family = "linear_and_recurrent",
          .paper = "Simple linear attention language models balance the recall-throughput tradeoff (arXiv 2402.18668)",
          .year = 2024,
          .patterns = {true, true, true, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .core = true,
          .cost = "O(N d^2)",
          .parameters = parameters,
          .small = {{"dim", 24}, {"heads", 2}, {"key_dim", 5}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            auto config = json.is_null() ? nlohmann::json::object() : json;
            if (config.is_object() && !config.contains("key_dim")) config["key_dim"] = 16;
            return linear::heads_maker("based", [](const HeadsConfig& heads, ConfigReader&) {
              return std::make_shared<Based>(heads);
            })(config);
          }};
}

}  // namespace heed
