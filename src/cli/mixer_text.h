// Mixers as options name them.
#pragma once

#include <string>

#include "heed/error.h"
#include "heed/models/transformer.h"

namespace heed::cli {

/// `NAME` or `NAME:{json}`; `option` is named in the message of what is neither.
inline LayerPlan mixer_of(const std::string& text, const std::string& option) {
  const auto colon = text.find(':');
  LayerPlan plan{text.substr(0, colon), nlohmann::json::object()};
  if (colon == std::string::npos) return plan;
  plan.config = nlohmann::json::parse(text.substr(colon + 1), nullptr, false);
  require(plan.config.is_object(), "{} {}: the configuration is not a JSON object", option, text);
  return plan;
}

}  // namespace heed::cli
