#include "probe/repeated_tokens.h"

#include <algorithm>

#include "heed/error.h"
#include "heed/tasks/random.h"

namespace heed::probe {
namespace {

/// Ids that stand for printable text.
std::vector<int64_t> plain_ids(const checkpoint::LanguageModel& lm) {
  std::vector<int64_t> ids;
  const int64_t count = std::min(lm.tokenizer.vocab_size(), lm.model->config().vocab_size);
  for (int64_t id = 0; id < count; ++id) {
    if (lm.tokenizer.is_special(id)) continue;
    const auto text = lm.tokenizer.decode({&id, 1});
    const bool control = std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
    if (!text.empty() && !control && text.find("\xef\xbf\xbd") == std::string::npos) ids.push_back(id);
  }
  return ids;
}

}  // namespace

RepeatedTokens repeated_tokens(const checkpoint::LanguageModel& lm, const HeadScoreOptions& o, int64_t s) {
  const auto plain = plain_ids(lm);
  const auto bos = lm.tokenizer.roles().bos;
  RepeatedTokens text;
  text.first = bos ? 1 : 0;
  const int64_t room = (lm.model->config().max_length - text.first) / o.copies;
  text.period = std::min({o.repeated, int64_t(plain.size()), room});
  require(text.period >= 2, "{} tokens {} times over: the model has {} plain tokens and a context of {}", o.repeated,
          o.copies, plain.size(), lm.model->config().max_length);
  tasks::Random random(tasks::hash64("repeated tokens") + o.seed, uint64_t(s));
  if (bos) text.ids.push_back(*bos);
  const auto drawn = random.distinct(text.period, int64_t(plain.size()));
  for (int64_t c = 0; c < o.copies; ++c)
    for (const int64_t i : drawn) text.ids.push_back(plain[size_t(i)]);
  return text;
}

}  // namespace heed::probe
