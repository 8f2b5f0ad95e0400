#include "heed/cache/generate.h"

#include <algorithm>

#include "cache/elapsed.h"
#include "heed/error.h"

namespace heed::cache {
namespace {

/// New tokens that room is made for at once; a larger limit is often meant as none.
constexpr int64_t kExpected = 4096;

/// Holds back text that may turn out to be the beginning of a stop string.
class StopWatch {
 public:
  explicit StopWatch(const std::vector<std::string>& stops) : stops_(stops) {}

  /// The text that is certain once `piece` has come; `stopped()` says whether a stop string ended it.
  std::string push(const std::string& piece) {
    waiting_ += piece;
    size_t end = std::string::npos;
    for (const auto& stop : stops_) end = std::min(end, waiting_.find(stop));
    if (end != std::string::npos) {
      stopped_ = true;
      return waiting_.substr(0, end);
    }
    size_t kept = 0;
    for (const auto& stop : stops_)
      for (size_t n = std::min(stop.size() - 1, waiting_.size()); n > kept; --n)
        if (waiting_.compare(waiting_.size() - n, n, stop, 0, n) == 0) kept = n;
    auto certain = waiting_.substr(0, waiting_.size() - kept);
    waiting_.erase(0, certain.size());
    return certain;
  }
  std::string rest() const { return stopped_ ? "" : waiting_; }
  bool stopped() const { return stopped_; }

 private:
  const std::vector<std::string>& stops_;
  std::string waiting_;
  bool stopped_ = false;
};

}  // namespace

std::string to_string(Finish finish) {
  static const char* names[] = {"length", "stop", "eos"};
  return names[static_cast<int>(finish)];
}

int64_t room_behind(const DecoderConfig& config, int64_t prompt_tokens) {
  if (!config.learned_positions) return INT64_MAX;
  require(prompt_tokens <= config.learned_positions, "a prompt of {} tokens: the model has learned positions for {}",
          prompt_tokens, config.learned_positions);
  return config.learned_positions - prompt_tokens + 1;  // the last token needs none
}

Generated generate(Session& session, const formats::Tokenizer& tokenizer, const std::vector<int64_t>& prompt,
                   const GenerateOptions& options, const std::function<void(const std::string&)>& on_text) {
  require(!prompt.empty(), "the prompt has no token: text, or a tokenizer that begins with one, is accepted");
  require(options.max_tokens >= 0, "max_tokens {}: 0 or more is accepted", options.max_tokens);
  for (const auto& stop : options.stop) require(!stop.empty(), "an empty stop string would end every text");
  options.sampling.check();

  Generated result;
  result.prompt_tokens = int64_t(prompt.size());
  const int64_t max_tokens = std::min(options.max_tokens, room_behind(session.config(), result.prompt_tokens));
  formats::TextStream stream(tokenizer);
  StopWatch watch(options.stop);
  const auto give = [&](const std::string& text) {
    if (text.empty()) return;
    result.text += text;
    if (on_text) on_text(text);
  };

  auto start = Clock::now();
  auto logits =
      session.prefill(torch::tensor(prompt, torch::kInt64).unsqueeze(0), result.prompt_tokens + std::min(max_tokens, kExpected))[0];
  result.peak_cache_bytes = session.cache_bytes();
  session.finish_prompt();
  result.prefill_seconds = seconds_since(start);

  start = Clock::now();
  while (int64_t(result.ids.size()) < max_tokens) {
    const int64_t id = sample(logits, options.sampling, int64_t(result.ids.size()));
    if (std::find(options.eos.begin(), options.eos.end(), id) != options.eos.end()) {
      result.finish = Finish::eos;
      break;
    }
    result.ids.push_back(id);
    give(watch.push(stream.push(id)));
    if (watch.stopped()) {
      result.finish = Finish::stop;
      break;
    }
    if (int64_t(result.ids.size()) == max_tokens) break;
    logits = session.step(torch::tensor({id}, torch::kInt64))[0];
    ++result.decode_steps;
    result.peak_cache_bytes = std::max(result.peak_cache_bytes, session.cache_bytes());
  }
  if (!watch.stopped()) {
    give(watch.push(stream.finish()));
    if (watch.stopped()) result.finish = Finish::stop;
    give(watch.rest());
  }
  result.decode_seconds = seconds_since(start);
  result.cache_bytes = session.cache_bytes();
  return result;
}

}  // namespace heed::cache
