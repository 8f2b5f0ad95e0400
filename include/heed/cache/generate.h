// Text from a model under a cache policy.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "heed/cache/sampling.h"
#include "heed/cache/session.h"
#include "heed/formats/tokenizer.h"

namespace heed::cache {

struct GenerateOptions {
  int64_t max_tokens = 128;
  Sampling sampling;
  std::vector<std::string> stop;  ///< the text ends before the first of these
  std::vector<int64_t> eos;       ///< tokens that end the text
};

enum class Finish { length, stop, eos };
std::string to_string(Finish finish);

struct Generated {
  std::vector<int64_t> ids;  ///< new tokens, without the one that ended it
  std::string text;
  Finish finish = Finish::length;
  int64_t prompt_tokens = 0;
  double prefill_seconds = 0, decode_seconds = 0;
  int64_t decode_steps = 0;
  int64_t peak_cache_bytes = 0, cache_bytes = 0;

  double tokens_per_second() const { return decode_seconds > 0 ? double(decode_steps) / decode_seconds : 0; }
};

/// New tokens that a model has positions for behind a prompt: a table of learned positions ends. Throws heed::Error for
/// a prompt that is longer than the table.
int64_t room_behind(const DecoderConfig& config, int64_t prompt_tokens);

/// Goes on with `prompt` in a fresh session of one sequence; where the positions end, the text does, too (length). `on_text` gets pieces of valid UTF-8 as they become
/// certain; joined they are `text`.
Generated generate(Session& session, const formats::Tokenizer& tokenizer, const std::vector<int64_t>& prompt,
                   const GenerateOptions& options, const std::function<void(const std::string&)>& on_text = {});

}  // namespace heed::cache
