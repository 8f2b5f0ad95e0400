// Greedy answers in which every emitted token comes from a decode step.
#pragma once

#include <functional>
#include <string>

#include "heed/cache/session.h"
#include "heed/checkpoint/language_model.h"

namespace heed::probe {

inline torch::Tensor as_tokens(const std::vector<int64_t>& ids) { return torch::tensor(ids).unsqueeze(0); }

/// At most `bytes` bytes after a prompt of two tokens or more; its last one is a decode step. `emitted` gets every
/// token, right after the step that emits it.
std::string greedy_answer(cache::Session& session, const checkpoint::LanguageModel& lm,
                          const std::vector<int64_t>& prompt, int64_t bytes,
                          const std::function<void(int64_t token)>& emitted = {});

/// Tokens [begin, end) of a prompt that hold its first occurrence of `text`; empty where there is none.
std::pair<int64_t, int64_t> tokens_of(const formats::Tokenizer& tokenizer, const std::vector<int64_t>& ids,
                                      const std::string& text);

}  // namespace heed::probe
