#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/probe.h"
#include "heed/assets.h"
#include "heed/bench/qkv_source.h"
#include "heed/cache/policy.h"
#include "heed/checkpoint/language_model.h"
#include "heed/error.h"
#include "heed/probe/prompt_patterns.h"
#include "heed/tasks/corpus.h"

namespace heed::cli {
namespace {

/// Tokens of the texts that the paper's patterns are made for.
constexpr double kPaperLength = 131072;

struct ProbeMinference {
  Common common;
  std::string model, text, save;
  int64_t length = 0;
  double scale = 0;
};

torch::Tensor tokens_of(const checkpoint::LanguageModel& lm, const std::string& path, int64_t length) {
  const auto ids = lm.tokenizer.encode(bench::read_text(path));
  require(int64_t(ids.size()) >= length, "{}: {} tokens, which is less than the {} of --length", path, ids.size(),
          length);
  return torch::tensor(at::ArrayRef<int64_t>(ids.data(), size_t(length))).unsqueeze(0);
}

void print(const probe::PatternChoice& choice) {
  std::vector<int64_t> chosen(choice.patterns.size());
  for (const auto& layer : choice.best)
    for (const size_t pattern : layer) ++chosen[pattern];
  fmt::print("{:<64} {:>6} {:>10} {:>9}\n", "pattern for all heads", "best of", "error", "density");
  for (size_t p = 0; p < choice.patterns.size(); ++p)
    fmt::print("{:<64} {:>6} {:>10.4f} {:>9.3f}\n", choice.patterns[p].dump(), chosen[p], choice.mean_error_of(p),
               choice.mean_density_of(p));
  fmt::print("{:<64} {:>6} {:>10.4f} {:>9.3f}\n", "each head its best", choice.layers * choice.heads,
             choice.mean_error(), choice.mean_density());
}

void run(ProbeMinference& o) {
  apply(o.common);
  if (o.model.empty()) o.model = find_asset("tiny-lm").string();
  if (o.text.empty()) o.text = tasks::default_text().string();
  const auto lm = checkpoint::load_language_model(o.model);
  if (!o.length) o.length = lm.model->config().max_length;
  if (o.scale == 0) o.scale = std::min(1.0, 4 * double(o.length) / kPaperLength);
  std::unique_ptr<Progress> bar;
  const auto choice = probe::choose_patterns(lm.model, tokens_of(lm, o.text, o.length), probe::prompt_patterns(o.scale),
                                             progress_bar(bar, "layers"));
  bar.reset();
  if (!o.save.empty()) cache::PolicyChoice{"minference", choice.settings()}.save(o.save);
  nlohmann::ordered_json json{{"model", o.model},
                              {"text", o.text},
                              {"tokens", o.length},
                              {"error", choice.mean_error()},
                              {"density", choice.mean_density()},
                              {"heads", choice.settings()["heads"]}};
  for (size_t p = 0; p < choice.patterns.size(); ++p)
    json["patterns"].push_back(
        {{"settings", choice.patterns[p]}, {"error", choice.mean_error_of(p)}, {"density", choice.mean_density_of(p)}});
  if (!write_json(o.common, json.dump(1))) print(choice);
}

}  // namespace

void add_probe_minference(CLI::App& probe) {
  auto o = std::make_shared<ProbeMinference>();
  auto* command = probe.add_subcommand(
      "minference",
      "find the sparse pattern of the prompt that suits each head, on one long text\n"
      "example: heed probe minference --save-policy patterns.json && heed generate --policy patterns.json --file X");
  command->add_option("--model", o->model, "folder of the checkpoint (default: the shipped one)");
  command->add_option("--text", o->text, "the text it reads (default: the GPL of Debian's common licenses)");
  command->add_option("--length", o->length, "tokens of it (default: the model's context)")
      ->check(CLI::Range(2, 1 << 24));
  command
      ->add_option("--scale", o->scale,
                   "of the paper's patterns, which are for 128k tokens (default: 4 x length / 128k, at most 1)")
      ->check(positive());
  command->add_option("--save-policy", o->save, "write the choice as a policy, for --policy of other commands")
      ->check(writable_file());
  add_threads(*command, o->common);
  add_json(*command, o->common);
  command->callback([o] { run(*o); });
}

}  // namespace heed::cli
