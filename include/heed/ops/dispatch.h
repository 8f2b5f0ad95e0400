// Which implementation runs a call, and why not another.
#pragma once

#include <string>
#include <vector>

#include "heed/ops/flash.h"

namespace heed::ops {

/// One implementation of a forward without gradient, in the order of preference.
struct Implementation {
  const char* name;
  /// Empty when it can run the call, else the reason in words a user can act on.
  std::string (*why_not)(const FlashCall&);
  void (*run)(FlashCall&);
};

/// decode (few queries), flash, reference.
const std::vector<Implementation>& implementations();

/// Runs the first implementation that can. HEED_VERBOSE=dispatch prints the choice to stderr; HEED_STRICT=1 makes a
/// fall to the reference, which nobody asked for, an error.
void dispatch(FlashCall& call);

/// For a kernel whose only other implementation is its reference: with HEED_VERBOSE=dispatch, prints which of the two
/// runs `kernel` on `input`, and why.
void show_dispatch(const char* kernel, const torch::Tensor& input);

/// The call as decode parameters; valid while `call` lives. The mask is asked with the same i' as flash.
/// Throws heed::Error for what decode does not take.
void run_decode(FlashCall& call);

}  // namespace heed::ops
