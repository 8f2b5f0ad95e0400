// What interventions do to the captions of the small vision-text model.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "heed/steer/flow_cut.h"
#include "heed/steer/intervention.h"
#include "heed/train/pairworld.h"

namespace heed::steer {

/// Greedy captions, as objects, of images [B, K, C] of the decoder's tokens, under caches of the decoder's layers.
std::vector<std::vector<int64_t>> captions(VisionText& model, const torch::Tensor& image, const cache::Policy& caches);

struct CaptionOptions {
  int64_t images = 512;
  double sink = 20;                            ///< as in training
  std::vector<int64_t> targets{12, 8, 6, 4};   ///< patches that are left
  std::vector<double> kept{0.8, 0.6, 0.3, 0};  ///< of var_redistribution
  uint64_t seed = 0;
};

struct CaptionRow {
  std::string what;  ///< plain, without ..., var_redistribution kept=..., flow_cut 8 of 16, ...
  bool conflict = false;
  tasks::CaptionScore score;
};

/// Captions of both test splits: as they are; without the planted sink, and without another patch that holds no object;
/// under var_redistribution; and with the patches that FlowCut, the class token's attention and chance leave.
std::vector<CaptionRow> compare_captions(VisionText& model, const tasks::PairWorld& world,
                                         const CaptionOptions& options,
                                         const std::function<void(int64_t done, int64_t total)>& progress = {});

/// Settings of var_redistribution for this model: the image's span, the sink's channel.
nlohmann::json pair_world_settings(int64_t patches, double kept);

}  // namespace heed::steer
