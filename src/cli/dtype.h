// --dtype
#pragma once

#include <c10/core/ScalarType.h>

#include <string>

#include "heed/error.h"

namespace heed::cli {

/// Throws heed::Error for another name.
inline c10::ScalarType parse_dtype(const std::string& name) {
  if (name == "float32") return c10::kFloat;
  if (name == "bfloat16") return c10::kBFloat16;
  if (name == "float16") return c10::kHalf;
  fail("--dtype {}: float32, bfloat16 or float16 is accepted", name);
}

}  // namespace heed::cli
