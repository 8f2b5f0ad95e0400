// Where a torch call becomes kernel parameters. The public face is heed/attention.h; this header serves the other
// floors.
#pragma once

#include <torch/torch.h>

#include "heed/attention.h"
#include "heed/kernels/flash.h"

namespace heed::ops {

/// A tensor of at most four dimensions as a kernel view, missing trailing dimensions of size 1.
/// Throws heed::Error for a dtype that kernels don't take.
kernels::AnyView view_of(const torch::Tensor& tensor);

/// The tensors and terms of one attention call, checked and brought to the layout kernels ask for.
/// Keeps them alive, so that params() may point into them.
struct FlashCall {
  torch::Tensor q, k, v, out, lse;
  AttentionOptions options;

  FlashCall(torch::Tensor q, torch::Tensor k, torch::Tensor v, AttentionOptions options);

  void allocate_outputs();
  bool has_lse() const { return options.normalizer != NormalizerKind::sigmoid; }
  /// The dtype of everything beside q, k, v, out: float32, float64 for float64 calls.
  torch::ScalarType side_dtype() const;
  /// Fills `blocks` where the call has a block list; both must outlive the kernel call.
  kernels::FlashParams params(kernels::BlockList& blocks) const;

  void forward();
};

}  // namespace heed::ops
