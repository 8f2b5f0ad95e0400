// What a trained encoder or decoder is better, or no worse, without (AxFormer, arXiv 2010.03688).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "heed/models/decoder_lm.h"
#include "heed/models/encoder.h"

namespace heed::surgery {

/// A part of a model that can be left out. What stays is the residual stream, and the norms of the block. A head is a
/// key head with the query heads that share it.
struct AxElement {
  enum class Kind { attention, channels, head, channel_group };
  Kind kind = Kind::attention;
  int64_t layer = 0;
  int64_t index = 0;  ///< of the head or of the group
  bool operator==(const AxElement&) const = default;
};
std::string to_string(const AxElement& element);

struct AxOptions {
  double tolerance = 0;        ///< eps: a removal stays where the loss is at most the best one and eps
  int64_t channel_groups = 4;  ///< that the inner channels of a channel mixer are cut into
  bool hard_attention = true;  ///< tries layers with hard attention at the end
  double share = 0.25;         ///< hard attention: of the keys that a query may see
  double ratio = 0;            ///< above 0: in its place, of the row's largest weight
};

struct AxTrial {
  AxElement element;
  bool hard = false;  ///< not removed, but its attention made hard
  double loss = 0;
  bool kept = false;  ///< the change stays
};

struct AxPlan {
  std::vector<AxElement> removed;
  std::vector<int64_t> hard_layers;
  double first_loss = 0, loss = 0;
  std::vector<AxTrial> trials;
};

/// Greedy, from whole blocks to heads and groups of channels, the last layers first: each is left out, `loss` (on data
/// that the model was not trained on) says what that costs, and it comes back where it costs too much. Parts of a block
/// that is gone are not asked for. Then layers' attention is made hard, one after the other, where the loss does not
/// rise. `model` is as before when this returns; `report` is told each trial and how many there are at most. Throws
/// heed::Error for layers that are no dense attention and for groups that do not divide the channels.
using AxReport = std::function<void(const AxTrial& trial, size_t done, size_t most)>;
AxPlan axformer_search(Encoder& model, const std::function<double(Encoder&)>& loss, const AxOptions& options = {},
                       const AxReport& report = {});
AxPlan axformer_search(DecoderLm& model, const std::function<double(DecoderLm&)>& loss, const AxOptions& options = {},
                       const AxReport& report = {});

/// The model without what the plan leaves out: heads are cut out of the projections; blocks and groups of channels
/// have weights of 0 that add nothing. Layers of hard attention have that mixer.
Encoder axformer_apply(Encoder& model, const AxPlan& plan, const AxOptions& options = {});
DecoderLm axformer_apply(DecoderLm& model, const AxPlan& plan, const AxOptions& options = {});

}  // namespace heed::surgery
