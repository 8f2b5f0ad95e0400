// Lengths of prompts where none were asked for: those that a task fits and the model has positions for.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "heed/checkpoint/language_model.h"

namespace heed::cli {

/// The model's context, and its half, quarter, ... down to the last of `halvings`; without those that are too short for
/// the task's least sample. Where all are, the shortest power of two behind the context that is not, for models whose
/// positions go on; else the context, for which the task then says what it needs.
std::vector<int64_t> lengths_for(const checkpoint::LanguageModel& lm, const std::string& task,
                                 const nlohmann::json& settings, int halvings);

/// Most tokens of a prompt and an answer of so many bytes: the context; with a table of positions, less by the answer,
/// whose tokens may be more than those of the right one.
int64_t longest_prompt(const checkpoint::LanguageModel& lm, int64_t answer_bytes);

}  // namespace heed::cli
