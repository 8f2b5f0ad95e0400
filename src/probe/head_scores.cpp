#include "heed/probe/head_scores.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "heed/cache/evaluate.h"
#include "heed/error.h"
#include "heed/names.h"
#include "heed/tasks/task.h"
#include "probe/greedy.h"
#include "probe/observed_layer.h"
#include "probe/repeated_tokens.h"

namespace heed::probe {
namespace {

using torch::Tensor;

constexpr const char* kRetrievalMeaning = "share of the needle's tokens copied while answering";
constexpr const char* kInductionMeaning = "mass on what followed the earlier occurrences of the current token";

constexpr std::pair<const char*, const char*> kMeanings[] = {
    {"retrieval", kRetrievalMeaning},
    {"retrieval_events", "steps that copied from the needle, over its length"},
    {"induction", kInductionMeaning},
    {"echo", "mass on the earlier occurrences of the current token"},
    {"previous", "mass on the token before"},
    {"streaming", "mass on sinks and recent tokens"},
    {"first", "mass on the first token"},
    {"later_sinks", "mass on later sinks: tokens that draw much of the head's weight from all that see them"},
    {"entropy", "entropy of the weights, nats"},
    {"distance", "mean distance looked back, tokens"}};

constexpr int64_t kRowsOfAPrompt = 128;  // whose weights are measured
constexpr int64_t kRowsOfASink = 16;     // of them see a token that counts as a sink

struct Sums {
  explicit Sums(const DecoderConfig& config) : layers(int64_t(config.layers.size())), heads(config.heads) {}

  Tensor& of(const char* name) {
    auto& sum = sums[name];
    if (!sum.defined()) sum = torch::zeros({layers, heads}, torch::kFloat64);
    return sum;
  }
  /// Adds values [B, H, R], summed over sequences and rows.
  void add(const char* name, int64_t layer, const Tensor& values) {
    of(name)[layer] += values.to(torch::kFloat64).sum(0).sum(1);
  }

  int64_t layers, heads;
  std::map<std::string, Tensor> sums;
};

cache::Session observed_session(const checkpoint::LanguageModel& lm, const Observer& observer, int64_t batch = 1) {
  cache::Session session(lm.model, cache::make_policy("full", {}, cache::shape_of(lm.model->config())), batch);
  replace_caches(session, [&](int64_t) { return std::make_unique<ObservedLayer>(observer); });
  return session;
}

/// What tokens get from the measured rows of one prompt.
struct Received {
  Received(int64_t layers, int64_t heads, int64_t tokens)
      : columns(torch::zeros({layers, heads, tokens}, torch::kFloat64)),
        rows(torch::zeros({tokens}, torch::kFloat64)) {}

  void add(int64_t layer, const Tensor& weights, const Tensor& positions) {
    const int64_t tokens = weights.size(3);
    columns[layer].slice(1, 0, tokens) += weights.to(torch::kFloat64).sum(2).sum(0);
    if (!counts(layer)) return;
    rows.slice(0, 0, tokens) += (positions.unsqueeze(1) >= torch::arange(tokens)).sum(0);
  }

  /// Whether the rows of this layer are counted: of one layer, the first that attends.
  bool counts(int64_t layer) {
    if (first_layer < 0) first_layer = layer;
    return layer == first_layer;
  }

  /// Sums over the rows, as of the other scores: the first token, and tokens behind it that are sinks of the head.
  void add_to(Sums& sums, double threshold) const {
    sums.of("first") += columns.select(2, 0);
    const auto sinks = (columns > threshold * rows) & (rows >= double(kRowsOfASink));
    sums.of("later_sinks") += (columns * sinks).slice(2, 1).sum(2);
  }

  int64_t first_layer = -1;
  Tensor columns, rows;  // float64 [L, H, N]; [N]: rows that see a token
};

/// Rows of the second half of a prompt, spread evenly.
Observer prompt_observer(int64_t length, const HeadScoreOptions& o, Sums& sums, Received& received,
                         int64_t& rows_seen) {
  Observer observer;
  observer.rows = [=](int64_t first, int64_t size) {
    const int64_t stride = std::max<int64_t>(1, length / 2 / kRowsOfAPrompt), half = std::max<int64_t>(1, length / 2);
    const int64_t begin = first >= half ? first + (stride - (first - half) % stride) % stride : half;
    return begin < first + size ? torch::arange(begin - first, size, stride) : Tensor();
  };
  observer.weights = [&sums, &received, &rows_seen, o](int64_t layer, const Tensor& weights, const Tensor& positions) {
    const auto distance = positions.unsqueeze(1) - torch::arange(weights.size(3));
    const auto at = [&](const Tensor& pairs) { return (weights * pairs).sum(3); };
    sums.add("previous", layer, at(distance == 1));
    sums.add("streaming", layer, at((distance < o.recent) | (torch::arange(weights.size(3)) < o.sinks)));
    sums.add("entropy", layer, -torch::xlogy(weights, weights).sum(3));
    sums.add("distance", layer, at(distance.clamp_min(0)));
    received.add(layer, weights, positions);
    if (received.counts(layer)) rows_seen += positions.numel();
  };
  return observer;
}

/// Adds to retrieval and retrieval_events what each head copies from tokens [begin, end) during the answer.
struct Copies {
  Copies(const std::vector<int64_t>& prompt, int64_t begin, int64_t end, int64_t layers, int64_t heads)
      : prompt(prompt), begin(begin), end(end), looked(torch::full({layers, heads}, -1, torch::kInt64)) {
    copied.resize(size_t(layers * heads));
    events.resize(copied.size());
  }

  void emitted(int64_t token) {
    const auto* at = looked.data_ptr<int64_t>();
    for (size_t i = 0; i < copied.size(); ++i)
      if (at[i] >= begin && at[i] < end && prompt[size_t(at[i])] == token) {
        copied[i].insert(token);
        ++events[i];
      }
    looked.fill_(-1);
  }

  void add_to(Sums& sums) const {
    const std::set<int64_t> needle(prompt.begin() + begin, prompt.begin() + end);
    auto* set = sums.of("retrieval").data_ptr<double>();
    auto* count = sums.of("retrieval_events").data_ptr<double>();
    for (size_t i = 0; i < copied.size(); ++i) {
      set[i] += double(copied[i].size()) / double(needle.size());
      count[i] += double(events[i]) / double(end - begin);
    }
  }

  const std::vector<int64_t>& prompt;
  int64_t begin, end;
  Tensor looked;  // int64 [L, H]: where the largest weight of this step lies
  std::vector<std::set<int64_t>> copied;
  std::vector<int64_t> events;
};

void score_repeated(const checkpoint::LanguageModel& lm, const HeadScoreOptions& o, HeadScores& result, Sums& sums) {
  for (int64_t s = 0; s < o.sequences; ++s) {
    const auto text = repeated_tokens(lm, o, s);
    const int64_t n = text.period;
    Observer observer;
    observer.rows = [&](int64_t first, int64_t size) {
      const int64_t begin = std::max<int64_t>(0, text.first + n - first);
      return begin < size ? torch::arange(begin, size) : Tensor();
    };
    observer.weights = [&](int64_t layer, const Tensor& weights, const Tensor& positions) {
      for (int64_t m = 1; m < o.copies; ++m) {
        const auto rows = (positions >= text.first + m * n).nonzero().flatten();
        if (rows.numel() == 0) continue;
        const auto found = (positions.index_select(0, rows) - m * n).view({1, 1, -1, 1});
        const auto chosen = weights.index_select(2, rows);
        const auto at = [&](const Tensor& keys) {
          return chosen.gather(3, keys.expand({chosen.size(0), chosen.size(1), -1, 1})).squeeze(3);
        };
        sums.add("echo", layer, at(found));
        sums.add("induction", layer, at(found + 1));
      }
    };
    observed_session(lm, observer).prefill(as_tokens(text.ids));
    result.repeated = n;
  }
  for (const char* name : {"echo", "induction"})
    sums.of(name) /= double(o.sequences * result.repeated * (o.copies - 1));
}

void score_task(const checkpoint::LanguageModel& lm, const HeadScoreOptions& o, HeadScores& result, Sums& sums,
                const ProgressFunction& progress) {
  const auto task = tasks::make_text_task(o.task, o.parameters, cache::token_count(lm));
  int64_t rows = 0;
  for (int64_t i = 0; i < o.samples; ++i) {
    const auto sample = task->sample(tasks::Split::valid, uint64_t(i));
    require(!sample.answer_spans.empty(), "task {}: its samples do not say where the answer stands", o.task);
    const auto ids = lm.tokenizer.encode(sample.prompt);
    const auto [begin, end] = tokens_of(lm.tokenizer, ids, std::string(sample.answer_spans[0].of(sample.prompt)));
    require(begin < end, "task {}: the answer is not found among the tokens of the prompt", o.task);
    Copies copies(ids, begin, end, sums.layers, sums.heads);
    Received received(sums.layers, sums.heads, int64_t(ids.size()));
    auto observer = prompt_observer(int64_t(ids.size()), o, sums, received, rows);
    observer.arg_max = [&](int64_t layer, const Tensor& tokens) { copies.looked[layer].copy_(tokens[0]); };
    auto session = observed_session(lm, observer);
    const auto text =
        greedy_answer(session, lm, ids, task->answer_bytes(), [&](int64_t token) { copies.emitted(token); });
    received.add_to(sums, o.sink_weight);
    if (task->score(sample, text) > 0.5) {
      ++result.answered;
      copies.add_to(sums);
    }
    if (progress) progress(i + 1, o.samples);
  }
  result.samples = o.samples;
  for (const char* name : {"retrieval", "retrieval_events"})
    sums.of(name) /= double(std::max<int64_t>(1, result.answered));
  for (const char* name : {"previous", "streaming", "first", "later_sinks", "entropy", "distance"})
    sums.of(name) /= double(std::max<int64_t>(1, rows));
}

}  // namespace

std::vector<std::string> head_score_names() {
  std::vector<std::string> names;
  for (const auto& [name, meaning] : kMeanings) names.push_back(name);
  return names;
}

const HeadScore& HeadScores::at(const std::string& name) const {
  std::vector<std::string> names;
  for (const auto& score : scores) {
    if (score.name == name) return score;
    names.push_back(score.name);
  }
  fail("unknown head score {}: {}", name, suggest(name, names));
}

HeadScores score_heads(const checkpoint::LanguageModel& lm, const HeadScoreOptions& options,
                       const ProgressFunction& progress) {
  require(options.samples >= 1 && options.sequences >= 1 && options.copies >= 2 && options.sinks >= 0 &&
              options.recent >= 1,
          "samples, sequences and recent of 1 or more, copies of 2 or more, sinks of 0 or more are accepted");
  torch::NoGradGuard no_grad;
  HeadScores result;
  Sums sums(lm.model->config());
  score_task(lm, options, result, sums, progress);
  score_repeated(lm, options, result, sums);
  for (const auto& [name, meaning] : kMeanings) result.scores.push_back({name, meaning, sums.of(name)});
  return result;
}

HeadScores retrieval_scores(const checkpoint::LanguageModel& lm, const HeadScoreOptions& options,
                            const ProgressFunction& progress) {
  require(options.samples >= 1, "samples of 1 or more are accepted");
  torch::NoGradGuard no_grad;
  HeadScores result;
  Sums sums(lm.model->config());
  score_task(lm, options, result, sums, progress);
  result.scores.push_back({"retrieval", kRetrievalMeaning, sums.of("retrieval")});
  return result;
}

double rank_correlation(const HeadScore& a, const HeadScore& b) {
  require(a.values.sizes() == b.values.sizes(), "scores of different models have no rank correlation");
  // The rank of a value: how many are smaller, and half of its equals.
  const auto ranks = [](const HeadScore& score) {
    const auto values = score.values.flatten();
    const auto rows = values.unsqueeze(1);
    const auto ranks = (rows > values).to(torch::kFloat64).sum(1) + 0.5 * (rows == values).to(torch::kFloat64).sum(1);
    return ranks - ranks.mean();
  };
  const auto x = ranks(a), y = ranks(b);
  return (x * y).sum().item<double>() / std::sqrt((x * x).sum().item<double>() * (y * y).sum().item<double>());
}

HeadScore induction_scores(const checkpoint::LanguageModel& lm, const HeadScoreOptions& options) {
  require(options.sequences >= 1 && options.copies >= 2, "1 or more sequences and 2 or more copies are accepted");
  torch::NoGradGuard no_grad;
  HeadScores result;
  Sums sums(lm.model->config());
  score_repeated(lm, options, result, sums);
  return {"induction", kInductionMeaning, sums.of("induction")};
}

checkpoint::HeadTable to_table(const HeadScore& score) {
  checkpoint::HeadTable table(score.name, checkpoint::HeadTable::Axis::query, score.values.size(0),
                              score.values.size(1));
  for (int64_t l = 0; l < table.layers(); ++l)
    for (int64_t h = 0; h < table.heads(); ++h) table.set(l, h, score.values[l][h].item<double>());
  return table;
}

}  // namespace heed::probe
