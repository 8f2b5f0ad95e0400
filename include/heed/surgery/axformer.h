// What a fine-tuned encoder is better, or no worse, without (AxFormer, arXiv 2010.03688).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "heed/models/encoder.h"

namespace heed::surgery {

/// A part of an encoder that can be left out. What stays is the residual stream, and the norms of the block.
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
  double share = 0.25;         ///< hard attention: of the keys that a query sees
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
/// rise. `model` is as before when this returns. Throws heed::Error for layers that are no dense attention over as many
/// key heads as query heads, and for groups that do not divide the channels.
AxPlan axformer_search(Encoder& model, const std::function<double(Encoder&)>& loss, const AxOptions& options = {});

/// The encoder without what the plan leaves out: heads are cut out of the projections; blocks and groups of channels
/// have weights of 0 that add nothing. Layers of hard attention have that mixer.
Encoder axformer_apply(Encoder& model, const AxPlan& plan, const AxOptions& options = {});

}  // namespace heed::surgery
