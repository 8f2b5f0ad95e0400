// One face of all models of images: what stands between pixels and a linear map to classes.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "heed/models/vision.h"

namespace heed {

/// A vision transformer's block: layer norms before a token and a channel mixer, GELU, biases.
inline formats::BlockConfig vision_block(const std::string& channel_mixer = "mlp") {
  return {formats::NormKind::layer, formats::NormPlacement::pre, channel_mixer, formats::Activation::gelu, true};
}

/// What a backbone is made for.
struct VisionSpec {
  int64_t image_height = 8, image_width = 8, channels = 1;  ///< pixels
  int64_t patch = 2;                                        ///< pixels a side of the finest cells; it divides the image
  int64_t labels = 10;                                      ///< numbers of an answer
  bool dense = false;                                       ///< an answer a patch; else one an image
  TransformerConfig base;  ///< width, heads, block and mixers; how often its layers are there is the backbone's matter
  nlohmann::json settings = nlohmann::json::object();  ///< of the backbone's own
  /// Which of the named layers take tokens away, and how (make_reducers in heed/models/reduced_blocks.h), in every
  /// stage that has them; what a stage hands on is brought back to its cells.
  nlohmann::json reducer = nlohmann::json::object();
  bool patch_positions = true;  ///< of a vision transformer: learned ones are added to the patches

  int64_t rows() const { return image_height / patch; }
  int64_t columns() const { return image_width / patch; }
  /// Throws heed::Error unless patches divide the image.
  void check() const;
};

/// A vision transformer for `spec`, without a class token: token mixers are told the grid of patches.
VisionConfig vision_config(const VisionSpec& spec);

/// Throws heed::Error unless `pixels` are [B, channels, height, width].
void check_pixels(const torch::Tensor& pixels, int64_t channels, int64_t height, int64_t width);

class VisionBackbone : public torch::nn::Module {
 public:
  /// pixels [B, channels, image_height, image_width] -> what answers are read from: [B, 1, C], or [B, patches, C] of a
  /// dense backbone, patches row by row.
  virtual torch::Tensor states(const torch::Tensor& pixels, uint64_t seed = 0) = 0;
  /// The last states of all patches [B, patches, C], and `states` of the same forward, which are read from them; where
  /// a backbone has no such patches, the states twice.
  virtual std::pair<torch::Tensor, torch::Tensor> tokens_and_states(const torch::Tensor& pixels, uint64_t seed = 0) {
    const auto read = states(pixels, seed);
    return {read, read};
  }
  /// The plain vision transformer that it is, whose layers keep all of their tokens; null for all others.
  virtual VisionTransformer* transformer() { return nullptr; }

  /// States [..., C] -> [..., labels].
  virtual torch::Tensor answers(const torch::Tensor& states) = 0;

  /// The mean loss of answers [B or B patches, labels] for the last images of `states`.
  using Judge = std::function<torch::Tensor(const torch::Tensor& answers)>;
  /// What training minimises: `loss`, that of the answers, unless branches of the backbone are judged, too.
  virtual torch::Tensor training_loss(const torch::Tensor& loss, const Judge& judge) { return loss; }
};

/// "vit", "pyramid", ...
std::vector<std::string> backbone_names();
/// What a backbone is for.
struct BackboneTraits {
  bool images = true, patches = true;  ///< whether it gives a state an image, and a state a patch
  bool colours = false;                ///< it paints: 4 channels of lightness, hints and their mask, 2 numbers a pixel
  bool reduces = false;                ///< it knows the setting `reducer` (VisionSpec::reducer)
};
BackboneTraits traits_of(const std::string& backbone);
/// A backbone with parameters drawn at random. Its settings may have, beside its own: `reducer` (VisionSpec::reducer);
/// `local_conv`, convolutions in the blocks (heed/models/local_conv.h), {"name": "mbconv", "layers": [0], "channels":
/// true}: before the token mixers of these layers (default: all), with `channels` before the channel mixers, too;
/// `one_residual`, the numbers of the layers that are blocks of one residual; `shared_norm`, true where a block has one
/// norm; `norm`, a name of formats::NormKind; `layer_scale` (formats::BlockConfig). Throws heed::Error for an unknown
/// name and for sizes that do not fit.
std::shared_ptr<VisionBackbone> make_backbone(const std::string& name, const VisionSpec& spec);

}  // namespace heed
