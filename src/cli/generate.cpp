#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "bench/memory_meter.h"
#include "cli/commands.h"
#include "cli/dtype.h"
#include "cli/intervention.h"
#include "cli/policy.h"
#include "heed/assets.h"
#include "heed/cache/generate.h"
#include "heed/checkpoint/language_model.h"
#include "heed/error.h"
#include "heed/formats/chat_template.h"

namespace heed::cli {
namespace {

struct GenerateCommand {
  Common common;
  std::string model, prompt, file, kv, policy = "full", dtype = "float32";
  std::vector<std::string> set;
  InterventionOptions intervention;
  cache::GenerateOptions options;
  std::optional<std::string> system;
  int64_t chunk = 512;
  bool ignore_eos = false, echo = false, chat = false;
};

std::string prompt_of(const GenerateCommand& o) {
  require(o.prompt.empty() != o.file.empty(), "--prompt TEXT or --file FILE (- for stdin): one of the two is accepted");
  if (!o.prompt.empty()) return o.prompt;
  return read_text(o.file);
}

/// The prompt as a conversation in the words of the checkpoint's own template.
std::string conversation(const GenerateCommand& o, const std::string& checkpoint, const std::string& prompt) {
  const auto chat = formats::ChatTemplate::open(checkpoint);
  require(chat.has_value(),
          "{}: has no chat template (chat_template.jinja, chat_template of tokenizer_config.json, or a GGUF file's "
          "tokenizer.chat_template); without --chat the prompt is taken as it is",
          checkpoint);
  auto messages = nlohmann::ordered_json::array();
  if (o.system) messages.push_back({{"role", "system"}, {"content", *o.system}});
  messages.push_back({{"role", "user"}, {"content", prompt}});
  return chat->render(messages);
}

/// Says once that a text goes past what a model was trained on.
class ContextNotice {
 public:
  explicit ContextNotice(int64_t context) : context_(context) {}
  void look(int64_t tokens) {
    if (said_ || tokens <= context_) return;
    said_ = true;
    fmt::print(stderr, "heed: {} tokens go past the {} that the model was trained on: its words may get worse\n",
               tokens, context_);
  }

 private:
  int64_t context_;
  bool said_ = false;
};

void run(GenerateCommand& o) {
  apply(o.common);
  require(o.chat || !o.system, "--system goes with --chat");
  auto text = prompt_of(o);
  const auto directory = o.model.empty() ? find_asset("tiny-lm").string() : o.model;
  if (o.chat) text = conversation(o, directory, text);
  const auto lm = checkpoint::load_language_model(directory, parse_dtype(o.dtype));
  const auto choice = policy_choice(o.policy, o.kv, o.set);
  const auto policy = caches_of(choice, o.intervention, cache::shape_of(lm.model->config()));
  if (!o.ignore_eos) o.options.eos = lm.eos;
  o.options.sampling.seed = o.common.seed;

  int64_t weights = 0;
  for (const auto& parameter : lm.model->parameters()) weights += int64_t(parameter.nbytes());
  const bench::MemoryMeter meter;
  cache::Session session(lm.model, policy, 1, o.chunk);
  const auto prompt = lm.tokenizer.encode(text, !o.chat);  // a template writes special tokens out
  const int64_t length = int64_t(prompt.size());
  cache::room_behind(session.config(), length);  // before anything is printed
  ContextNotice notice(session.config().max_length);
  notice.look(length);
  const bool streams = !o.common.json_given || o.common.json != "-";
  if (o.echo && streams) fmt::print("{}", text);
  const auto result = cache::generate(session, lm.tokenizer, prompt, o.options, [&](const std::string& piece) {
    if (!streams) return;
    fmt::print("{}", piece);
    std::fflush(stdout);
  });
  if (streams) fmt::print("\n");
  std::fflush(stdout);
  notice.look(session.seen());

  const auto reads = session.reads();
  const auto per_step = [&](int64_t count) {
    return reads.steps ? double(count) / double(reads.steps * lm.model->config().kv_heads) : 0.0;
  };
  nlohmann::ordered_json json{{"model", directory},
                              {"policy", choice.name},
                              {"settings", choice.settings},
                              {"text", result.text},
                              {"finish", to_string(result.finish)},
                              {"prompt_tokens", result.prompt_tokens},
                              {"new_tokens", result.ids.size()},
                              {"prefill_s", result.prefill_seconds},
                              {"prefill_tokens_per_s", double(result.prompt_tokens) / result.prefill_seconds},
                              {"tokens_per_s", result.tokens_per_second()},
                              {"cache_bytes", result.cache_bytes},
                              {"peak_cache_bytes", result.peak_cache_bytes},
                              {"policy_bytes", session.policy_bytes()},
                              {"weight_bytes", weights},
                              {"peak_tensor_bytes", weights + meter.peak()},
                              {"pairs_read", per_step(reads.attended)},
                              {"scored", per_step(reads.scored)}};
  if (!o.intervention.name.empty()) json["intervention"] = o.intervention.name;
  // Only policies that skip pairs of the prompt count them.
  if (reads.prompt_visible) json["prompt_density"] = double(reads.prompt_pairs) / double(reads.prompt_visible);
  if (write_json(o.common, json.dump(1))) return;
  fmt::print(stderr,
             "{} prompt tokens in {:.2f} s, {} new at {:.1f} tokens/s; cache {:.2f} MB (peak {:.2f}), {:.0f} keys and "
             "values read a step, layer and KV head\n",
             result.prompt_tokens, result.prefill_seconds, result.ids.size(), result.tokens_per_second(),
             double(result.cache_bytes) * 1e-6, double(result.peak_cache_bytes) * 1e-6, per_step(reads.attended));
}

}  // namespace

void add_generate(CLI::App& app) {
  auto o = std::make_shared<GenerateCommand>();
  auto* command = app.add_subcommand(
      "generate",
      "text from a checkpoint, under a cache policy\n"
      "example: heed generate --prompt 'The file system' --policy streaming_llm --set window=256 --max-tokens 200");
  command->add_option("--model", o->model, "folder of the checkpoint (default: the shipped one)");
  command->add_option("--prompt", o->prompt, "text to go on with");
  command->add_option("--file", o->file, "file that holds it; - for stdin");
  command->add_flag("--chat", o->chat, "the prompt is what a user says, in the checkpoint's chat template");
  command->add_option("--system", o->system, "with --chat: what the model is told before");
  command->add_option("--max-tokens", o->options.max_tokens, "new tokens at most (default 128)")
      ->check(whole(0, 1 << 24));
  command->add_option("--temperature", o->options.sampling.temperature, "0: greedy (default)");
  command->add_option("--top-k", o->options.sampling.top_k, "only the k likeliest tokens (default 0: all)")
      ->check(whole(0));
  command->add_option("--top-p", o->options.sampling.top_p, "the fewest tokens that hold this probability (default 1)");
  command->add_option("--min-p", o->options.sampling.min_p,
                      "tokens with this share of the likeliest one's probability");
  command->add_option("--stop", o->options.stop, "text that ends the answer; several are accepted");
  command->add_flag("--ignore-eos", o->ignore_eos, "go on past the model's end of text");
  command->add_flag("--echo", o->echo, "print the prompt first");
  add_policy(*command, o->policy, o->kv, o->set);
  add_intervention(*command, o->intervention);
  command->add_option("--chunk", o->chunk, "tokens of the prompt that pass the model at a time (default 512)")
      ->check(whole(1, 1 << 24));
  command->add_option("--dtype", o->dtype, "float32 (default), bfloat16 or float16");
  add_seed(*command, o->common);
  add_threads(*command, o->common);
  add_json(*command, o->common);
  command->callback([o] { run(*o); });
}

}  // namespace heed::cli
