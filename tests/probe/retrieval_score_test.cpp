// Retrieval, induction and echo scores of a model made by hand, whose heads are known to copy all, some or none.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "heed/cache/evaluate.h"
#include "heed/probe/head_masking.h"
#include "heed/probe/head_scores.h"
#include "heed/tasks/task.h"
#include "probe/greedy.h"
#include "probe/observed_layer.h"

namespace heed::probe::retrieval_score_test {
namespace {

using torch::Tensor;

/// The oracle of induction as a decoder of bytes without training, that goes by the last `context` tokens. A token is a
/// code of 7 signs, so that the product of equal ones is 7 and of others 5 at most; BOS has none.
///
/// Layer 0: head d - 1 brings the code of the token d before, d = 1 .. context; the last head attends to its own token,
/// and nobody reads it. Layer 1, without positions, has a sink on BOS whose weight lies e^6 below a match of the whole
/// context and e^6 above any other:
///   copies  attends to what followed the context, and is the model's answer; nobody reads the others
///   halves  the same where the newest token is even, else to the sink
///   late    attends to the token after that
///   the others attend to the sink
struct Oracle {
  static constexpr int64_t kBits = 7, kTokens = 1 << kBits, kHeadDim = 64;
  static constexpr int64_t kCopies = 0, kHalves = 1, kLate = 2;  // heads of layer 1
  static constexpr double kSharp = 6;                            // of one sign of a code

  int64_t context;
  int64_t heads = std::max<int64_t>(context + 1, 4);
  bool blind = false;  // the sink beats every match

  // Channels of the residual stream: codes of the tokens 0 .. context before, the answer's, one for BOS, 1 elsewhere.
  int64_t code_at(int64_t back) const { return kBits * back; }
  int64_t answer() const { return kBits * (context + 1); }
  int64_t bos() const { return kBits * (context + 2); }
  int64_t dim() const { return bos() + 2; }

  static Tensor code(int64_t token) {
    auto signs = torch::empty({kBits});
    for (int64_t bit = 0; bit < kBits; ++bit) signs[bit] = token >> bit & 1 ? 1.0 : -1.0;
    return signs;
  }

  checkpoint::LanguageModel make() const;

 private:
  void write_first(torch::OrderedDict<std::string, Tensor>& weights) const;
  void write_second(torch::OrderedDict<std::string, Tensor>& weights) const;
  /// weight[row + i][column + i] = value for the signs of a code.
  static void carry(const Tensor& weight, int64_t row, int64_t column, double value) {
    for (int64_t i = 0; i < kBits; ++i) weight[row + i][column + i] = value;
  }
};

void Oracle::write_first(torch::OrderedDict<std::string, Tensor>& weights) const {
  const auto at = [&](const char* name) { return weights["layers_0." + std::string(name)]; };
  // Tokens have the squared length 8: what the norm divides by comes back with its weight.
  at("input_layernorm.weight").fill_(std::sqrt(8 / double(dim())));
  nn::PositionsConfig rope;
  rope.kind = "rope";
  const nn::Positions rotary(rope, kHeadDim, 1, true);
  const auto toward = torch::cat({torch::ones({kHeadDim / 2}), torch::zeros({kHeadDim / 2})});
  for (const int64_t one : {bos(), bos() + 1}) {
    at("self_attn.k_proj.weight").select(1, one).copy_(one == bos() ? toward / std::sqrt(8.0) : toward);
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t back = h < context ? h + 1 : 0;
      const auto there = rotary->rotate(toward.view({1, 1, 1, -1}), torch::full({1}, -back, torch::kInt64));
      at("self_attn.q_proj.weight").select(1, one).narrow(0, h * kHeadDim, kHeadDim).copy_(20 * there.flatten());
    }
  }
  carry(at("self_attn.v_proj.weight"), 0, code_at(0), 1);
  for (int64_t h = 0; h < context; ++h) carry(at("self_attn.o_proj.weight"), code_at(h + 1), h * kHeadDim, 1);
}

void Oracle::write_second(torch::OrderedDict<std::string, Tensor>& weights) const {
  const auto at = [&](const char* name) { return weights["layers_1." + std::string(name)]; };
  // BOS and the first tokens, with fewer tokens before them, are shorter: the norm makes their codes larger, never as
  // large as a whole match.
  const double length = std::sqrt(double(8 + kBits * context));
  at("input_layernorm.weight").fill_(length / std::sqrt(double(dim())));
  // A key: the codes before it, and BOS behind them.
  const int64_t sink = kBits * context;
  for (int64_t back = 1; back <= context; ++back)
    carry(at("self_attn.k_proj.weight"), kBits * (back - 1), code_at(back), 1);
  at("self_attn.k_proj.weight")[sink][bos()] = 1 / length;
  carry(at("self_attn.v_proj.weight"), 0, code_at(0), 1);
  carry(at("self_attn.o_proj.weight"), answer(), kCopies * kHeadDim, 1);

  const auto q = at("self_attn.q_proj.weight");
  // The head asks for keys whose tokens before them are its own last ones, `skipped` of the key's left open.
  const auto ask = [&](int64_t head, int64_t skipped) {
    for (int64_t back = skipped + 1; back <= context; ++back)
      carry(q, head * kHeadDim + kBits * (back - 1), code_at(back - 1 - skipped), kSharp);
    q[head * kHeadDim + sink][bos() + 1] = kSharp * double(kBits * (context - skipped) - 1);
  };
  for (int64_t h = 0; h < heads; ++h) q[h * kHeadDim + sink][bos() + 1] = kSharp;
  ask(kCopies, 0);
  ask(kHalves, 0);
  // An odd token raises the sink by two signs, an even one lowers it.
  q[kHalves * kHeadDim + sink][code_at(0)] = 2 * kSharp;
  if (context > 1) ask(kLate, 1);
  if (blind) q[kCopies * kHeadDim + sink][bos() + 1] += 2 * kSharp;
}

checkpoint::LanguageModel Oracle::make() const {
  DecoderConfig config;
  config.vocab_size = kTokens;
  config.dim = dim();
  config.heads = heads;
  config.kv_heads = 1;
  config.head_dim = kHeadDim;
  config.hidden = 8;
  config.norm_eps = 1e-12;
  config.tie_embeddings = false;
  config.positions.kind = "rope";
  config.layers = {{"dense", {{"scale", 1}}},
                   {"dense", {{"scale", 1}, {"positions", nn::PositionsConfig().to_json()}}}};
  formats::SpecialTokens roles;
  roles.bos = 0;
  checkpoint::LanguageModel lm{DecoderLm(config), formats::Tokenizer::bytes(roles), {0}};
  torch::NoGradGuard no_grad;
  auto weights = lm.model->named_parameters();
  for (auto& weight : weights)
    if (weight.value().dim() == 2) weight.value().zero_();
  weights["embed_tokens.weight"][0][bos()] = std::sqrt(8.0);
  weights["lm_head.weight"][0][bos() + 1] = 1;  // the answer to nothing found
  for (int64_t token = 1; token < kTokens; ++token) {
    weights["embed_tokens.weight"][token].narrow(0, code_at(0), kBits).copy_(code(token));
    weights["embed_tokens.weight"][token][bos() + 1] = 1;
    weights["lm_head.weight"][token].narrow(0, answer(), kBits).copy_(code(token));
  }
  write_first(weights);
  write_second(weights);
  return lm;
}

/// The last 8 tokens before a needle's value hold its key: "abcd is ".
constexpr Oracle kOracle{.context = 8};

const checkpoint::LanguageModel& oracle() {
  static const auto lm = kOracle.make();
  return lm;
}

HeadScoreOptions needles(int64_t tokens, int64_t samples, int64_t depth = -1) {
  HeadScoreOptions options;
  options.parameters = {{"max_tokens", tokens}, {"depth", depth}};
  options.samples = samples;
  options.sequences = 1;
  options.repeated = 8;
  return options;
}

tasks::TaskSample sample_of(const HeadScoreOptions& options, int64_t i) {
  return tasks::make_text_task(options.task, options.parameters, cache::token_count(oracle()))
      ->sample(tasks::Split::valid, uint64_t(i));
}

/// The share of a needle's characters, and of its steps, that a head copies which copies those that `of` says.
struct Copied {
  double characters = 0, steps = 0;

  Copied(const std::string& needle, const std::function<bool(size_t)>& of) {
    std::set<char> copied;
    for (size_t t = 0; t < needle.size(); ++t)
      if (of(t)) copied.insert(needle[t]), steps += 1.0 / double(needle.size());
    characters = double(copied.size()) / double(std::set<char>(needle.begin(), needle.end()).size());
  }
};

Copied by_halves(const std::string& needle) {
  return {needle, [&](size_t t) { return t == 0 || needle[t - 1] % 2 == 0; }};  // a blank, which is even, comes before
}

/// The token behind the copied one is the emitted one, too, where a needle repeats a character.
Copied by_late(const std::string& needle) {
  return {needle, [&](size_t t) { return t + 1 < needle.size() && needle[t + 1] == needle[t]; }};
}

double value(const HeadScores& scores, const char* name, int64_t layer, int64_t head) {
  return scores.at(name).values[layer][head].item<double>();
}

TEST(RetrievalScore, IsOneOfTheHeadThatCopiesAndZeroOfThoseThatPrepareItAtEveryDepthAndLength) {
  for (const int64_t tokens : {150, 400})
    for (const int64_t depth : {0, 50, 100}) {
      const auto scores = score_heads(oracle(), needles(tokens, 3, depth));
      EXPECT_EQ(scores.answered, 3) << tokens << " tokens, depth " << depth;
      for (const char* name : {"retrieval", "retrieval_events"}) {
        EXPECT_EQ(value(scores, name, 1, Oracle::kCopies), 1) << name << ", " << tokens << " tokens, depth " << depth;
        EXPECT_EQ(scores.at(name).values[0].abs().max().item<double>(), 0) << name;
        EXPECT_EQ(scores.at(name).values[1].slice(0, Oracle::kLate + 1).abs().max().item<double>(), 0)
            << "a sink is a miss";
      }
    }
}

TEST(RetrievalScore, CountsDistinctTokensAndEventsCountSteps) {
  const auto options = needles(200, 12);
  const auto scores = score_heads(oracle(), options);
  ASSERT_EQ(scores.answered, 12);
  double halves = 0, half_steps = 0, late = 0, late_steps = 0;
  for (int64_t i = 0; i < 12; ++i) {
    const auto needle = sample_of(options, i).answers[0];
    halves += by_halves(needle).characters / 12, half_steps += by_halves(needle).steps / 12;
    late += by_late(needle).characters / 12, late_steps += by_late(needle).steps / 12;
  }
  // Samples that tell the two apart, and in which a token is found at the wrong place.
  ASSERT_NE(halves, half_steps);
  ASSERT_GT(late, 0);
  EXPECT_NEAR(value(scores, "retrieval", 1, Oracle::kHalves), halves, 1e-12);
  EXPECT_NEAR(value(scores, "retrieval_events", 1, Oracle::kHalves), half_steps, 1e-12);
  EXPECT_NEAR(value(scores, "retrieval", 1, Oracle::kLate), late, 1e-12);
  EXPECT_NEAR(value(scores, "retrieval_events", 1, Oracle::kLate), late_steps, 1e-12);
}

TEST(RetrievalScore, HasNoPartOfWhatIsCopiedFromOutsideTheNeedle) {
  // Long values have room for more than themselves: the answer goes on with the text behind the needle, whose sentences
  // stand before it, too.
  for (const int64_t depth : {50, 100}) {
    auto options = needles(500, 4, depth);
    options.parameters.update({{"value", "word"}, {"ids", "full"}});
    ASSERT_LT(sample_of(options, 0).answers[0].size(), 20);
    const auto scores = score_heads(oracle(), options);
    EXPECT_EQ(scores.answered, 4) << depth;
    for (const char* name : {"retrieval", "retrieval_events"})
      EXPECT_EQ(value(scores, name, 1, Oracle::kCopies), 1) << name << ", depth " << depth;
  }
}

TEST(RetrievalScore, EqualsTheEventsOfANeedleOfDistinctTokens) {
  int64_t distinct = 0;
  for (const char* task : {"niah_single", "niah_single_2", "niah_multikey", "niah_multikey_1", "niah_multikey_2"})
    for (const char* kind : {"word", "number"}) {
      auto options = needles(250, 1);
      options.task = task;
      options.parameters["value"] = kind;
      const auto needle = sample_of(options, 0).answers[0];
      if (std::set<char>(needle.begin(), needle.end()).size() < needle.size()) continue;
      ++distinct;
      const auto scores = score_heads(oracle(), options);
      EXPECT_EQ(scores.answered, 1) << task << " " << needle;
      EXPECT_TRUE(torch::equal(scores.at("retrieval").values, scores.at("retrieval_events").values)) << needle;
      EXPECT_NEAR(value(scores, "retrieval", 1, Oracle::kHalves), by_halves(needle).steps, 1e-12) << needle;
    }
  EXPECT_GE(distinct, 3);
}

TEST(RetrievalScore, HasNoPartOfWhatIsNotAnswered) {
  auto blind = kOracle;
  blind.blind = true;
  const auto scores = score_heads(blind.make(), needles(200, 3));
  EXPECT_EQ(scores.answered, 0);
  // The second head still finds what the first no longer answers.
  EXPECT_EQ(scores.at("retrieval").values.abs().max().item<double>(), 0);
  EXPECT_EQ(scores.at("retrieval_events").values.abs().max().item<double>(), 0);
}

TEST(RetrievalScore, WithoutTheNeedleNoHeadFindsAnything) {
  const auto sample = sample_of(needles(200, 1), 0);
  const auto span = sample.answer_spans[0];
  // What the heads of layer 1 look at when the first token of the answer is due, and the answer.
  const auto look = [&](const std::string& prompt, const std::string& answer) {
    Tensor looked;
    Observer observer;
    observer.arg_max = [&](int64_t layer, const Tensor& tokens) {
      if (layer == 1 && !looked.defined()) looked = tokens[0].clone();
    };
    cache::Session session(oracle().model, cache::make_policy("full", {}, cache::shape_of(oracle().model->config())));
    replace_caches(session, [&](int64_t) { return std::make_unique<ObservedLayer>(observer); });
    EXPECT_EQ(greedy_answer(session, oracle(), oracle().tokenizer.encode(prompt), 4), answer);
    return looked;
  };
  const auto with = look(sample.prompt, sample.answers[0]);
  EXPECT_EQ(with[Oracle::kCopies].item<int64_t>(), 1 + span.begin);  // BOS before the bytes
  EXPECT_EQ(with[Oracle::kLate].item<int64_t>(), 2 + span.begin);
  const auto line = sample.prompt.rfind("the number of ", size_t(span.begin));
  auto prompt = sample.prompt;
  prompt.erase(line, size_t(span.end) + 2 - line);  // up to ". "
  EXPECT_EQ(look(prompt, "").abs().max().item<int64_t>(), 0) << "all at the sink";
}

TEST(RetrievalScore, MaskingTheHeadThatCopiesTakesTheAnswerAndMaskingUnreadHeadsDoesNot) {
  MaskingOptions options;
  options.parameters = {{"max_tokens", 150}};
  options.samples = 3;
  options.draws = 1;
  options.alone = true;
  for (const auto masking : {Masking::zero, Masking::uniform}) {
    const auto result = mask_heads(oracle(), {{1, Oracle::kCopies}}, masking, options);
    EXPECT_EQ(result.unmasked, 1) << to_string(masking);
    EXPECT_EQ(result.found, 0) << to_string(masking);
    EXPECT_EQ(result.alone[0][kOracle.heads - 1].item<double>(), 1) << to_string(masking) << ", a local head";
    EXPECT_EQ(result.alone[1].slice(0, 1).min().item<double>(), 1) << to_string(masking);
  }
}

// By the newest token alone, on 63 tokens in random order and three copies of them behind BOS.
TEST(InductionScore, IsOfTheHeadThatCopiesAndEchoOfNone) {
  const auto lm = Oracle{.context = 1}.make();
  auto options = needles(150, 1);
  options.repeated = 63;
  options.copies = 4;
  options.sequences = 3;
  const auto scores = score_heads(lm, options);
  EXPECT_EQ(scores.repeated, 63);
  EXPECT_GT(value(scores, "induction", 1, Oracle::kCopies), 0.99);
  EXPECT_LT(value(scores, "echo", 1, Oracle::kCopies), 1e-4);
  for (const char* name : {"induction", "echo"}) EXPECT_LT(value(scores, name, 0, 0), 1e-6) << name;
  EXPECT_EQ(induction_scores(lm, options).values[1][Oracle::kCopies].item<double>(),
            value(scores, "induction", 1, Oracle::kCopies));
}

}  // namespace
}  // namespace heed::probe::retrieval_score_test
