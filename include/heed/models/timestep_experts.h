// A flow-matching transformer whose groups of layers each serve an interval of time, and whose layers use the scores of
// the layer before again (LaTtE-Flow, arXiv 2506.06952; flow matching: arXiv 2210.02747).
#pragma once

#include <torch/torch.h>

#include <functional>
#include <utility>
#include <vector>

#include "heed/models/decoder_lm.h"
#include "heed/nn/norm.h"

namespace heed {

struct TimestepExpertsConfig {
  int64_t tokens = 16, channels = 4;  ///< of a sample: N tokens of so many numbers
  int64_t classes = 0;                ///< of samples; 0: none are told
  int64_t text = 0;                   ///< channels of a text's states that layers attend to beside the sample; 0: none
  bool blend = false;  ///< attention is shared with the text's layers: text, 2 dim, are their keys and values
  int64_t dim = 64, heads = 4, hidden = 128;
  int64_t layers = 8, groups = 4;  ///< groups of layers / groups consecutive layers
  bool residual = true;            ///< scores of the layer before are added, gated by time
  /// Scores before are not kept but part of one product of heads as wide as the layers so far, in O(N) memory.
  bool recompute = false;
};

/// What a sample is to be.
struct FlowCondition {
  FlowCondition(torch::Tensor labels = {}, std::vector<torch::Tensor> text = {})
      : labels(std::move(labels)), text(std::move(text)) {}

  torch::Tensor labels;  ///< int64 [B] where there are classes
  /// States of a frozen language model [B, T, text], one a layer of all groups, each for the layer of the same depth;
  /// or one for all of them. With `blend` its keys and then values, which are attended to as they are. None: the sample
  /// is made without a text.
  std::vector<torch::Tensor> text;
};

/// A text for as many layers as `lm` has: what its blocks get of `tokens` [B, T], [B, T, dim] each, or, with `blend`,
/// the keys and values of its query heads, [B, T, 2 heads head_dim], as its layers attend to them. No gradient.
FlowCondition told_by(DecoderLm& lm, const torch::Tensor& tokens, bool blend = false);

class TimestepExpertsImpl : public torch::nn::Module {
 public:
  /// With parameters drawn at random; gates start at 0. Throws heed::Error for sizes that do not fit.
  explicit TimestepExpertsImpl(TimestepExpertsConfig config);

  /// The group that serves time t in [0, 1]: [k / K, (k + 1) / K), the last one 1, too.
  int64_t group_of(double t) const;
  std::pair<double, double> interval(int64_t group) const;

  /// The velocity at x [B, N, channels] and times [B], all of one group's interval, by that group's layers alone.
  /// Throws heed::Error for times of several groups.
  torch::Tensor velocity(const torch::Tensor& x, const torch::Tensor& times, const FlowCondition& condition = {});
  /// The mean of |v - (x1 - x0)|^2 over samples x1, noise x0 and times of one group, drawn by libtorch's generator.
  torch::Tensor loss(const torch::Tensor& x1, const FlowCondition& condition = {});
  /// From noise to samples in `steps` Euler steps; each runs the group that owns the time it starts from.
  torch::Tensor sample(int64_t count, int64_t steps, const FlowCondition& condition = {});

  const TimestepExpertsConfig& config() const { return config_; }

 private:
  struct Layer {
    nn::Norm norm{nullptr}, mlp_norm{nullptr};
    torch::nn::Linear qkv{nullptr}, text_kv{nullptr}, out{nullptr}, up{nullptr}, down{nullptr};
    torch::Tensor gate;  // [heads, dim]: of the scores before, by the time's embedding
  };
  struct Group {
    torch::nn::Linear in{nullptr}, time{nullptr}, out{nullptr};
    torch::nn::Embedding label{nullptr};
    torch::Tensor positions;
    nn::Norm norm{nullptr};
    std::vector<Layer> layers;
  };
  /// What earlier layers of the group left: their scores, or queries and keys with the product of gates since.
  struct Before {
    torch::Tensor scores, q, k;
  };
  /// What a group makes of x at times of its interval, both ends of it included.
  torch::Tensor of_group(int64_t group, const torch::Tensor& x, const torch::Tensor& times,
                         const FlowCondition& condition);
  torch::Tensor attend(Layer& layer, const torch::Tensor& x, const torch::Tensor& text, const torch::Tensor& gate,
                       Before& before);

  TimestepExpertsConfig config_;
  std::vector<Group> groups_;
};
TORCH_MODULE(TimestepExperts);

/// x at time 1 from x at time 0, by `steps` steps of dx/dt = velocity(x, t).
torch::Tensor euler(const std::function<torch::Tensor(const torch::Tensor& x, double t)>& velocity, torch::Tensor x,
                    int64_t steps);

}  // namespace heed
