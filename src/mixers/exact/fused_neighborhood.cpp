// Neighbourhood attention by a fused kernel, or with its weights written out and a bias by relative position (arXiv
// 2403.04690).
#include "heed/error.h"
#include "mixers/exact/neighborhood_mixer.h"

namespace heed {
namespace {

using torch::Tensor;

class FusedNeighborhood final : public NeighborhoodMixer {
 public:
  FusedNeighborhood(const AttentionConfig& config, const NeighborhoodConfig& around, bool written, bool biased)
      : NeighborhoodMixer("fused_neighborhood", config, around), written_(written) {
    if (!biased) return;
    std::vector<int64_t> sizes{config.heads};
    for (const int64_t w : around.window) sizes.push_back(2 * w - 1);
    bias_ = register_parameter("relative_bias", torch::randn(sizes) * 0.02);
  }

 protected:
  Tensor attend(const CoreInput& in, const ops::NeighborhoodOptions& options) override {
    return written_ ? attend_written(in, options) : ops::neighborhood(in.q, in.k, in.v, options).out;
  }

  Tensor line_bias(const Tensor& cells_before) const override {
    if (!bias_.defined()) return {};
    const auto places = around_.window[0] - 1 - cells_before;
    return bias_.index_select(1, places.flatten()).view({1, bias_.size(0), places.size(0), places.size(1)});
  }

 private:
  Tensor attend_written(const CoreInput& in, const ops::NeighborhoodOptions& options) const {
    auto k = in.k, v = in.v;
    Tensor hidden;  // [B, 1, N, W]
    if (options.key_padding) {
      const auto padding = options.key_padding->view({k.size(0), 1, k.size(2), 1});
      k = k.masked_fill(padding, 0), v = v.masked_fill(padding, 0);
      const auto number = padding.to(torch::kFloat32);
      hidden = ops::neighborhood_qk(torch::ones_like(number), number, options) > 0;
    }
    auto scores = ops::neighborhood_qk(in.q, k, options);
    if (options.softcap > 0) {
      const auto absent = scores == -std::numeric_limits<double>::infinity();
      scores = (options.softcap * torch::tanh(scores / options.softcap))
                   .masked_fill(absent, -std::numeric_limits<double>::infinity());
    }
    if (bias_.defined()) {
      require(int64_t(options.grid.size()) == bias_.dim() - 1,
              "{}: a grid of {} axes; relative_bias takes windows of {}", name_, options.grid.size(), bias_.dim() - 1);
      const auto offsets = ops::neighborhood_offsets(options, around_.window);
      scores = scores + bias_.flatten(1)
                            .to(scores.scalar_type())
                            .index_select(1, offsets.flatten())
                            .view({bias_.size(0), offsets.size(0), offsets.size(1)});
    }
    // A finite score, so that a row of padding alone has weights to be cleared.
    if (hidden.defined()) scores = scores.masked_fill(hidden, -1e30);
    auto weights = torch::softmax(scores, -1);
    if (hidden.defined()) weights = weights.masked_fill(hidden, 0);
    return ops::neighborhood_av(weights, v, options);
  }

  bool written_;
  Tensor bias_;
};

}  // namespace

RegistryRow rows::fused_neighborhood() {
  return {.name = "fused_neighborhood",
          .family = "exact_and_systems",
          .paper =
              "Faster Neighborhood Attention: Reducing the O(n^2) Cost of Self Attention at the Threadblock Level "
              "(arXiv 2403.04690)",
          .year = 2024,
          .patterns = {true, true, false, false},
          .core = true,
          .grid = true,
          .training_free = true,
          .cost = "O(N w)",
          .parameters = neighborhood_parameters(
              {{"weights", "fused", "fused: never in memory; written: N x w of them a head"},
               {"relative_bias", false,
                "a number a head and relative position; weights are written then, and window gives "
                "every axis"}}),
          .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"window", {3, 5}}, {"relative_bias", true}},
          .make = neighborhood_maker("fused_neighborhood", [](const AttentionConfig& config,
                                                              const NeighborhoodConfig& around, ConfigReader& reader) {
            const bool biased = reader.get("relative_bias", false);
            const auto weights = reader.choice("weights", biased ? "written" : "fused", {"fused", "written"});
            require(!biased || weights == "written",
                    "fused_neighborhood: relative_bias goes with weights = written: the fused kernel takes no bias");
            for (const int64_t stride : around.stride)
              require(stride == 1,
                      "fused_neighborhood: stride = {}: 1 is accepted; generalized_neighborhood has strides", stride);
            return std::make_shared<FusedNeighborhood>(config, around, weights == "written", biased);
          })};
}

}  // namespace heed
