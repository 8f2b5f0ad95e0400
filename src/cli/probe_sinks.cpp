#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "bench/page.h"
#include "bench/plot.h"
#include "cli/probe.h"
#include "heed/assets.h"
#include "heed/checkpoint/language_model.h"
#include "heed/checkpoint/tensor_file.h"
#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "heed/probe/sinks.h"
#include "heed/tasks/task.h"

namespace heed::cli {
namespace {

struct ProbeSinks {
  Common common;
  std::string model, file, save, html;
  probe::SinkOptions options;
  std::vector<double> norms;
  int64_t context = 1024, most = 24;
};

std::string text_of(const ProbeSinks& o) {
  if (o.file.empty())
    return tasks::make_text_task("niah_single", {{"max_tokens", o.context}, {"filler", "prose"}})
        ->sample(tasks::Split::valid, o.common.seed)
        .prompt;
  return read_text(o.file);
}

/// Largest score of a token in the layers in which it is a sink.
double score_of(const probe::SinkReport& report, const probe::Sink& sink) {
  return report.scores.select(1, sink.token).slice(0, sink.created, report.end).max().item<double>();
}

std::string shown(const formats::Tokenizer& tokenizer, int64_t id) {
  return nlohmann::json(tokenizer.decode({&id, 1})).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

nlohmann::ordered_json as_json(const probe::SinkReport& report, const ProbeSinks& o) {
  const auto rows = [](const torch::Tensor& x) {
    auto list = nlohmann::ordered_json::array();
    const auto all = x.to(torch::kFloat64).contiguous();
    for (int64_t l = 0; l < all.size(0); ++l) {
      const auto* row = all[l].data_ptr<double>();
      list.push_back(std::vector<double>(row, row + all.size(1)));
    }
    return list;
  };
  nlohmann::ordered_json json{{"model", o.model},
                              {"layers", {report.begin, report.end}},
                              {"first_token_weight", rows(report.first)},
                              {"norms", rows(report.norms)},
                              {"cosines", rows(report.cosines)},
                              {"scores", rows(report.scores)},
                              {"directions", rows(report.directions)}};
  json["secondary"] = json["later"] = nlohmann::ordered_json::array();
  for (const auto& s : report.sinks) {
    nlohmann::ordered_json stages;
    for (const auto& [name, cosine] : s.stages) stages[name] = cosine;
    json["secondary"].push_back({{"token", s.token},
                                 {"created", s.created},
                                 {"lifetime", s.lifetime},
                                 {"level", to_string(s.level)},
                                 {"score", score_of(report, s)},
                                 {"by_mlp", s.by_mlp},
                                 {"stages", stages}});
  }
  for (const auto& s : report.later)
    json["later"].push_back({{"layer", s.layer}, {"head", s.head}, {"token", s.token}, {"weight", s.weight}});
  return json;
}

void print(const probe::SinkReport& report, const formats::Tokenizer& tokenizer, const torch::Tensor& tokens,
           int64_t most) {
  fmt::print("the first token, {}\n{:>5} {:>10} {:>14} {:>14}\n", shown(tokenizer, tokens[0][0].item<int64_t>()),
             "layer", "norm", "weight, mean", "weight, most");
  for (int64_t l = 0; l < report.norms.size(0); ++l)
    fmt::print("{:>5} {:>10.2f} {:>14.4f} {:>14.4f}\n", l, report.norms[l][0].item<double>(),
               report.first[l].mean().item<double>(), report.first[l].max().item<double>());
  fmt::print("its state is large after layers {} to {}; {} other tokens join its direction\n", report.begin,
             report.end - 1, report.sinks.size());
  if (!report.sinks.empty())
    fmt::print("{:>6} {:<10} {:>7} {:>8} {:<9} {:>7}  {}\n", "token", "text", "created", "lifetime", "level", "weight",
               "cosines of the channel mixer's stages there");
  int64_t left = most;
  for (const auto& s : report.sinks) {
    if (left-- == 0) break;
    std::string stages;
    for (const auto& [name, cosine] : s.stages) stages += fmt::format(" {} {:.2f}", name, cosine);
    fmt::print("{:>6} {:<10} {:>7} {:>8} {:<9} {:>7.4f} {}{}\n", s.token,
               shown(tokenizer, tokens[0][s.token].item<int64_t>()), s.created, s.lifetime, to_string(s.level),
               score_of(report, s), stages, s.by_mlp ? "; made there" : "");
  }
  fmt::print("{} later sinks (layer.head: token, weight):", report.later.size());
  left = most;
  for (const auto& s : report.later) {
    if (left-- == 0) break;
    fmt::print(" {}.{}: {} {:.2f}", s.layer, s.head, s.token, s.weight);
  }
  fmt::print("\n");
}

/// The sinks with the channel mixers' sink vectors at one norm.
struct Steered {
  double norm = 0;
  size_t sinks = 0;
  double score = 0, lifetime = 0;  // means
};

Steered steered_at(double norm, const ProbeSinks& o, DecoderLm& model, const torch::Tensor& tokens,
                   const probe::SinkReport& plain) {
  probe::SinkSteering steering(plain.mlp, plain.begin, plain.end, norm);
  const auto report = find_sinks(model, tokens, o.options, &steering);
  Steered result{norm, report.sinks.size()};
  const double count = std::max<double>(1, double(result.sinks));
  for (const auto& s : report.sinks) {
    result.score += score_of(report, s) / count;
    result.lifetime += double(s.lifetime) / count;
  }
  return result;
}

std::string figure(const bench::PlotAxes& axes, const std::vector<bench::Series>& series) {
  std::vector<double> ticks;
  for (const auto& [x, y] : series.front().points) ticks.push_back(x);
  return fmt::format("<h2>{}</h2>\n<figure>\n{}</figure>\n", axes.title, line_plot(axes, series, ticks));
}

std::string page_of(const ProbeSinks& o, const probe::SinkReport& report, const std::vector<Steered>& steered) {
  using bench::Unit;
  std::vector<bench::Series> weights{{"mean of heads", {0}, {}, {}}, {"largest head", {1}, {}, {}}},
      norms{{"first token", {0}, {}, {}}};
  const auto add = [](bench::Series& series, double x, double y) {
    series.points.push_back({x, y});
    series.tooltips.push_back(fmt::format("{:g}: {:.4g}", x, y));
  };
  for (int64_t l = 0; l < report.norms.size(0); ++l) {
    add(weights[0], double(l), report.first[l].mean().item<double>());
    add(weights[1], double(l), report.first[l].max().item<double>());
    add(norms[0], double(l), report.norms[l][0].item<double>());
  }
  std::string body = figure({"Weight on the first token", "layer", "mean weight", Unit::value, Unit::share}, weights) +
                     figure({"Norm of the first token's state", "layer", "norm", Unit::value, Unit::value}, norms);
  if (!steered.empty()) {
    std::vector<bench::Series> score{{"sinks", {0}, {}, {}}}, lifetime = score;
    for (const auto& s : steered) {
      add(score[0], s.norm, s.score);
      add(lifetime[0], s.norm, s.lifetime);
    }
    const auto* norm = "norm of the channel mixers' sink vectors";
    body += figure({"Weight of secondary sinks", norm, "mean weight", Unit::value, Unit::value}, score) +
            figure({"Lifetime of secondary sinks", norm, "layers", Unit::value, Unit::value}, lifetime);
  }
  return bench::page(
      "heed probe sinks", "Where attention sinks",
      fmt::format("{}: {} secondary sinks, {} later ones", o.model, report.sinks.size(), report.later.size()), body,
      "");
}

void run(ProbeSinks& o) {
  apply(o.common);
  if (o.model.empty()) o.model = find_asset("tiny-lm").string();
  auto lm = checkpoint::load_language_model(o.model);
  const auto tokens = torch::tensor(lm.tokenizer.encode(text_of(o))).unsqueeze(0);
  require(tokens.size(1) <= lm.model->config().max_length, "a text of {} tokens: the model's context is {}",
          tokens.size(1), lm.model->config().max_length);
  const auto report = find_sinks(lm.model, tokens, o.options);
  if (!o.save.empty())
    checkpoint::save_tensors(o.save, {{"directions", report.directions}, {"mlp_of_first_token", report.mlp}});
  auto json = as_json(report, o);
  const bool quiet = o.common.json_given && o.common.json == "-";
  if (!quiet) print(report, lm.tokenizer, tokens, o.most);
  std::vector<Steered> steered;
  for (const double norm : o.norms) {
    const auto& s = steered.emplace_back(steered_at(norm, o, lm.model, tokens, report));
    json["steered"].push_back({{"norm", norm}, {"sinks", s.sinks}, {"score", s.score}, {"lifetime", s.lifetime}});
    if (!quiet)
      fmt::print("channel mixers along the first token's at norm {}: {} sinks, weight {:.4f}, lifetime {:.1f}\n", norm,
                 s.sinks, s.score, s.lifetime);
  }
  if (!o.html.empty()) formats::write_file(o.html, page_of(o, report, steered));
  write_json(o.common, json.dump(1));
}

}  // namespace

void add_probe_sinks(CLI::App& probe) {
  auto o = std::make_shared<ProbeSinks>();
  auto* sinks = probe.add_subcommand(
      "sinks",
      "tokens that draw attention without being asked for: the first one, later ones, and secondary sinks with the\n"
      "layer that makes them\nexample: heed probe sinks --context 2000 --norms 0,50,100");
  sinks->add_option("--model", o->model, "folder of the checkpoint (default: the shipped one)");
  sinks->add_option("--file", o->file, "a text (default: generated prose)");
  sinks->add_option("--context", o->context, "bytes of the generated text (default 1024)")
      ->check(CLI::Range(64, 1 << 24));
  sinks->add_option("--cosine", o->options.cosine, "with the first token's state, of a sink (default 0.9)")
      ->check(number(0, 1));
  sinks->add_option("--threshold", o->options.threshold, "mean weight of a later sink (default 0.1)")
      ->check(number(0, 1));
  sinks->add_option("--norms", o->norms, "measure again with the channel mixers' sink vectors at these norms")
      ->delimiter(',')
      ->check(number(0));
  sinks->add_option("--show", o->most, "sinks of each kind that are printed (default 24)")->check(whole(1));
  sinks->add_option("--html", o->html, "write a page: the first token by layer, sinks by the norms of --norms")
      ->check(writable_file());
  sinks->add_option("--save-directions", o->save, "write the first token's directions to this safetensors file")
      ->check(writable_file());
  add_seed(*sinks, o->common);
  add_threads(*sinks, o->common);
  add_json(*sinks, o->common);
  sinks->callback([o] { run(*o); });
}

}  // namespace heed::cli
