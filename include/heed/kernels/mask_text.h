// Masks as text, the same on the command line, in JSON and from Python.
#pragma once

#include <string_view>

#include "heed/kernels/mask.h"

namespace heed::kernels {

/// Terms combined with `&`, `|`, `~` and parentheses (`~` binds strongest, then `&`): `causal`, `causal(top_left)`,
/// `window(keys)`, `window(left, right)`, `sinks(count)`, `dilation(step)`, `everything`. Example: `causal &
/// (window(256) | sinks(4))`. Empty text: everything. Throws heed::Error that names the place and what is accepted.
Mask parse_mask(std::string_view text);

}  // namespace heed::kernels
