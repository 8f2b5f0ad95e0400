#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/dtype.h"
#include "heed/assets.h"
#include "heed/bench/compare.h"
#include "heed/bench/measure.h"
#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "heed/progress.h"

namespace heed::cli {
namespace {

struct Options {
  Common common;
  std::string model, text, qkv, html, dtype = "float32";
  std::vector<int64_t> layers;
  std::vector<std::string> set;
  bench::CompareOptions compare;
};

/// NAME.key=value by NAME.
std::map<std::string, nlohmann::json> settings_by_name(const std::vector<std::string>& pairs) {
  std::map<std::string, std::vector<std::string>> grouped;
  for (const auto& pair : pairs) {
    const auto dot = pair.find('.');
    require(dot != std::string::npos && dot > 0 && dot < pair.find('='),
            "--set {}: NAME.key=value is accepted, as in sliding_window.window=128", pair);
    grouped[pair.substr(0, dot)].push_back(pair.substr(dot + 1));
  }
  std::map<std::string, nlohmann::json> settings;
  for (const auto& [name, own] : grouped) settings[name] = parse_settings(own);
  return settings;
}

std::unique_ptr<bench::QkvSource> source_of(const Options& o) {
  if (!o.qkv.empty()) return bench::file_source(o.qkv);
  return bench::model_source({o.model.empty() ? find_asset("tiny-lm") : std::filesystem::path(o.model), o.text,
                              o.layers, parse_dtype(o.dtype)});
}

void run(Options& o) {
  apply(o.common);
  o.compare.settings = settings_by_name(o.set);
  const auto source = source_of(o);
  bench::Comparison result;
  {
    std::unique_ptr<Progress> bar;
    result = bench::compare(*source, o.compare, [&bar](int64_t done, int64_t total, const std::string& next) {
      if (!bar) bar = std::make_unique<Progress>("compare", total);
      bar->update(done, next);
    });
  }
  if (!o.html.empty()) formats::write_file(o.html, bench::compare_html(result));
  if (!write_json(o.common, bench::to_json(result).dump(1))) fmt::print("{}", bench::compare_table(result));
  if (!result.failed.empty()) throw bench::Refused(result.failed.front());
}

}  // namespace

void add_compare(CLI::App& app) {
  auto o = std::make_shared<Options>();
  auto* command = app.add_subcommand(
      "compare",
      "run mechanisms side by side on the queries, keys and values of a real model: time, memory, fidelity\n"
      "example: heed compare --lengths 256,1024,4096 --html compare.html");
  auto* model =
      command->add_option("--model", o->model, "folder of a checkpoint (default: the tiny model that comes with heed)");
  auto* text =
      command->add_option("--text", o->text, "the text it reads (default: the GPL of Debian's common licenses)");
  auto* layers =
      command->add_option("--layers", o->layers, "layers to take, as 0,5 (default: the first, the middle, the last)")
          ->delimiter(',');
  command->add_option("--qkv", o->qkv, "a safetensors file with q [B, H, N, D], k and v in place of a model")
      ->excludes(model)
      ->excludes(text)
      ->excludes(layers);
  command->add_option("--lengths", o->compare.lengths, "numbers of tokens (default 256,512,1024,2048,4096)")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 24));
  command->add_option("--only", o->compare.only, "only these mechanisms, as dense,sliding_window,op:flash")
      ->delimiter(',');
  command->add_option("--skip", o->compare.skip, "all but these")->delimiter(',');
  command->add_option("--set", o->set, "parameters of mechanisms, NAME.key=value, as sliding_window.window=128");
  command->add_option("--repeats", o->compare.repeats, "timed runs of every layer (default 5)")
      ->check(CLI::Range(1, 1000));
  command->add_option("--dtype", o->dtype,
                      "type of q, k and v taken from a model: float32, bfloat16, float16 (default float32)");
  command->add_option("--html", o->html, "write a page with plots to this file");
  add_threads(*command, o->common);
  add_json(*command, o->common);
  command->callback([o] { run(*o); });
}

}  // namespace heed::cli
