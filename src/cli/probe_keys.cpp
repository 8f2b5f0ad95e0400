#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/probe.h"
#include "heed/assets.h"
#include "heed/bench/qkv_source.h"
#include "heed/checkpoint/language_model.h"
#include "heed/error.h"
#include "heed/probe/key_index.h"
#include "heed/tasks/corpus.h"

namespace heed::cli {
namespace {

struct ProbeKeys {
  Common common;
  std::string model, text;
  int64_t length = 0;
  probe::KeyIndexOptions indices;
};

void print(const std::vector<probe::KeyIndexReport>& reports, const probe::KeyIndexOptions& o) {
  fmt::print("share of {} keys that is scanned for {:g} of the {} best; distances to the keys' distribution\n{:>5}",
             reports.front().keys, o.recall, o.top, "layer");
  for (const auto& index : reports.front().indices) fmt::print(" {:>12}", index.name);
  fmt::print(" {:>8} {:>8}\n", "keys", "queries");
  std::vector<double> scanned(reports.front().indices.size()), seconds(scanned.size());
  for (const auto& r : reports) {
    fmt::print("{:>5}", r.layer);
    for (size_t i = 0; i < r.indices.size(); ++i) {
      scanned[i] += r.indices[i].scanned / double(reports.size());
      seconds[i] += r.indices[i].build_seconds / double(reports.size());
      fmt::print(" {:>12.3f}", r.indices[i].scanned);
    }
    fmt::print(" {:>8.2f} {:>8.2f}\n", r.key_distance, r.query_distance);
  }
  const auto row = [](const char* name, const std::vector<double>& values) {
    fmt::print("{:>5}", name);
    for (const double value : values) fmt::print(" {:>12.3f}", value);
    fmt::print("\n");
  };
  row("mean", scanned);
  row("built", seconds);
  fmt::print("built: seconds for one KV head\n");
}

void run(ProbeKeys& o) {
  apply(o.common);
  if (o.model.empty()) o.model = find_asset("tiny-lm").string();
  if (o.text.empty()) o.text = tasks::default_text().string();
  auto lm = checkpoint::load_language_model(o.model);
  if (!o.length) o.length = std::min<int64_t>(4096, lm.model->config().max_length);
  const auto ids = lm.tokenizer.encode(bench::read_text(o.text));
  require(int64_t(ids.size()) >= o.length, "{}: {} tokens, which is less than the {} of --length", o.text, ids.size(),
          o.length);
  const auto tokens = torch::tensor(at::ArrayRef<int64_t>(ids.data(), size_t(o.length))).unsqueeze(0);
  std::unique_ptr<Progress> bar;
  const auto reports = probe::compare_key_indices(lm.model, tokens, o.indices, progress_bar(bar, "layers"));
  bar.reset();
  nlohmann::ordered_json json{
      {"model", o.model}, {"text", o.text}, {"tokens", o.length}, {"top", o.indices.top}, {"recall", o.indices.recall}};
  for (const auto& r : reports) {
    nlohmann::ordered_json row{
        {"layer", r.layer}, {"keys", r.keys}, {"key_distance", r.key_distance}, {"query_distance", r.query_distance}};
    for (const auto& index : r.indices)
      row["indices"].push_back({{"name", index.name}, {"scanned", index.scanned}, {"build_s", index.build_seconds}});
    json["layers"].push_back(row);
  }
  if (!write_json(o.common, json.dump(1))) print(reports, o.indices);
}

}  // namespace

void add_probe_keys(CLI::App& probe) {
  auto o = std::make_shared<ProbeKeys>();
  auto* keys = probe.add_subcommand(
      "keys",
      "how much of the keys each search index scans for those that queries attend to: retrieval_attention's graph, a "
      "graph of keys alone, HNSW, IVF; and how far queries lie from the keys\nexample: heed probe keys --length 2048");
  keys->add_option("--model", o->model, "folder of the checkpoint (default: the shipped one)");
  keys->add_option("--text", o->text, "the text it reads (default: the GPL of Debian's common licenses)");
  keys->add_option("--length", o->length, "tokens of it (default: the model's context, at most 4096)")
      ->check(CLI::Range(16, 1 << 24));
  keys->add_option("--layers", o->indices.layers, "layers to take, as 0,5 (default: all)")->delimiter(',');
  keys->add_option("--ask", o->indices.ask, "last tokens, whose queries ask (default 64)")->check(whole(1));
  keys->add_option("--top", o->indices.top, "keys of the largest products that are to be found (default 20)")
      ->check(whole(1));
  keys->add_option("--recall", o->indices.recall, "share of them (default 0.95)")->check(number(0.01, 1));
  keys->add_option("--sinks", o->indices.sinks, "first tokens that are left out (default 4)")->check(whole(0));
  add_threads(*keys, o->common);
  add_json(*keys, o->common);
  keys->callback([o] { run(*o); });
}

}  // namespace heed::cli
