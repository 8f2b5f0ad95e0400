#include "heed/cache/evaluate.h"

#include <algorithm>
#include <cmath>

#include "heed/error.h"

namespace heed::cache {

using torch::Tensor;

TextScore score_text(const checkpoint::LanguageModel& lm, const Policy* policy, const tasks::Corpus& corpus,
                     tasks::Split split, int64_t context, int64_t most_windows, const ProgressFunction& progress) {
  torch::NoGradGuard no_grad;
  auto model = lm.model;
  model->eval();
  const auto ids = lm.tokenizer.encode(corpus.stream(split), false);
  const int64_t windows = (int64_t(ids.size()) - 1) / context;
  require(windows > 0, "the {} split has {} tokens, fewer than one window of {}", tasks::name_of(split), ids.size(),
          context + 1);
  TextScore score;
  score.windows = std::min(windows, most_windows);
  double nats = 0;
  int64_t bytes = 0;
  for (int64_t w = 0; w < score.windows; ++w) {
    const int64_t begin = w * windows / score.windows * context, scored = policy ? context - context / 2 : context;
    const auto tokens = torch::tensor(at::ArrayRef<int64_t>(ids.data() + begin, size_t(context + 1))).unsqueeze(0);
    Tensor logits;
    if (policy) {
      Session session(model, *policy);
      const int64_t prompt = context - scored + 1;
      const auto first = session.prefill(tokens.narrow(1, 0, prompt), context);
      logits = torch::cat({first.unsqueeze(1), session.steps(tokens.narrow(1, prompt, scored - 1))}, 1);
    } else {
      logits = model->forward(tokens.narrow(1, 0, context));
    }
    const auto targets = tokens.slice(1, context + 1 - scored);
    nats -= logits.to(torch::kFloat64).log_softmax(-1).gather(2, targets.unsqueeze(2)).sum().item<double>();
    const auto* last = ids.data() + begin + context + 1 - scored;
    bytes += int64_t(lm.tokenizer.decode({last, size_t(scored)}, false).size());
    score.tokens += scored;
    if (progress) progress(w + 1, score.windows);
  }
  score.nats = nats / double(score.tokens);
  score.perplexity = std::exp(score.nats);
  score.bits_per_byte = nats / double(bytes) / std::log(2.0);
  return score;
}

Fidelity fidelity(const Tensor& full, const Tensor& policy, const Tensor& next) {
  Fidelity result;
  result.positions = full.size(0);
  const auto p = full.to(torch::kFloat64).log_softmax(-1), q = policy.to(torch::kFloat64).log_softmax(-1);
  // A token of probability 0 adds nothing, whatever the other says of it.
  const auto kl = (p.exp() * (p - q)).nan_to_num(0, INFINITY).sum(-1).clamp_min(0);
  result.kl = kl.mean().item<double>();
  result.kl_p95 = kl.quantile(0.95).item<double>();
  result.kl_max = kl.max().item<double>();
  result.top1 = p.argmax(-1).eq(q.argmax(-1)).to(torch::kFloat64).mean().item<double>();
  const int64_t five = std::min<int64_t>(5, p.size(-1));
  const auto a = std::get<1>(p.topk(five)).unsqueeze(2), b = std::get<1>(q.topk(five)).unsqueeze(1);
  result.top5_overlap = a.eq(b).any(2).to(torch::kFloat64).mean().item<double>();
  result.nll_delta = (p - q).gather(1, next.unsqueeze(1)).mean().item<double>();
  return result;
}

tasks::TokenCount token_count(const checkpoint::LanguageModel& lm) {
  return [tokenizer = lm.tokenizer](std::string_view text) { return int64_t(tokenizer.encode(text).size()); };
}

Answer answer(const checkpoint::LanguageModel& lm, const Policy& policy, const tasks::TaskSample& sample, int64_t bytes,
              int64_t chunk) {
  const auto alone = lm.tokenizer.encode(sample.prompt), whole = lm.tokenizer.encode(sample.text());
  const auto end = std::mismatch(alone.begin(), alone.end(), whole.begin(), whole.end()).second;
  const std::vector<int64_t> prompt(whole.begin(), end), expected(end, whole.end());
  require(!prompt.empty(), "a task's prompt has no token that its answer leaves as it is");
  const bool joins = prompt.size() < alone.size();

  Session session(lm.model, policy, 1, chunk);
  auto logits =
      session.prefill(torch::tensor(prompt, torch::kInt64).unsqueeze(0), int64_t(prompt.size()) + bytes + 1)[0];
  session.finish_prompt();
  formats::TextStream stream(lm.tokenizer);
  std::vector<int64_t> ids;
  std::string text;
  const auto blanks = [&] { return joins ? std::min(text.find_first_not_of(' '), text.size()) : 0; };
  const int64_t most = std::max(bytes + 1, int64_t(expected.size()));  // no token is shorter than a byte
  while (true) {
    ids.push_back(logits.argmax().item<int64_t>());
    if (std::find(lm.eos.begin(), lm.eos.end(), ids.back()) != lm.eos.end()) break;
    text += stream.push(ids.back());
    if (int64_t(ids.size()) >= most) break;
    if (int64_t(text.size() - blanks()) >= bytes && ids.size() >= expected.size()) break;
    logits = session.step(torch::tensor({ids.back()}, torch::kInt64))[0];
  }
  text += stream.finish();
  return {text.substr(blanks(), size_t(bytes)),
          ids.size() >= expected.size() && std::equal(expected.begin(), expected.end(), ids.begin())};
}

TaskScore score_task(const checkpoint::LanguageModel& lm, const Policy& policy, const tasks::TextTask& task,
                     tasks::Split split, int64_t samples, const ProgressFunction& progress) {
  TaskScore result;
  result.samples = samples;
  double sum = 0;
  for (int64_t i = 0; i < samples; ++i) {
    const auto sample = task.sample(split, uint64_t(i));
    const auto given = answer(lm, policy, sample, task.answer_bytes());
    sum += task.score(sample, given.text);
    result.match_all += tasks::match_all(given.text, sample.answers) / double(samples);
    result.match_any += tasks::match_any(given.text, sample.answers) / double(samples);
    result.exact += tasks::exact(given.text, sample.continuation) / double(samples);
    result.forced += double(given.forced) / double(samples);
    if (progress) progress(i + 1, samples);
  }
  result.score = sum / double(samples);
  result.interval = tasks::wilson(std::llround(sum), samples);
  return result;
}

}  // namespace heed::cache
