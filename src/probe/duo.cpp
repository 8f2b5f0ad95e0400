#include "heed/probe/duo.h"

#include <algorithm>
#include <numeric>

#include "cache/head_sets.h"
#include "heed/cache/evaluate.h"
#include "heed/error.h"
#include "heed/probe/head_scores.h"
#include "heed/tasks/random.h"
#include "tasks/passkeys.h"

namespace heed::probe {
namespace {

using checkpoint::HeadTable;
using torch::Tensor;

constexpr int64_t kPapersContext = 32000, kPapersWords = 32, kPasskeys = 10;

HeadTable kv_table(const std::string& name, const Tensor& values) {
  HeadTable table(name, HeadTable::Axis::kv, values.size(0), values.size(1));
  for (int64_t l = 0; l < table.layers(); ++l)
    for (int64_t h = 0; h < table.heads(); ++h) table.set(l, h, values[l][h].item<double>());
  return table;
}

/// As duo_attention's setting `streaming`.
nlohmann::json as_setting(const cache::HeadSet& heads) {
  auto pairs = nlohmann::json::array();
  for (size_t l = 0; l < heads.size(); ++l)
    for (size_t h = 0; h < heads[l].size(); ++h)
      if (heads[l][h]) pairs.push_back({l, h});
  return pairs;
}

}  // namespace

std::unique_ptr<tasks::TextTask> passkeys_for(int64_t context, uint64_t seed, const tasks::Corpus* text) {
  const int64_t words = std::clamp<int64_t>(context * kPapersWords / kPapersContext, 1, kPapersWords);
  // A passkey of w words stands twice in at most 9 w bytes, each time in a sentence of 30 more.
  const int64_t least = kPasskeys * 2 * (9 * words + 30);
  nlohmann::json parameters{{"max_tokens", context}, {"words", words}, {"seed", int64_t(seed)}};
  const int64_t fit = std::clamp<int64_t>(kPasskeys * (context / 2) / least, 1, kPasskeys);  // in half of the context
  parameters["passkeys"] = fit;
  parameters["min_tokens"] = std::min(context, 2 * least * fit / kPasskeys);
  if (!text) return std::make_unique<tasks::PasskeysTask>(parameters);
  parameters["filler"] = "text";
  const auto stream = text->stream(tasks::Split::train);
  require(!stream.empty(), "the train split of the text is empty");
  return std::make_unique<tasks::PasskeysTask>(
      parameters, tasks::byte_count, [stream](tasks::Random& random, size_t bytes) {
        bytes = std::min(bytes, stream.size());
        std::string piece(stream.substr(random.below(stream.size() - bytes + 1), bytes));
        std::replace(piece.begin(), piece.end(), '\0', '\n');
        return piece;
      });
}

train::LabelledTokens labelled_tokens(const formats::Tokenizer& tokenizer, const tasks::TaskSample& sample) {
  const auto text = sample.text();
  const auto begin = size_t(sample.scored.front().begin);
  auto ids = tokenizer.encode(text.substr(0, begin));
  const auto tail = tokenizer.encode(text.substr(begin), false);
  ids.insert(ids.end(), tail.begin(), tail.end());
  return {torch::tensor(ids).unsqueeze(0), int64_t(tail.size())};
}

HeadTable duo_gates(const checkpoint::LanguageModel& lm, const tasks::TextTask& task, const train::DuoOptions& options,
                    double* distance, const std::function<void(int64_t step, double distance)>& report) {
  auto model = lm.model;
  const auto training = train::train_duo_gates(
      model, options,
      [&](int64_t step) { return labelled_tokens(lm.tokenizer, task.sample(tasks::Split::train, uint64_t(step))); },
      report);
  if (distance) *distance = training.distance;
  return kv_table("duo_attention gates", training.gates);
}

double ChoiceScore::mean() const {
  return scores.empty() ? 0 : std::accumulate(scores.begin(), scores.end(), 0.0) / double(scores.size());
}

std::vector<ChoiceScore> compare_choices(const checkpoint::LanguageModel& lm, const HeadTable& gates,
                                         const ChoiceOptions& o,
                                         const std::function<void(int64_t done, int64_t total)>& progress) {
  const auto shape = cache::shape_of(lm.model->config());
  gates.check_fits(shape.layers, shape.heads, shape.kv_heads);
  require(o.samples >= 1 && o.draws >= 1, "samples and draws of 1 or more are accepted");
  HeadScoreOptions scored;
  scored.parameters = {{"max_tokens", o.context}};
  scored.samples = 4;
  scored.sequences = 1;
  scored.seed = o.seed;
  const auto entropy = to_table(score_heads(lm, scored).at("entropy"));

  std::vector<ChoiceScore> all;
  int64_t done = 0;
  const auto total = int64_t(o.tasks.size()) * (3 + int64_t(o.sparsities.size()) * (2 + o.draws));
  for (const auto& name : o.tasks) {
    const auto task = tasks::make_text_task(name, {{"max_tokens", o.context}}, cache::token_count(lm));
    const auto score = [&](const nlohmann::json& streaming, int64_t sinks) {
      const auto policy = cache::make_policy("duo_attention",
                                             {{"streaming", streaming}, {"sinks", sinks}, {"recent", o.recent}}, shape);
      const double result = score_task(lm, policy, *task, tasks::Split::test, o.samples).score;
      if (progress) progress(++done, total);
      return result;
    };
    all.push_back({name, "full", 0, {score("none", o.sinks)}});
    for (const double q : o.sparsities) {
      require(q >= 0 && q <= 1, "a sparsity of {}: 0 to 1 is accepted", q);
      const auto smallest = [&](const HeadTable& table) {
        return as_setting(cache::smallest_heads(table, q, o.seed, shape));
      };
      all.push_back({name, "gates", q, {score(smallest(gates), o.sinks)}});
      all.push_back({name, "entropy", q, {score(smallest(entropy), o.sinks)}});
      ChoiceScore random{name, "random", q, {}};
      for (int64_t d = 0; d < o.draws; ++d) {
        tasks::Random draw(tasks::hash64("streaming heads") + o.seed, uint64_t(d));
        HeadTable table("random", HeadTable::Axis::kv, shape.layers, shape.kv_heads);
        for (int64_t l = 0; l < shape.layers; ++l)
          for (int64_t h = 0; h < shape.kv_heads; ++h) table.set(l, h, draw.uniform());
        random.scores.push_back(score(smallest(table), o.sinks));
      }
      all.push_back(random);
    }
    all.push_back({name, "streaming", 1, {score("all", o.sinks)}});
    all.push_back({name, "window", 1, {score("all", 0)}});
  }
  return all;
}

}  // namespace heed::probe
