// Tokens that go on the way through blocks.
#include "heed/models/reduced_blocks.h"

#include "heed/nn/ia_red2.h"
#include "mixers/sparse/sparse_support.h"

namespace heed::reduced_blocks_test {
namespace {

using test::relative_error;
using torch::Tensor;
using Reducers = std::vector<std::shared_ptr<nn::TokenReducer>>;

struct Blocks : torch::nn::Module {
  std::vector<TransformerBlock> list;
  explicit Blocks(formats::NormPlacement placement = formats::NormPlacement::pre, size_t layers = 3) {
    TransformerConfig config;
    config.dim = 16, config.heads = 2, config.kv_heads = 2, config.head_dim = 8, config.hidden = 24;
    config.block.placement = placement;
    config.layers.resize(layers);
    list = make_blocks(*this, config, false, torch::kFloat64);
    torch::NoGradGuard no_grad;
    for (auto& parameter : parameters()) parameter.add_(torch::randn_like(parameter) * 0.2);
  }
};

std::shared_ptr<nn::TokenReducer> merging(const nlohmann::json& config) {
  return nn::make_token_reducer("token_merging", config);
}

TEST(ReducedBlocks, WithoutReducersAreTheBlocks) {
  test::seed_torch(1);
  torch::NoGradGuard no_grad;
  const auto x = torch::randn({2, 9, 16}, torch::kFloat64);
  for (const auto placement :
       {formats::NormPlacement::pre, formats::NormPlacement::post, formats::NormPlacement::sandwich}) {
    Blocks blocks(placement);
    const auto run = run_reduced_blocks(blocks.list, {.x = x}, Reducers(3), 0);
    EXPECT_TRUE(torch::equal(run.x, run_blocks(blocks.list, {.x = x})));
    EXPECT_EQ(run.tokens, (std::vector<int64_t>{9, 9, 9}));
  }
  Blocks parallel(formats::NormPlacement::parallel);
  EXPECT_TRUE(
      torch::equal(run_reduced_blocks(parallel.list, {.x = x}, Reducers(3), 0).x, run_blocks(parallel.list, {.x = x})));
  EXPECT_THROW(run_reduced_blocks(parallel.list, {.x = x}, {nullptr, merging({{"count", 2}}), nullptr}, 0), Error);
  Blocks blocks;
  EXPECT_THROW(run_reduced_blocks(blocks.list, {.x = x}, Reducers(2), 0), Error);
}

TEST(ReducedBlocks, TwinsMergeWithoutATrace) {
  test::seed_torch(2);
  torch::NoGradGuard no_grad;
  Blocks blocks;
  const auto x = torch::randn({2, 8, 16}, torch::kFloat64).repeat_interleave(2, 1);
  const auto expected = run_blocks(blocks.list, {.x = x});
  const auto run = run_reduced_blocks(blocks.list, {.x = x}, {merging({{"count", 8}}), nullptr, nullptr}, 0);
  EXPECT_EQ(run.tokens, (std::vector<int64_t>{8, 8, 8}));
  EXPECT_LT(relative_error(run.map.restore(run.x), expected), 1e-12);
  // Twins among other tokens, which stand for one each: proportion is what keeps the answers.
  const auto mixed = torch::cat({x, torch::randn({2, 2, 16}, torch::kFloat64)}, 1);
  const auto wanted = run_blocks(blocks.list, {.x = mixed});
  const Reducers reducers{merging({{"count", 8}}), nullptr, nullptr};
  const auto with = run_reduced_blocks(blocks.list, {.x = mixed}, reducers, 0);
  EXPECT_LT(relative_error(with.map.restore(with.x), wanted), 1e-12);
  const auto without = run_reduced_blocks(blocks.list, {.x = mixed}, reducers, 0, 0, false);
  EXPECT_GT(relative_error(without.map.restore(without.x), wanted), 1e-4);
}

TEST(ReducedBlocks, TokensThatAreLeftStandWhereTheyStood) {
  test::seed_torch(11);
  torch::NoGradGuard no_grad;
  TransformerConfig config;
  config.dim = 16, config.heads = 2, config.kv_heads = 2, config.head_dim = 8, config.hidden = 24;
  config.layers.resize(2);
  const auto x = torch::randn({2, 10, 16}, torch::kFloat64);
  for (const char* kind : {"rope", "t5", "learned", "sinusoidal"}) {
    config.positions.kind = kind;
    torch::nn::Module owner;
    auto blocks = make_blocks(owner, config, false, torch::kFloat64);
    for (auto& parameter : owner.parameters()) parameter.add_(torch::randn_like(parameter) * 0.2);
    const auto run = run_reduced_blocks(
        blocks, {.x = x}, {merging({{"action", "drop"}, {"score", "key_norm"}, {"count", 4}}), nullptr}, 1);
    // The second layer by itself, the tokens that have gone hidden.
    auto first = blocks[0]->token_half({.x = x});
    MixerInput second;
    second.x = blocks[0]->channel_half({.x = x}, first);
    second.key_padding = run.map.target < 0;
    second.layer = {1, 2};
    const auto wanted = blocks[1]->forward(second).gather(1, run.map.positions.unsqueeze(2).expand({2, 6, 16}));
    EXPECT_LT(relative_error(run.x, wanted), 1e-10) << kind;
  }
}

TEST(ReducedBlocks, AttentionSaysWhatIsWorthLittle) {
  test::seed_torch(3);
  torch::NoGradGuard no_grad;
  Blocks blocks;
  const auto x = torch::randn({2, 10, 16}, torch::kFloat64);
  for (const char* score : {"class", "received"}) {
    const auto run = run_reduced_blocks(
        blocks.list, {.x = x}, {merging({{"action", "drop"}, {"score", score}, {"count", 4}}), nullptr, nullptr}, 1);
    // The same weights by the definition.
    const auto p = blocks.list[0]->mixer->named_parameters();
    const auto normed = blocks.list[0]->input_norm(x);
    const auto heads = [&](const char* name) {
      return torch::matmul(normed, p[name].t()).view({2, 10, 2, 8}).transpose(1, 2);
    };
    const auto weights = torch::softmax(
        torch::matmul(heads("q_proj.weight"), heads("k_proj.weight").transpose(2, 3)) / std::sqrt(8.0), 3);
    const auto got = std::string(score) == "class" ? weights.select(2, 0).mean(1) : weights.mean(2).mean(1);
    for (int64_t b = 0; b < 2; ++b) {
      const auto best = std::get<1>(got[b].slice(0, 1).sort(0, true)).slice(0, 0, 5) + 1;
      const auto kept = std::get<0>(torch::cat({torch::zeros({1}, torch::kInt64), best}).sort());
      EXPECT_TRUE(torch::equal(run.map.positions[b], kept)) << score;
    }
    EXPECT_EQ(run.tokens, (std::vector<int64_t>{6, 6, 6}));
  }
}

/// Worth is by the weights that the layer really had: behind its mask, its scale and its soft cap.
TEST(ReducedBlocks, WorthFollowsMaskScaleAndSoftCap) {
  torch::NoGradGuard no_grad;
  for (uint64_t seed = 30; seed < 40; ++seed) {
    test::seed_torch(seed);
    TransformerConfig config;
    config.dim = 16, config.heads = 2, config.kv_heads = 2, config.head_dim = 8, config.hidden = 24;
    config.attention.scale = 1.5, config.attention.softcap = 2;
    config.layers.resize(1);
    torch::nn::Module owner;
    auto blocks = make_blocks(owner, config, true, torch::kFloat64);
    for (auto& parameter : owner.parameters()) parameter.add_(torch::randn_like(parameter) * 0.3);
    const auto x = torch::randn({1, 12, 16}, torch::kFloat64);
    const auto run =
        run_reduced_blocks(blocks, {.x = x}, {merging({{"action", "drop"}, {"score", "received"}, {"count", 6}})}, 0);
    const auto p = blocks[0]->mixer->named_parameters();
    const auto normed = blocks[0]->input_norm(x);
    const auto heads = [&](const char* name) {
      return torch::matmul(normed, p[name].t()).view({1, 12, 2, 8}).transpose(1, 2);
    };
    const auto s = torch::matmul(heads("q_proj.weight"), heads("k_proj.weight").transpose(2, 3)) * 1.5;
    const auto future = torch::ones({12, 12}, torch::kBool).triu(1);
    const auto weights = torch::softmax((torch::tanh(s / 2) * 2).masked_fill(future, -INFINITY), 3);
    const auto best = std::get<1>(weights.mean(2).mean(1)[0].topk(6));
    EXPECT_TRUE(torch::equal(run.map.positions[0], std::get<0>(best.sort()))) << seed;
  }
}

/// What a token is worth behind merged ones: the attention that counts them as often as they are. In several drawings,
/// in some of which another token would go.
TEST(ReducedBlocks, MergedTokensCountInWhatOthersGot) {
  torch::NoGradGuard no_grad;
  for (uint64_t seed = 5; seed < 25; ++seed) {
    test::seed_torch(seed);
    Blocks blocks;
    // Four pairs of twins among ten tokens.
    const auto twins = torch::randn({1, 4, 16}, torch::kFloat64).repeat_interleave(2, 1);
    const auto x = torch::cat({twins, torch::randn({1, 2, 16}, torch::kFloat64)}, 1);
    const auto drop = merging({{"action", "drop"}, {"score", "received"}, {"count", 1}});
    const auto run = run_reduced_blocks(blocks.list, {.x = x}, {merging({{"count", 4}}), drop, nullptr}, 0);
    ASSERT_EQ(run.tokens, (std::vector<int64_t>{6, 5, 5}));
    // The same by all ten tokens in the second layer: rows of twins once, their columns together.
    const auto p = blocks.list[1]->mixer->named_parameters();
    const auto normed = blocks.list[1]->input_norm(blocks.list[0]->forward({.x = x}));
    const auto heads = [&](const char* name) {
      return torch::matmul(normed, p[name].t()).view({1, 10, 2, 8}).transpose(1, 2);
    };
    const auto weights =
        torch::softmax(torch::matmul(heads("q_proj.weight"), heads("k_proj.weight").transpose(2, 3)) / std::sqrt(8.0),
                       3)
            .mean(1)[0];
    const auto of_each = weights.index_select(0, torch::tensor({0, 2, 4, 6, 8, 9})).sum(0);
    const auto got = torch::cat({of_each.narrow(0, 0, 8).view({4, 2}).sum(1), of_each.narrow(0, 8, 2)});
    const auto least = got.argmin().item<int64_t>();
    for (int64_t i = 0; i < 10; ++i)
      EXPECT_EQ(run.map.target[0][i].item<int64_t>() < 0, (i < 8 ? i / 2 : i - 4) == least) << i << " seed " << seed;
  }
}

TEST(ReducedBlocks, DroppingBeforeALayerIsALoopOverItems) {
  test::seed_torch(4);
  torch::NoGradGuard no_grad;
  Blocks blocks;
  auto policy = std::make_shared<nn::IaRed2>(nn::IaRed2Config{.dim = 16, .heads = 2, .first_score = 0.5});
  policy->to(torch::kFloat64);
  policy->eval();
  for (auto& parameter : policy->parameters()) parameter.add_(torch::randn_like(parameter) * 0.5);
  const auto x = torch::randn({4, 12, 16}, torch::kFloat64);
  const Reducers reducers{nullptr, policy, nullptr};
  const auto together = run_reduced_blocks(blocks.list, {.x = x}, reducers, 1);
  const auto restored = together.map.restore(together.x);
  bool ragged = false;
  for (int64_t b = 0; b < 4; ++b) {
    const auto alone = run_reduced_blocks(blocks.list, {.x = x.narrow(0, b, 1)}, reducers, 1);
    ragged |= alone.map.tokens != together.map.tokens;
    EXPECT_LT(relative_error(restored[b], alone.map.restore(alone.x)[0]), 1e-12);
  }
  EXPECT_TRUE(ragged);
}

/// Mixers that keep tokens in their own way, or none, show no queries and keys: attention says nothing of their tokens,
/// which keys and likeness still do.
TEST(ReducedBlocks, ScoresOfMixersWithoutASoftmaxAreRefused) {
  torch::NoGradGuard no_grad;
  for (const auto& [mixer, settings] : std::vector<std::pair<const char*, nlohmann::json>>{
           {"dynamic_mask_attention", nlohmann::json::object()},
           {"dynamic_hierarchical_sparse_attention", nlohmann::json::object()},
           {"core_context_attention", nlohmann::json::object()},
           {"transformer_xl", nlohmann::json::object()},
           {"gla", nlohmann::json::object()}}) {
    test::seed_torch(6);
    TransformerConfig config;
    config.dim = 16, config.heads = config.kv_heads = 2, config.head_dim = 8, config.hidden = 16;
    config.layers = {{}, {mixer, settings}};
    torch::nn::Module owner;
    auto blocks = make_blocks(owner, config, true, torch::kFloat32);
    for (auto& block : blocks) block->eval();
    const auto x = torch::randn({2, 24, 16});
    for (const char* score : {"received", "class"}) {
      const auto wanting = merging({{"action", "drop"}, {"score", score}, {"count", 2}});
      try {
        run_reduced_blocks(blocks, {.x = x}, {nullptr, wanting}, 1);
        ADD_FAILURE() << mixer;
      } catch (const Error& error) {
        const std::string message = error.what();
        EXPECT_NE(message.find("layer 1"), std::string::npos) << message;
        EXPECT_NE(message.find("key_norm"), std::string::npos) << message;
      }
    }
    for (const nlohmann::json& settings_of :
         {nlohmann::json{{"count", 2}}, nlohmann::json{{"action", "drop"}, {"score", "key_norm"}, {"count", 2}}})
      EXPECT_EQ(run_reduced_blocks(blocks, {.x = x}, {nullptr, merging(settings_of)}, 0).x.size(1), 22) << mixer;
  }
}

}  // namespace
}  // namespace heed::reduced_blocks_test
