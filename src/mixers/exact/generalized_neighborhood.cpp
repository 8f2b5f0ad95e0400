// Sliding windows, strided windows and blocks of a grid by one definition (arXiv 2504.16922).
#include "mixers/exact/neighborhood_mixer.h"

namespace heed {
namespace {

class GeneralizedNeighborhood final : public NeighborhoodMixer {
 public:
  GeneralizedNeighborhood(const AttentionConfig& config, const NeighborhoodConfig& around)
      : NeighborhoodMixer("generalized_neighborhood", config, around) {}

 protected:
  torch::Tensor attend(const CoreInput& in, const ops::NeighborhoodOptions& options) override {
    return ops::neighborhood(in.q, in.k, in.v, options).out;
  }
};

}  // namespace

RegistryRow rows::generalized_neighborhood() {
  return {.name = "generalized_neighborhood",
          .family = "exact_and_systems",
          .paper =
              "Generalized Neighborhood Attention: Multi-dimensional Sparse Attention at the Speed of Light "
              "(arXiv 2504.16922)",
          .year = 2025,
          .patterns = {true, true, false, false},
          .core = true,
          .grid = true,
          .training_free = true,
          .cost = "O(N w)",
          .parameters = neighborhood_parameters({}),
          .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"window", {3, 5}}, {"stride", {1, 2}}},
          .make = neighborhood_maker("generalized_neighborhood", [](const AttentionConfig& config,
                                                                    const NeighborhoodConfig& around, ConfigReader&) {
            return std::make_shared<GeneralizedNeighborhood>(config, around);
          })};
}

}  // namespace heed
