// The facts of the neighbourhood mixers' cards that conformance does not know.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/mixers/attention_mixer.h"
#include "support/torch_support.h"

namespace heed::neighborhood_test {
namespace {

using nlohmann::json;
using test::relative_error;
using torch::Tensor;

CoreInput core_input(std::vector<int64_t> grid, int64_t heads = 4, int64_t kv_heads = 2) {
  int64_t n = 1;
  for (const int64_t size : grid) n *= size;
  torch::manual_seed(n);
  CoreInput in{torch::randn({2, heads, n, 8}), torch::randn({2, kv_heads, n, 8}), torch::randn({2, kv_heads, n, 8})};
  in.grid = Grid{std::move(grid)};
  return in;
}

Tensor core(const char* name, json more, const CoreInput& in) {
  json config{{"dim", 32}, {"heads", in.q.size(1)}, {"kv_heads", in.k.size(1)}};
  config.update(more);
  auto mixer = make_mixer(name, config);
  mixer->eval();
  torch::NoGradGuard no_grad;
  return mixer->mix(in);
}

TEST(NeighborhoodMixers, WholeWindowsAreDense) {
  const auto in = core_input({5, 9});
  const auto dense = core("dense", {{"causal", false}}, in);
  for (const char* name : {"generalized_neighborhood", "fused_neighborhood"})
    EXPECT_LT(relative_error(core(name, {{"window", {5, 9}}}, in), dense), test::kForwardTolerance) << name;
  // A grid smaller than the window is seen whole.
  EXPECT_LT(relative_error(core("generalized_neighborhood", {{"window", 13}}, in), dense), test::kForwardTolerance);
}

TEST(NeighborhoodMixers, OneCausalAxisIsASlidingWindow) {
  const auto in = core_input({40});
  EXPECT_LT(relative_error(core("generalized_neighborhood", {{"window", 7}, {"causal", true}}, in),
                           core("sliding_window", {{"window", 7}, {"sinks", 0}}, in)),
            test::kForwardTolerance);
}

TEST(NeighborhoodMixers, OneCausalAxisHasAStep) {
  torch::manual_seed(31);
  torch::NoGradGuard no_grad;
  struct Setting {
    const char* name;
    json config;
  };
  for (const auto& [name, own] : {Setting{"generalized_neighborhood", {{"window", 5}}},
                                  {"generalized_neighborhood", {{"window", 4}, {"dilation", 3}}},
                                  {"generalized_neighborhood", {{"window", 1}}},
                                  {"fused_neighborhood", {{"window", 3}, {"dilation", 2}, {"relative_bias", true}}},
                                  {"fused_neighborhood", {{"window", 6}, {"relative_bias", true}, {"softcap", 3.0}}}}) {
    json config{{"dim", 16}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}, {"causal", true}};
    config.update(own);
    auto mixer = make_mixer(name, config);
    mixer->eval();
    for (auto& parameter : mixer->parameters()) parameter.normal_(0, 0.4);
    // As a grid and as a line, longer and shorter than the window.
    for (const int64_t n : {3, 8, 40}) {
      MixerInput in;
      in.x = torch::randn({2, n, 16});
      in.key_padding = torch::zeros({2, n}, torch::kBool);
      in.key_padding->select(0, 1).slice(0, 1, 3).fill_(true);
      const auto line = mixer->forward(in);
      in.grid = Grid{{n}};
      const auto whole = mixer->forward(in);
      EXPECT_LT(relative_error(line, whole), test::kForwardTolerance) << config.dump() << n;
      for (const std::vector<int64_t>& counts : {std::vector<int64_t>{1}, {5, 2}}) {
        auto state = mixer->make_state(2);
        std::vector<Tensor> parts;
        for (int64_t at = 0, turn = 0; at < n; ++turn) {
          const int64_t end = std::min(n, at + counts[size_t(turn) % counts.size()]);
          MixerInput part;
          part.x = in.x.slice(1, at, end);
          part.key_padding = in.key_padding->slice(1, at, end);
          parts.push_back(mixer->forward(part, state.get()));
          at = end;
        }
        EXPECT_LT(relative_error(torch::cat(parts, 1), whole), test::kForwardTolerance) << config.dump() << n;
        const int64_t held = (config.value("window", 0) - 1) * config.value("dilation", 1);
        EXPECT_EQ(dynamic_cast<const KvState&>(*state).slots(), std::min(n, held)) << config.dump() << n;
      }
    }
  }
  for (const json& config : {json{{"causal", true}, {"window", 4}, {"stride", 2}}, json{{"window", 4}},
                             json{{"causal_axes", {true, true}}}, json{{"causal", true}, {"window", {3, 3}}}})
    EXPECT_THROW(make_mixer("generalized_neighborhood", config)->make_state(1), Error) << config.dump();
}

TEST(NeighborhoodMixers, WindowsBeyondAnAxisAreTheAxis) {
  const auto in = core_input({4, 9});
  // Strides and dilations, too, end with the axis.
  for (const auto& [wide, fitting] :
       {std::pair<json, json>{{{"window", {9, 5}}}, {{"window", {4, 5}}}},
        {{{"window", 20}, {"stride", 20}}, {{"window", {4, 9}}}},
        {{{"window", 3}, {"dilation", 50}}, {{"window", 1}}},
        {{{"window", {3, 5}}, {"dilation", {2, 2}}}, {{"window", {2, 4}}, {"dilation", {2, 2}}}}})
    EXPECT_LT(relative_error(core("generalized_neighborhood", wide, in), core("generalized_neighborhood", fitting, in)),
              1e-6)
        << wide.dump();
}

TEST(NeighborhoodMixers, StridesOfAWindowAreBlocks) {
  const auto in = core_input({6, 8});
  const auto whole = core("generalized_neighborhood", {{"window", {3, 4}}, {"stride", {3, 4}}}, in);
  const auto cut = [](const Tensor& x) {
    // [B, H, 2 * 3 * 2 * 4, D] -> a batch item a block
    return x.view({2, x.size(1), 2, 3, 2, 4, 8}).permute({0, 2, 4, 1, 3, 5, 6}).reshape({8, x.size(1), 12, 8});
  };
  const CoreInput blocks{cut(in.q), cut(in.k), cut(in.v)};
  EXPECT_LT(relative_error(cut(whole), core("dense", {{"causal", false}}, blocks)), test::kForwardTolerance);
}

TEST(NeighborhoodMixers, WrittenWeightsEqualTheFusedKernel) {
  auto in = core_input({7, 9});
  in.key_padding = torch::zeros({2, 63}, torch::kBool);
  in.key_padding->narrow(0, 1, 1).slice(1, 40).fill_(true);
  for (const json& more :
       {json{{"window", {3, 5}}}, json{{"window", {2, 3}}, {"dilation", {2, 3}}}, json{{"window", 3}, {"causal", true}},
        json{{"window", 3}, {"softcap", 2.0}, {"causal", true}},
        json{{"window", {4, 3}}, {"causal_axes", {true, false}}}}) {
    auto by_hand = more;
    by_hand["weights"] = "written";
    const auto fused = core("fused_neighborhood", more, in), written = core("fused_neighborhood", by_hand, in);
    EXPECT_LT(relative_error(written, fused), test::kForwardTolerance) << more.dump();
    EXPECT_LT(relative_error(core("generalized_neighborhood", more, in), fused), test::kForwardTolerance)
        << more.dump();
  }
}

/// A bias that only the key above makes large moves all weight there.
TEST(NeighborhoodMixers, ABiasActsByRelativePosition) {
  const auto in = core_input({6, 7}, 2, 2);
  auto mixer =
      make_mixer("fused_neighborhood", {{"dim", 32}, {"heads", 2}, {"window", {3, 3}}, {"relative_bias", true}});
  torch::NoGradGuard no_grad;
  auto bias = mixer->named_parameters()["relative_bias"];
  ASSERT_EQ(bias.sizes(), (std::vector<int64_t>{2, 5, 5}));
  bias.zero_();
  bias.select(2, 2).select(1, 1).fill_(100);  // one row up, the same column
  const auto out = mixer->mix(in);
  for (int64_t i = 7; i < 42; ++i)
    EXPECT_LT(relative_error(out.select(2, i), in.v.select(2, i - 7)), 1e-5) << "token " << i;
}

TEST(NeighborhoodMixers, SayWhatDoesNotFit) {
  const auto in = core_input({5, 9});
  auto without = in;
  without.grid.reset();
  EXPECT_THROW(core("generalized_neighborhood", json::object(), without), Error);
  auto wrong = in;
  wrong.grid = Grid{{5, 8}};
  EXPECT_THROW(core("generalized_neighborhood", json::object(), wrong), Error);
  for (const json& config :
       {json{{"window", 3}, {"stride", 4}}, json{{"window", 0}}, json{{"window", "3by3"}}, json{{"dropout", 0.1}},
        json{{"positions", {{"kind", "alibi"}}}}, json{{"window", {3, 3, 3, 3}}}})
    EXPECT_THROW(make_mixer("generalized_neighborhood", config), Error) << config.dump();
  EXPECT_THROW(make_mixer("fused_neighborhood", {{"stride", 2}}), Error);
  EXPECT_THROW(make_mixer("fused_neighborhood", {{"relative_bias", true}, {"weights", "fused"}}), Error);
  auto lines = in;
  lines.grid = Grid{{0, 45}};
  EXPECT_THROW(core("generalized_neighborhood", json::object(), lines), Error);
  lines.grid = Grid{{40}};
  EXPECT_THROW(core("generalized_neighborhood", {{"causal", true}}, lines), Error);
  EXPECT_THROW(core("generalized_neighborhood", {{"window", {3, 3, 3}}}, in), Error);
}

}  // namespace
}  // namespace heed::neighborhood_test
