// Words inside the patches of an image attend to each other and feed the stream of patches (TNT, arXiv 2103.00112).
#pragma once

#include <torch/torch.h>

#include <vector>

#include "heed/models/reduced_blocks.h"
#include "heed/models/vision.h"
#include "heed/models/vision_backbone.h"

namespace heed {

struct TntConfig : VisionConfig {
  int64_t word = 4;         ///< pixels a side of a word
  int64_t word_kernel = 7;  ///< pixels a side that a word is made from, odd; none of another patch
  TransformerConfig inner;  ///< of the blocks over the words of a patch, as many as there are layers
  nlohmann::json reducer = nlohmann::json::object();  ///< of the blocks over patches, as VisionSpec::reducer

  /// Words a patch.
  Grid words() const;
};

class TntImpl : public VisionBackbone {
 public:
  /// With parameters drawn at random. `dense`: a state a patch. Throws heed::Error for sizes that do not fit.
  explicit TntImpl(TntConfig config, bool dense = false);

  struct Streams {
    torch::Tensor words;    ///< [B patches, words, inner dim]
    torch::Tensor patches;  ///< [B, tokens, dim], behind the last norm; tokens are the patches after the class token
    nn::TokenMap map;       ///< from all of them to those that reducers left
  };
  Streams forward(const torch::Tensor& pixels, uint64_t seed = 0);

  torch::Tensor states(const torch::Tensor& pixels, uint64_t seed = 0) override;
  torch::Tensor answers(const torch::Tensor& states) override;

  const TntConfig& config() const { return config_; }

 private:
  /// The words of a patch as one vector of the patches' stream.
  struct Fold {
    nn::Norm word_norm{nullptr}, norm{nullptr};
    torch::nn::Linear map{nullptr};
    torch::Tensor operator()(const torch::Tensor& words);
  };
  Fold make_fold(const std::string& name, bool bias);
  torch::Tensor cut_words(const torch::Tensor& pixels);

  TntConfig config_;
  bool dense_;
  torch::nn::Conv2d word_embedding_{nullptr};
  torch::Tensor word_positions_, class_token_, positions_;
  Fold first_;
  std::vector<Fold> folds_;
  std::vector<TransformerBlock> inner_, blocks_;
  LayerReducers reducers_;
  nn::Norm norm_{nullptr};
  torch::nn::Linear classifier_{nullptr};
};
TORCH_MODULE(Tnt);

}  // namespace heed
