// A pyramid of vision stages (PVT, arXiv 2102.12122): every stage halves the grid and widens the channels; mixers of
// tokens and channels by name, for classes of images and of patches.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "heed/mixers/taps.h"
#include "heed/models/reduced_blocks.h"
#include "heed/models/vision_backbone.h"

namespace heed {

struct PyramidConfig {
  int64_t image_height = 224, image_width = 224, channels = 3;  ///< pixels
  int64_t patch = 4;                                            ///< pixels a side of a cell of the first stage
  int64_t labels = 0;                                           ///< classes; 0: no classifier
  bool dense = false;                                           ///< classes of the cells of the first stage
  nlohmann::json reducer = nlohmann::json::object();            ///< as VisionSpec::reducer
  std::vector<TransformerConfig> stages;  ///< widths, heads, mixers; grid and max_length are set to a stage's cells
  /// One a stage, or none: in place of the convolution that halves the grid, a mixer that gives every second cell of
  /// either axis, and a linear map to the stage's channels; where it has no name, the convolution.
  std::vector<LayerPlan> downsampling;

  /// `count` stages, of which number s has s times the channels, heads and hidden channels of `spec.base`.
  static PyramidConfig growing(const VisionSpec& spec, int64_t count = 4);
  /// `stages`: how many, as `growing` makes them, or a list of an object each, whose keys change what `growing` would
  /// make of that stage: `mixer` and its parameters `set`; or `layers`, objects of these two, taken in turn; `depth`,
  /// how many layers; `width`, channels; `heads`; `hidden`; `channel_mixer`; `downsampling`, an object of `mixer` and
  /// `set`. Of another width there are as many heads of the same size, and `hidden` keeps its ratio. Throws
  /// heed::Error, which begins with `owner`, for what does not fit.
  static PyramidConfig staged(const VisionSpec& spec, const nlohmann::json& stages, const std::string& owner);
  /// Height and width of a stage's grid: halves, rounded up.
  Grid grid(size_t stage) const;
};

class VisionPyramidImpl : public VisionBackbone {
 public:
  /// With parameters drawn at random. Throws heed::Error for sizes that do not fit.
  explicit VisionPyramidImpl(PyramidConfig config);

  /// pixels [B, channels, height, width] -> what every stage gives, [B, cells, C] behind its norm. `gates`, where there
  /// are any one a stage, [B, cells, 1], multiply it before the next stage sees it. Taps count the layers through all
  /// stages.
  std::vector<torch::Tensor> features(const torch::Tensor& pixels, uint64_t seed = 0, Taps* taps = nullptr,
                                      const std::vector<torch::Tensor>& gates = {});
  /// The mean of the last stage, [B, 1, C]; or, dense, the sum of all stages on the cells of the first one, each mapped
  /// to its channels and interpolated (FPN, arXiv 1612.03144).
  torch::Tensor read(const std::vector<torch::Tensor>& features);

  torch::Tensor states(const torch::Tensor& pixels, uint64_t seed = 0) override { return read(features(pixels, seed)); }
  torch::Tensor answers(const torch::Tensor& states) override;

  const PyramidConfig& config() const { return config_; }

 private:
  struct Stage {
    torch::nn::Conv2d embedding{nullptr};  // or, in its place:
    std::shared_ptr<TokenMixer> downsampling;
    torch::nn::Linear widening{nullptr};
    std::vector<TransformerBlock> blocks;
    LayerReducers reducers;
    nn::Norm norm{nullptr};
    torch::nn::Linear lateral{nullptr};  // dense only
  };

  /// The tokens of stage `s` from the image, or from what the stage before gives.
  torch::Tensor enter(size_t s, const torch::Tensor& image, const MixerInput& call);

  PyramidConfig config_;
  std::vector<Stage> stages_;
  torch::Tensor positions_;
  torch::nn::Linear classifier_{nullptr};
};
TORCH_MODULE(VisionPyramid);

}  // namespace heed
