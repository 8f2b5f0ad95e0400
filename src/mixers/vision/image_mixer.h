// Mixers of the cells of an image, and the attention inside groups of cells that several of them are made of.
#pragma once

#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/config.h"
#include "heed/nn/grid.h"
#include "heed/nn/offset_bias.h"
#include "heed/nn/windows.h"
#include "heed/registry.h"

namespace heed::vision {

/// The cells of a call: [B, height, width, C], padded ones 0.
struct Image {
  torch::Tensor cells;
  torch::Tensor hidden;  ///< bool [B, height, width], padding; undefined without
  int64_t layer = 0;     ///< of the model

  int64_t batch() const { return cells.size(0); }
  int64_t height() const { return cells.size(1); }
  int64_t width() const { return cells.size(2); }
  /// `t` [B, height, width, ...] with 0 for padded cells.
  torch::Tensor shown(const torch::Tensor& t) const {
    return hidden.defined() ? t.masked_fill(hidden.unsqueeze(3), 0) : t;
  }
};

class ImageMixer : public RecurrentMixer {
 protected:
  ImageMixer(std::string name, int64_t dim) : RecurrentMixer(std::move(name), dim, false) {}

  torch::Tensor run(RecurrentCall& call) final;
  /// [B, height, width, C] from the image.
  virtual torch::Tensor mix_image(const Image& image) = 0;
};

/// [B, H, W, C] -> [B, C, H, W] and back, of dense memory.
torch::Tensor channels_first(const torch::Tensor& cells);
torch::Tensor channels_last(const torch::Tensor& image);

/// A depthwise convolution of [B, H, W, C].
torch::Tensor convolve(nn::GridConv& conv, const torch::Tensor& cells);

/// Means of the regions of an image.
struct Regions {
  torch::Tensor cells;   ///< [B, rows columns, C]
  torch::Tensor hidden;  ///< bool [B, rows columns]: nothing but padding; undefined without padding
};
/// `cells` [B, height, width, C], 0 where padded: the means of rows x columns regions (as adaptive pooling cuts them)
/// over what is no padding.
Regions pool(const Image& image, const torch::Tensor& cells, int64_t rows, int64_t columns);

struct WindowHeads {
  int64_t dim = 64, heads = 4;
  /// Reads dim and heads.
  static WindowHeads read(ConfigReader& reader);
};
/// The parameters of WindowHeads, then `own`.
std::vector<Parameter> window_parameters(std::vector<Parameter> own);

/// Softmax attention inside groups of cells, with a bias by offset where there is a table.
class WindowCoreImpl : public torch::nn::Module {
 public:
  /// Groups of `rows` x `columns` cells.
  WindowCoreImpl(int64_t heads, int64_t rows, int64_t columns, bool offset_bias = true);
  /// q, k, v [B, H, W, heads D] -> the same.
  torch::Tensor forward(const nn::Windows& windows, const Image& image, const torch::Tensor& q, const torch::Tensor& k,
                        const torch::Tensor& v);

 private:
  int64_t heads_;
  nn::OffsetBias bias_{nullptr};
};
TORCH_MODULE(WindowCore);

/// The same with its projections.
class WindowAttentionImpl : public torch::nn::Module {
 public:
  WindowAttentionImpl(WindowHeads heads, int64_t rows, int64_t columns, bool offset_bias = true);
  torch::Tensor forward(const nn::Windows& windows, const Image& image);

 private:
  torch::nn::Linear qkv_{nullptr}, out_{nullptr};
  WindowCore core_{nullptr};
};
TORCH_MODULE(WindowAttention);

/// A row of this folder: cells of a grid, trained from scratch.
RegistryRow image_row(RegistryRow row);

}  // namespace heed::vision
