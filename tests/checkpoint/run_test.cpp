// Mechanisms applied to the tensors of a file.
#include "heed/checkpoint/run.h"

#include <gtest/gtest.h>

#include "heed/checkpoint/tensor_file.h"
#include "heed/error.h"
#include "heed/mixers/token_mixer.h"
#include "heed/registry.h"
#include "support/temporary_directory.h"
#include "support/torch_support.h"

namespace heed::checkpoint::run_test {
namespace {

using nlohmann::json;

std::string refusal(const std::string& name, const TensorMap& inputs, const json& settings = json::object()) {
  TemporaryDirectory directory;
  RunRequest request{name, directory / "in.safetensors", directory / "out.safetensors", settings};
  save_tensors(request.in, inputs);
  try {
    run(request);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(RunCore, EveryMixerWithACoreTakesTheSizesOfItsTensors) {
  int64_t seen = 0;
  for (const auto& row : mixer_rows()) {
    if (!row.core) continue;
    TemporaryDirectory directory;
    torch::manual_seed(1);
    const int64_t heads = row.small.value("heads", 4), kv_heads = row.small.value("kv_heads", heads),
                  size = row.small.value("dim", 64) / heads;
    TensorMap inputs{{"q", torch::randn({2, heads, 19, size})},
                     {"k", torch::randn({2, kv_heads, 19, size})},
                     {"v", torch::randn({2, kv_heads, 19, size})}};
    if (row.grid) inputs["grid"] = torch::tensor({1, 19}, torch::kInt64);
    RunRequest request{"core:" + row.name, directory / "in.safetensors", directory / "out.safetensors", row.small};
    for (const char* told : {"dim", "heads", "kv_heads", "head_dim", "key_dim"}) request.settings.erase(told);
    request.seed = 3;
    save_tensors(request.in, inputs);
    try {
      run(request);
    } catch (const std::exception& error) {
      ADD_FAILURE() << row.name << ": " << error.what();
      continue;
    }
    EXPECT_EQ(load_tensors(request.out).at("out").sizes(), inputs.at("q").sizes()) << row.name;
    ++seen;
  }
  EXPECT_GT(seen, 30);
}

TEST(RunCore, IsTheMixersOwn) {
  TemporaryDirectory directory;
  torch::manual_seed(2);
  const TensorMap inputs{{"q", torch::randn({2, 3, 19, 6}, torch::kFloat64)},
                         {"k", torch::randn({2, 3, 19, 6}, torch::kFloat64)},
                         {"v", torch::randn({2, 3, 19, 4}, torch::kFloat64)}};
  RunRequest request{"core:linear_attention", directory / "in.safetensors", directory / "out.safetensors"};
  save_tensors(request.in, inputs);
  run(request);
  auto mixer = make_mixer("linear_attention", {{"dim", 12}, {"heads", 3}, {"key_dim", 6}});
  const auto want = mixer->mix({inputs.at("q"), inputs.at("k"), inputs.at("v")});
  EXPECT_TRUE(torch::equal(load_tensors(request.out).at("out"), want));
}

/// Queries without any block give 0, at no gradient to anyone; others are what they are without them.
TEST(RunOperator, EmptyBlockListsGiveZeros) {
  TemporaryDirectory directory;
  torch::manual_seed(4);
  auto mask = torch::ones({2, 3, 3}, torch::kBool);
  mask[0].zero_();
  mask[1][1].zero_();
  TensorMap inputs{{"block_mask", mask}};
  for (const char* name : {"q", "k", "v", "grad"}) inputs[name] = torch::randn({1, 2, 20, 8});
  RunRequest request{"op:block_sparse",
                     directory / "in.safetensors",
                     directory / "out.safetensors",
                     {{"query_block", 8}, {"key_block", 8}}};
  request.grad = true;
  save_tensors(request.in, inputs);
  run(request);
  const auto found = load_tensors(request.out);
  const auto empty = torch::cat({torch::ones({1, 20}, torch::kBool),
                                 ((torch::arange(20) >= 8) & (torch::arange(20) < 16)).unsqueeze(0)})
                         .unsqueeze(0);
  EXPECT_TRUE(torch::equal(found.at("lse") == -INFINITY, empty));
  EXPECT_TRUE(torch::equal((found.at("out") == 0).all(3), empty));
  EXPECT_TRUE(torch::equal((found.at("d_q") == 0).all(3), empty));
  for (const char* name : {"d_k", "d_v"}) {
    EXPECT_EQ(found.at(name)[0][0].abs().max().item<float>(), 0) << name;
    EXPECT_TRUE(test::all_finite(found.at(name))) << name;
  }
  inputs["block_mask"] = torch::ones({2, 2, 3}, torch::kBool);
  inputs.erase("grad");
  EXPECT_TRUE(holds(refusal("op:block_sparse", inputs, {{"query_block", 8}, {"key_block", 8}}), "block_mask"));
}

TEST(RunMixer, GridsAreATensorOrASetting) {
  TemporaryDirectory directory;
  torch::manual_seed(2);
  const TensorMap tokens{{"x", torch::randn({1, 35, 24})}};
  auto with_grid = tokens;
  with_grid["grid"] = torch::tensor({5, 7}, torch::kInt64);
  const json settings{{"heads", 3}};
  auto told = settings;
  told["grid"] = "5x7";
  const auto out = [&](const TensorMap& inputs, const json& own) {
    RunRequest request{"halo_attention", directory / "in.safetensors", directory / "out.safetensors", own};
    save_tensors(request.in, inputs);
    run(request);
    return load_tensors(request.out).at("out");
  };
  EXPECT_TRUE(torch::equal(out(tokens, told), out(with_grid, settings)));
  EXPECT_TRUE(holds(refusal("halo_attention", tokens, settings), "grid=16x24"));
  EXPECT_TRUE(holds(refusal("halo_attention", with_grid, told), "one of them"));
  told["grid"] = "5x6";
  EXPECT_TRUE(holds(refusal("halo_attention", tokens, told), "35"));
  told["grid"] = "5xx";
  EXPECT_TRUE(holds(refusal("halo_attention", tokens, told), "5xx"));
  // A mixer of lines knows no grid.
  EXPECT_TRUE(holds(refusal("dense", tokens, {{"grid", "5x7"}}), "unknown key grid"));
}

TEST(RunOperator, RatesThatGrowAndChunksOfNoLengthAreRefused) {
  const auto t = [](std::vector<int64_t> sizes) { return torch::randn(sizes); };
  TensorMap chunk{{"q", t({1, 2, 9, 4})}, {"k", t({1, 2, 9, 4})}, {"v", t({1, 2, 9, 4})}};
  EXPECT_EQ(refusal("op:linear_chunk", chunk), "accepted");
  for (const int64_t length : {0, 513})
    EXPECT_PRED2(holds, refusal("op:linear_chunk", chunk, {{"chunk", length}}),
                 "chunk = " + std::to_string(length) + ": 1 to 512 is accepted");
  EXPECT_EQ(refusal("op:linear_chunk", chunk, {{"chunk", 512}}), "accepted");
  auto with = chunk;
  with["log_decay"] = torch::full({1, 2, 9}, NAN);
  EXPECT_PRED2(holds, refusal("op:linear_chunk", with), "nan: at most 0 is accepted");
  with["log_decay"].fill_(0.5);
  EXPECT_PRED2(holds, refusal("op:linear_chunk", with), "log_decay holds 0.5");
  with["beta"] = torch::rand({1, 2, 9});
  EXPECT_PRED2(holds, refusal("op:delta_chunk", with), "log_decay holds 0.5");
  with = chunk;
  with["initial_state"] = t({1, 2, 4, 5});
  EXPECT_PRED2(holds, refusal("op:linear_chunk", with), "initial_state");
  TensorMap scan{{"x", t({1, 9, 4})},
                 {"delta", torch::rand({1, 9, 4})},
                 {"A", -torch::rand({4, 3})},
                 {"B", t({1, 9, 1, 3})},
                 {"C", t({1, 9, 1, 3})}};
  EXPECT_EQ(refusal("op:selective_scan", scan), "accepted");
  scan["A"][2][1] = 0.25;
  EXPECT_PRED2(holds, refusal("op:selective_scan", scan), "A holds 0.25: at most 0 is accepted");
}

}  // namespace
}  // namespace heed::checkpoint::run_test
