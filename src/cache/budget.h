// Budgets of policies: below 1 a share of the prompt, otherwise tokens.
#pragma once

#include <algorithm>
#include <cmath>

#include "heed/nn/config.h"

namespace heed::cache {

struct Budget {
  double amount = 0;

  static Budget read(ConfigReader& reader, const std::string& key, double fallback) {
    const Budget budget{reader.get(key, fallback)};
    require(budget.amount >= 0 && (budget.amount < 1 || budget.amount == std::floor(budget.amount)),
            "{}: {} = {}: a share of the prompt below 1, or a whole number of tokens, is accepted", reader.owner(), key,
            budget.amount);
    return budget;
  }
  int64_t tokens(int64_t prompt) const {
    return static_cast<int64_t>(amount < 1 ? std::ceil(amount * double(prompt)) : amount);
  }
};

}  // namespace heed::cache
