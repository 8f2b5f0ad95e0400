// Where a vision transformer looks in a picture.
#pragma once

#include <torch/torch.h>

#include <array>
#include <filesystem>

#include "heed/formats/picture.h"
#include "heed/models/vision.h"

namespace heed::probe {

/// What a model's colours are: (value / 255 - mean) / deviation.
struct PictureNorm {
  std::array<double, 3> mean{0.5, 0.5, 0.5}, deviation{0.5, 0.5, 0.5};
  /// image_mean and image_std of preprocessor_config.json in a checkpoint's folder; the defaults where there is none.
  static PictureNorm of(const std::filesystem::path& checkpoint);
};

/// The picture in the size and the colours of a model: [1, channels, image_height, image_width], of one channel its
/// grey. Throws heed::Error for another number of channels than 1 and 3.
torch::Tensor pixels_of(const formats::Picture& picture, const VisionConfig& config, const PictureNorm& norm);

struct PictureMaps {
  /// Weight of every patch, from the class token's row or, without one, the mean row; float [layers, heads, rows,
  /// columns].
  torch::Tensor heads;
  torch::Tensor rollout;        ///< of the same row through all layers, [rows, columns]
  torch::Tensor probabilities;  ///< [labels]; undefined without a classifier
};

/// Throws heed::Error for a model whose layers are not all dense attention by queries and keys alone.
PictureMaps picture_maps(VisionTransformer& model, const torch::Tensor& pixels);

/// The picture in greys, with a warm colour where `map` [rows, columns] is large: as strong as a patch's share of the
/// largest. Wider or higher pictures than `most` pixels are shrunk.
formats::Picture overlay(const formats::Picture& picture, const torch::Tensor& map, int64_t most = 1024);

}  // namespace heed::probe
