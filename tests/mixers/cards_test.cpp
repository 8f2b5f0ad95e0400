// The facts of the mixers' cards that conformance does not know.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/mixers/token_mixer.h"
#include "heed/nn/block_pattern.h"
#include "support/torch_support.h"

namespace heed::cards_test {
namespace {

using nlohmann::json;
using test::relative_error;
using torch::Tensor;

constexpr double kTolerance = test::kForwardTolerance;

CoreInput core_input(int64_t n, int64_t heads = 4, int64_t kv_heads = 2, int64_t size = 8,
                     torch::ScalarType dtype = torch::kFloat32) {
  torch::manual_seed(n + heads);
  return {torch::randn({2, heads, n, size}, dtype), torch::randn({2, kv_heads, n, size}, dtype),
          torch::randn({2, kv_heads, n, size}, dtype)};
}

json base(json more = {}) {
  json config{{"dim", 32}, {"heads", 4}, {"kv_heads", 2}};
  if (!more.is_null()) config.update(more);
  return config;
}

Tensor core(const char* name, const json& more, const CoreInput& in) {
  auto config = base(more);
  config["heads"] = in.q.size(1);
  config["kv_heads"] = in.k.size(1);
  auto mixer = make_mixer(name, config);
  mixer->eval();
  torch::NoGradGuard no_grad;
  return mixer->mix(in);
}

Tensor dense(const CoreInput& in, bool causal = true) { return core("dense", {{"causal", causal}}, in); }

/// A mixer on x with the weights of a plain dense one, so that what differs is the mechanism.
Tensor forward(const char* name, const json& more, const Tensor& x) {
  torch::manual_seed(7);
  auto mixer = make_mixer(name, base(more));
  auto plain = make_mixer("dense", base({{"causal", more.is_null() || more.value("causal", true)}}));
  mixer->eval();
  torch::NoGradGuard no_grad;
  auto target = mixer->named_parameters();
  torch::manual_seed(8);
  for (const char* part : {"q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"})
    target[part].copy_(torch::randn_like(target[part]) * 0.3);
  for (const auto& [global, local] : {std::pair{"q_global_proj.weight", "q_proj.weight"},
                                      {"k_global_proj.weight", "k_proj.weight"},
                                      {"v_global_proj.weight", "v_proj.weight"}})
    if (target.find(global)) target[global].copy_(target[local]);
  MixerInput in;
  in.x = x;
  return mixer->forward(in);
}

TEST(Dense, ZeroQueriesGiveTheMean) {
  auto in = core_input(13);
  in.q.zero_();
  const auto mean = in.v.cumsum(2) / torch::arange(1, 14).view({1, 1, 13, 1});
  EXPECT_LT(relative_error(dense(in), mean.repeat_interleave(2, 1)), kTolerance);
}

TEST(Dense, ShiftsOfKeysAndValues) {
  auto in = core_input(13);
  const auto out = dense(in);
  const auto c = torch::randn({8});
  auto keys = in, values = in;
  keys.k = in.k + c;
  values.v = in.v + c;
  EXPECT_LT(relative_error(dense(keys), out), 1e-4);  // logits grow by <q, c>, and their rounding with them
  EXPECT_LT(relative_error(dense(values), out + c), kTolerance);
}

TEST(Dense, GroupedHeadsAreRepeatedHeads) {
  const auto in = core_input(21);
  auto repeated = in;
  repeated.k = in.k.repeat_interleave(2, 1);
  repeated.v = in.v.repeat_interleave(2, 1);
  EXPECT_LT(relative_error(dense(in), dense(repeated)), 1e-6);
}

TEST(SlidingWindow, ItsLimits) {
  const auto in = core_input(30);
  EXPECT_LT(relative_error(core("sliding_window", {{"window", 30}, {"sinks", 0}}, in), dense(in)), 1e-6);
  EXPECT_LT(relative_error(core("sliding_window", {{"window", 1}, {"sinks", 0}}, in), in.v.repeat_interleave(2, 1)),
            1e-6);
  EXPECT_GT(relative_error(core("sliding_window", {{"window", 5}, {"sinks", 0}}, in),
                           core("sliding_window", {{"window", 5}, {"sinks", 4}}, in)),
            1e-2);
}

TEST(SlidingWindow, SinkLogitScalesTheOutput) {
  const auto in = core_input(30);
  AttentionOptions options;
  options.mask = Causal{} & (Window{7} | SinkTokens{2});
  const auto plain = attention_with_lse(in.q, in.k, in.v, options);
  const auto with_zero = torch::logaddexp(plain.lse, torch::zeros({1}));
  const auto expected = plain.out * torch::exp(plain.lse - with_zero).unsqueeze(-1);
  EXPECT_LT(relative_error(core("sliding_window", {{"window", 7}, {"sinks", 2}, {"sink_logit", "zero"}}, in), expected),
            kTolerance);
}

TEST(SlidingWindow, StateIsConstant) {
  auto mixer = make_mixer("sliding_window", base({{"window", 6}, {"sinks", 2}}));
  mixer->eval();
  torch::NoGradGuard no_grad;
  auto state = mixer->make_state(1);
  std::set<int64_t> sizes;
  for (int t = 0; t < 200; ++t) {
    MixerInput in;
    in.x = torch::randn({1, 1, 32});
    mixer->forward(in, state.get());
    if (t > 50) sizes.insert(state->bytes());
  }
  EXPECT_EQ(sizes.size(), 1u);
  EXPECT_LE(*sizes.begin(), 4 * 2 * 2 * 8 * 32);
}

TEST(Sigmoid, ZeroQueriesSumTheValues) {
  auto in = core_input(16);
  in.q.zero_();
  const auto out = core("sigmoid_attention", {{"causal", false}, {"max_length", 16}}, in);
  EXPECT_LT(relative_error(out, (in.v.sum(2, true) / 17).expand({2, 2, 16, 8}).repeat_interleave(2, 1)), kTolerance);
}

TEST(Sigmoid, BiasLimitsAndPartsAdd) {
  const auto in = core_input(16);
  const auto at = [&](double bias, const CoreInput& part) {
    return core("sigmoid_attention", {{"causal", false}, {"sigmoid_bias", bias}}, part);
  };
  EXPECT_LT(at(-80, in).abs().max().item<double>(), 1e-20);
  EXPECT_LT(relative_error(at(60, in), in.v.sum(2, true).expand({2, 2, 16, 8}).repeat_interleave(2, 1)), kTolerance);
  auto first = in, second = in;
  first.k = in.k.slice(2, 0, 5);
  first.v = in.v.slice(2, 0, 5);
  second.k = in.k.slice(2, 5);
  second.v = in.v.slice(2, 5);
  EXPECT_LT(relative_error(at(-1, first) + at(-1, second), at(-1, in)), kTolerance);
}

TEST(Quantizable, ClippedSoftmaxAndItsLimits) {
  const auto in = core_input(20);
  EXPECT_LT(relative_error(core("quantizable_attention", {{"alpha", 0}}, in), dense(in)), kTolerance);
  // Uniform rows longer than 1 / threshold are cut to nothing: p = 1/n <= alpha / (T + alpha) with zeta = 1.
  auto uniform = in;
  uniform.q.zero_();
  const auto out = core("quantizable_attention", {{"alpha", 8}, {"max_length", 32}, {"causal", false}}, uniform);
  EXPECT_EQ(out.abs().max().item<double>(), 0);
  const auto p = 1.0 / 20, gamma = -1.0 / 32;
  const auto kept = core("quantizable_attention", {{"alpha", 1}, {"max_length", 32}, {"causal", false}}, uniform);
  EXPECT_LT(relative_error(
                kept, (((1 - gamma) * p + gamma) * in.v.sum(2, true)).expand({2, 2, 20, 8}).repeat_interleave(2, 1)),
            kTolerance);
}

TEST(Quantizable, ARowsGammaFollowsTheKeysItSees) {
  // Uniform causal row i has p = 1 / (i + 1) and gamma = -alpha / (i + 1): p (1 + alpha / (i + 1)) - alpha / (i + 1).
  auto in = core_input(20);
  in.q.zero_();
  const double alpha = 0.5;
  const auto out = core("quantizable_attention", {{"alpha", alpha}, {"length", "row"}, {"causal", true}}, in);
  const auto n = torch::arange(1, 21, torch::kFloat64).view({1, 1, 20, 1});
  const auto weight = (1 / n * (1 + alpha / n) - alpha / n).clamp(0, 1);
  const auto expected = (weight * in.v.to(torch::kFloat64).cumsum(2)).repeat_interleave(2, 1);
  EXPECT_LT(relative_error(out, expected), kTolerance);
}

TEST(Quantizable, GatesOpenAndClose) {
  torch::manual_seed(5);
  const auto x = torch::randn({1, 9, 32});
  const auto expected = forward("dense", {}, x);
  for (const char* kind : {"linear", "mlp", "all"})
    for (const double logit : {30.0, -30.0}) {
      const auto out = forward("quantizable_attention",
                               {{"method", "gated"}, {"gate", kind}, {"initial_gate", 1 / (1 + std::exp(-logit))}}, x);
      if (logit > 0)
        EXPECT_LT(relative_error(out, expected), kTolerance) << kind;
      else
        EXPECT_LT(out.norm().item<double>(), 1e-9 * expected.norm().item<double>()) << kind;
    }
}

TEST(Selective, StartsAsAttentionWithoutItsPosition) {
  const auto x = torch::randn({2, 15, 32});
  EXPECT_LT(relative_error(forward("selective_self_attention", {{"position", "none"}}, x), forward("dense", {}, x)),
            1e-6);
  const double drift = relative_error(forward("selective_self_attention", {}, x), forward("dense", {}, x));
  EXPECT_GT(drift, 1e-7);
  EXPECT_LT(drift, 0.05);  // sigmoid(-5) ln n
}

TEST(Longformer, ItsLimits) {
  const auto x = torch::randn({2, 18, 32});
  for (const bool causal : {false, true}) {
    const auto plain = forward("dense", {{"causal", causal}}, x);
    EXPECT_LT(
        relative_error(forward("longformer", {{"causal", causal}, {"window", 40}, {"global_tokens", 0}}, x), plain),
        1e-6);
    EXPECT_LT(
        relative_error(forward("longformer", {{"causal", causal}, {"window", 2}, {"global_tokens", 18}}, x), plain),
        1e-6);
  }
}

TEST(Longformer, DilationSkips) {
  // d out_i / d v_j is 0 unless j - i is a multiple of the dilation inside the window.
  auto in = core_input(25, 2, 2);
  in.v.requires_grad_();
  auto mixer = make_mixer(
      "longformer",
      {{"dim", 16}, {"heads", 2}, {"causal", false}, {"window", 4}, {"global_tokens", 0}, {"dilation", {1, 3}}});
  const auto out = mixer->mix(in);
  for (int64_t h = 0; h < 2; ++h) {
    const auto grad =
        torch::autograd::grad({out.select(1, h).select(1, 12).sum()}, {in.v}, {}, true)[0].select(1, h).abs().sum(
            torch::IntArrayRef{0, 2});
    std::set<int64_t> seen;
    for (int64_t j = 0; j < 25; ++j)
      if (grad[j].template item<double>() > 0) seen.insert(j - 12);
    const int64_t d = h == 0 ? 1 : 3;
    EXPECT_EQ(seen, (std::set<int64_t>{-2 * d, -d, 0, d, 2 * d}));
  }
}

TEST(Linformer, ProjectionsOfKnownForm) {
  const auto in = core_input(12);
  auto mixer = make_mixer("linformer", base({{"max_length", 12}, {"rank", 12}}));
  mixer->eval();
  torch::NoGradGuard no_grad;
  auto parameters = mixer->named_parameters();
  for (const char* name : {"k_rows", "v_rows"}) parameters[name].copy_(torch::eye(12).unsqueeze(0));
  EXPECT_LT(relative_error(mixer->mix(in), dense(in, false)), kTolerance);
  // Four rows that are means of three tokens: attention over mean-pooled keys and values.
  auto pooled = make_mixer("linformer", base({{"max_length", 12}, {"rank", 4}, {"sharing", "key_value"}}));
  pooled->eval();
  pooled->named_parameters()["k_rows"].copy_(torch::eye(4).repeat_interleave(3, 1).unsqueeze(0) / 3);
  const auto mean = [](const Tensor& x) { return x.unflatten(2, {4, 3}).mean(3); };
  EXPECT_LT(relative_error(pooled->mix(in), attention(in.q, mean(in.k), mean(in.v))), kTolerance);
  EXPECT_THROW(pooled->mix(core_input(13)), Error);
  EXPECT_THROW(make_mixer("linformer", base({{"causal", true}})), Error);
}

TEST(BigBird, EnoughRandomBlocksAreDense) {
  const auto in = core_input(50);
  for (const bool causal : {false, true})
    EXPECT_LT(relative_error(core("bigbird", {{"block", 8}, {"random_blocks", 7}, {"causal", causal}}, in),
                             dense(in, causal)),
              1e-6);
}

TEST(S2, ItsLimits) {
  const auto in = core_input(50, 4, 4);
  for (const bool causal : {false, true}) {
    const auto expected = dense(in, causal);
    EXPECT_LT(relative_error(core("s2_attention", {{"block", 8}, {"stride", 1}, {"causal", causal}}, in), expected),
              1e-6);
    EXPECT_LT(
        relative_error(core("s2_attention", {{"block", 8}, {"local_blocks", 7}, {"causal", causal}}, in), expected),
        1e-6);
    EXPECT_LT(relative_error(core("s2_attention",
                                  {{"block", 8}, {"local_blocks", 1}, {"num_dense_heads", 4}, {"causal", causal}}, in),
                             expected),
              1e-6);
  }
}

/// Which key blocks head h's last query block reads: where the gradient of v is not 0.
std::set<int64_t> blocks_seen(const char* name, const json& config, int64_t heads, int64_t head, int64_t blocks,
                              int64_t block) {
  auto in = core_input(blocks * block, heads, heads);
  in.v.requires_grad_();
  auto full = config;
  full.update({{"dim", heads * 8}, {"heads", heads}, {"block", block}});
  const auto out = make_mixer(name, full)->mix(in);
  const auto grad = torch::autograd::grad({out.select(1, head).select(1, blocks * block - 1).sum()}, {in.v})[0]
                        .select(1, head)
                        .abs()
                        .sum(torch::IntArrayRef{0, 2});
  std::set<int64_t> seen;
  for (int64_t j = 0; j < blocks; ++j)
    if (grad.slice(0, j * block, (j + 1) * block).sum().item<double>() > 0) seen.insert(j);
  return seen;
}

TEST(S2, HeadsCoverThePastIfThereAreEnough) {
  constexpr int64_t kBlocks = 20;
  for (const auto& [heads, covers] :
       {std::pair<int64_t, bool>{2, false}, {4, false}, {6, false}, {8, true}, {16, true}}) {
    std::set<int64_t> all;
    for (int64_t h = 0; h < heads; ++h)
      all.merge(blocks_seen("s2_attention", {{"stride", 8}, {"local_blocks", 2}}, heads, h, kBlocks, 2));
    EXPECT_EQ(int64_t(all.size()) == kBlocks, covers) << heads << " heads";
  }
}

TEST(S2, StepsEqualTheForwardAndHeadsFreeWhatTheyDrop) {
  constexpr int64_t kTokens = 96, kBlock = 4, kPrompt = 30;
  for (const int64_t dense_heads : {0, 1, 2}) {
    auto mixer = make_mixer("s2_attention", base({{"heads", 8},
                                                  {"kv_heads", 4},
                                                  {"block", kBlock},
                                                  {"stride", 4},
                                                  {"local_blocks", 2},
                                                  {"num_dense_heads", dense_heads}}));
    mixer->eval();
    torch::NoGradGuard no_grad;
    MixerInput in;
    in.x = torch::randn({2, kTokens, 32});
    const auto whole = mixer->forward(in);
    auto state = mixer->make_state(2);
    std::vector<torch::Tensor> parts;
    for (int64_t at = 0; at < kTokens;) {
      const int64_t count = at == 0 ? kPrompt : 1;
      MixerInput part;
      part.x = in.x.slice(1, at, at + count);
      parts.push_back(mixer->forward(part, state.get()));
      at += count;
    }
    EXPECT_LT(relative_error(torch::cat(parts, 1), whole), kTolerance) << dense_heads << " dense heads";
    int64_t slots = 0;  // of one sequence; rows are whole pages of 16 slots, and growth is ahead by a quarter
    for (int64_t head = 0; head < 4; ++head)
      for (int64_t block = 0; block < kTokens / kBlock; ++block)
        if (2 * head + 1 >= 8 - dense_heads || kTokens / kBlock - block < 2 || (block + head) % 4 == 0) slots += kBlock;
    const int64_t vector = 2 * 2 * (32 / 8) * int64_t(sizeof(float));  // of both sequences, key and value
    EXPECT_GE(state->bytes(), slots * vector);
    EXPECT_LE(state->bytes(), (slots * 5 / 4 + 4 * 16) * vector);
    EXPECT_THROW(state->truncate(50), Error);
    state->truncate(0);
    EXPECT_EQ(state->bytes(), 0);
  }
}

TEST(BigBird, RowsHaveOneDegree) {
  for (int64_t head = 0; head < 3; ++head)
    EXPECT_EQ(blocks_seen("bigbird", {{"causal", true}, {"random_blocks", 3}}, 3, head, 20, 2).size(),
              1u + 2u + 3u);  // global, own and left, random
}

TEST(FlashAttention, AllBlocksAreDenseAndTheButterflyIsFlat) {
  const auto in = core_input(50);
  for (const bool causal : {false, true})
    EXPECT_LT(relative_error(core("flash_attention", {{"block", 8}, {"pattern", "all"}, {"causal", causal}}, in),
                             dense(in, causal)),
              1e-6);
  EXPECT_EQ(blocks_seen("flash_attention", json::object(), 2, 0, 16, 2), (std::set<int64_t>{15, 14, 13, 11, 7}));
}

TEST(BlockPattern, ChunksStartAnywhere) {
  const auto in = core_input(40);
  const nn::BlockRule rule = [](const nn::BlockScope&, int64_t head, int64_t block) {
    return std::vector<int32_t>{int32_t(block), int32_t(block - 1 - head), 0, 0, -3, 99};
  };
  AttentionOptions options;
  options.mask = Causal{};
  const auto whole = nn::block_attention(in.q, in.k, in.v, options, rule, 8, true);
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 40}, {3, 11}, {15, 16}, {39, 40}}) {
    const auto part = nn::block_attention(in.q.slice(2, begin, end), in.k.slice(2, 0, end), in.v.slice(2, 0, end),
                                          options, rule, 8, true);
    EXPECT_LT(relative_error(part, whole.slice(2, begin, end)), kTolerance) << begin;
  }
}

}  // namespace
}  // namespace heed::cards_test
