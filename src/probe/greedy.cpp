#include "probe/greedy.h"

#include <algorithm>

#include "heed/error.h"

namespace heed::probe {

std::string greedy_answer(cache::Session& session, const checkpoint::LanguageModel& lm,
                          const std::vector<int64_t>& prompt, int64_t bytes,
                          const std::function<void(int64_t token)>& emitted) {
  require(prompt.size() >= 2, "a prompt of {} tokens: 2 or more are accepted", prompt.size());
  session.prefill(as_tokens({prompt.begin(), prompt.end() - 1}), int64_t(prompt.size()) + bytes);
  session.finish_prompt();
  std::string text;
  formats::TextStream stream(lm.tokenizer);
  int64_t token = prompt.back();
  const int64_t table = session.config().learned_positions;
  for (int64_t i = 0; i < bytes && int64_t(text.size()) < bytes; ++i) {  // no token is shorter than a byte
    if (table && session.seen() >= table) break;
    token = session.step(torch::full({1}, token, torch::kInt64)).argmax(1).item<int64_t>();
    if (std::find(lm.eos.begin(), lm.eos.end(), token) != lm.eos.end()) break;
    if (emitted) emitted(token);
    text += stream.push(token);
  }
  text += stream.finish();
  return text.substr(0, size_t(bytes));
}

std::pair<int64_t, int64_t> tokens_of(const formats::Tokenizer& tokenizer, const std::vector<int64_t>& ids,
                                      const std::string& text) {
  formats::TextStream stream(tokenizer);
  std::string all;
  std::vector<size_t> ends;  // bytes of text up to and with each token
  for (const int64_t id : ids) {
    all += stream.push(id);
    ends.push_back(all.size());
  }
  const auto found = all.find(text);
  if (found == std::string::npos || text.empty()) return {0, 0};
  const auto begin = std::upper_bound(ends.begin(), ends.end(), found);
  const auto end = std::lower_bound(ends.begin(), ends.end(), found + text.size());
  return {begin - ends.begin(), std::min<int64_t>(end - ends.begin() + 1, int64_t(ids.size()))};
}

}  // namespace heed::probe
