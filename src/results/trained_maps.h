// What token mixers make of the samples that a trained model is given.
#pragma once

#include "heed/mixers/token_mixer.h"
#include "results/learning.h"

namespace heed::results {

/// A layer of a model, and what its mixer was given.
struct LayerCall {
  std::shared_ptr<TokenMixer> mixer;
  MixerInput input;
};

/// The calls that a batch causes, in the order of the layers. The model must be made of transformer blocks.
std::vector<LayerCall> layer_calls(train::TaskModel& model, const train::TaskBatch& batch);

/// Queries and keys of a call as its core gets them; undefined of a mixer that shows none (heed/mixers/taps.h).
CoreInput core_of(const LayerCall& call);

/// The weights [B, H, N, N] that the tokens of a call have for each other; rows sum to 1. For mixers whose core is
/// linear in the values, with weights that are never negative. Throws heed::Error for one without such a core.
torch::Tensor weights_of(const LayerCall& call, int64_t heads);

/// The mean distance, in tokens, of what `weights` attend to.
double mean_distance(const torch::Tensor& weights);
/// The mean entropy of rows of `weights` in nats.
double mean_entropy(const torch::Tensor& weights);

/// A quantity of the layers of trained models, by learner, once a seed.
class LayerFigures {
 public:
  /// `measure` sees every layer's call for `samples` samples of the test split.
  LayerFigures(std::string quantity, int64_t samples, std::function<double(const LayerCall&)> measure);

  Inspect inspect();
  /// `layer` from 1.
  const Figure& of(const std::string& learner, size_t layer) const;
  /// A row a learner, a column a layer.
  Table table(const std::string& title, const std::vector<Learner>& learners) const;

 private:
  std::string quantity_;
  int64_t samples_;
  std::function<double(const LayerCall&)> measure_;
  std::map<std::string, std::vector<Figure>> figures_;
};

}  // namespace heed::results
