// The long-term memory of Titans alone.
#include "heed/nn/norm.h"
#include "mixers/linear/neural_memory.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

class TitansMemory final : public RecurrentMixer {
 public:
  explicit TitansMemory(const linear::NeuralMemoryConfig& config) : RecurrentMixer("titans_memory", config.dim, true) {
    memory_ = register_module("memory", linear::NeuralMemory(config));
    norm_ = register_module("norm", nn::Norm(formats::NormKind::rms, config.dim, 1e-5));
    gate_proj_ = project("gate_proj", config.dim, config.dim);
    o_proj_ = project("o_proj", config.dim, config.dim);
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    require(!call.input.cu_seqlens, "titans_memory: cu_seqlens is not accepted");
    const auto read = memory_->forward(call, 0, call.x, call.seen(), call.input.key_padding);
    return o_proj_(norm_(read) * torch::sigmoid(gate_proj_(call.x)));
  }

 private:
  linear::NeuralMemory memory_{nullptr};
  nn::Norm norm_{nullptr};
  torch::nn::Linear gate_proj_{nullptr}, o_proj_{nullptr};
};

}  // namespace

RegistryRow rows::titans_memory() {
  return {.name = "titans_memory",
          .family = "linear_and_recurrent",
          .paper = "Titans: Learning to Memorize at Test Time (arXiv 2501.00663)",
          .year = 2025,
          .patterns = {false, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .cost = "O(N)",
          .parameters = linear::neural_memory_parameters(),
          .small = {{"dim", 12}, {"heads", 2}, {"chunk", 4}, {"memory_expand", 2}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("titans_memory", json);
            const auto config = linear::NeuralMemoryConfig::read(reader);
            reader.finish();
            return std::make_shared<TitansMemory>(config);
          }};
}

}  // namespace heed
