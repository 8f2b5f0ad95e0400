// A decoder written and read back, its formula, its steps, and what a damaged directory says.
#include "heed/checkpoint/decoder_checkpoint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "heed/checkpoint/tensor_file.h"
#include "heed/error.h"
#include "support/temporary_directory.h"
#include "support/torch_support.h"

namespace heed::decoder_checkpoint_test {
namespace {

using test::relative_error;
using torch::Tensor;
namespace fs = std::filesystem;

class DecoderCheckpoint : public testing::Test {
 protected:
  static DecoderConfig small() {
    DecoderConfig config;
    config.dim = 24;
    config.heads = 4;
    config.kv_heads = 2;
    config.head_dim = 6;
    config.hidden = 40;
    config.max_length = 64;
    config.positions.kind = "rope";
    config.layers.resize(2);
    return config;
  }
  static DecoderLm model_of(const DecoderConfig& config) {
    torch::manual_seed(11);
    DecoderLm model(config);
    torch::NoGradGuard no_grad;
    for (auto& p : model->parameters()) p.add_(torch::randn_like(p) * 0.2);
    model->eval();
    return model;
  }
  TemporaryDirectory directory_;
  const fs::path folder_ = directory_.path();
};

const auto kTokens = torch::arange(40).remainder(13).view({2, 20});

/// The Llama formula in plain torch, from the tensors of the file under Hugging Face's names.
Tensor llama_logits(const fs::path& folder, const DecoderConfig& c, const Tensor& tokens) {
  auto t = checkpoint::load_tensors(folder / "model.safetensors");
  for (auto& [name, tensor] : t) tensor = tensor.to(torch::kFloat64);
  const auto norm = [&](const Tensor& x, const std::string& name) {
    return x * torch::rsqrt(x.square().mean(-1, true) + c.norm_eps) * t.at(name);
  };
  const auto linear = [&](const Tensor& x, const std::string& name) { return torch::matmul(x, t.at(name).t()); };
  const int64_t n = tokens.size(1), half = c.head_dim / 2;
  const auto angles = torch::arange(n, torch::kFloat64).unsqueeze(1) *
                      torch::pow(10000.0, -torch::arange(half, torch::kFloat64) / double(half));
  const auto rotate = [&](const Tensor& x) {
    const auto a = x.slice(3, 0, half), b = x.slice(3, half);
    return torch::cat({a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()}, 3);
  };
  auto x = t.at("model.embed_tokens.weight").index({tokens});
  for (size_t i = 0; i < c.layers.size(); ++i) {
    const auto prefix = "model.layers." + std::to_string(i) + ".";
    const auto h = norm(x, prefix + "input_layernorm.weight");
    const auto heads = [&](const char* name, int64_t count) {
      return linear(h, prefix + "self_attn." + name + ".weight").view({2, n, count, c.head_dim}).transpose(1, 2);
    };
    const auto q = rotate(heads("q_proj", c.heads)),
               k = rotate(heads("k_proj", c.kv_heads)).repeat_interleave(c.heads / c.kv_heads, 1);
    const auto v = heads("v_proj", c.kv_heads).repeat_interleave(c.heads / c.kv_heads, 1);
    auto scores = torch::matmul(q, k.transpose(2, 3)) / std::sqrt(double(c.head_dim));
    scores = scores.masked_fill(torch::ones({n, n}, torch::kBool).triu(1), -INFINITY);
    x = x + linear(torch::matmul(torch::softmax(scores, -1), v).transpose(1, 2).flatten(2),
                   prefix + "self_attn.o_proj.weight");
    const auto y = norm(x, prefix + "post_attention_layernorm.weight");
    x = x + linear(torch::silu(linear(y, prefix + "mlp.gate_proj.weight")) * linear(y, prefix + "mlp.up_proj.weight"),
                   prefix + "mlp.down_proj.weight");
  }
  return linear(norm(x, "model.norm.weight"), c.tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
}

TEST_F(DecoderCheckpoint, IsALlama) {
  for (const bool tied : {true, false}) {
    auto config = small();
    config.tie_embeddings = tied;
    auto model = model_of(config);
    checkpoint::save_decoder(folder_, model, torch::kFloat32);
    torch::NoGradGuard no_grad;
    const auto expected = llama_logits(folder_, config, kTokens);
    EXPECT_LT(relative_error(model->forward(kTokens), expected), 1e-5);
    EXPECT_LT(relative_error(checkpoint::load_decoder(folder_, torch::kFloat64)->forward(kTokens), expected), 1e-12);
  }
}

// Written, and run in double precision, by Hugging Face transformers: fixtures/make_llama.py.
TEST_F(DecoderCheckpoint, GivesTheLogitsOfTransformers) {
  for (const char* variant : {"plain", "linear", "yarn", "llama3"}) {
    const auto folder = fs::path(HEED_TEST_SOURCE_DIR) / "checkpoint/fixtures/llama" / variant;
    const auto expected = checkpoint::load_tensors(folder / "expected.safetensors");
    torch::NoGradGuard no_grad;
    const auto logits = [&](torch::Dtype dtype) {
      return checkpoint::load_decoder(folder, dtype)->forward(expected.at("tokens")).slice(1, 0, INT64_MAX, 5);
    };
    // The fixture's angles are float, at positions up to 48.
    EXPECT_LT(relative_error(logits(torch::kFloat64), expected.at("logits")), 48 * 6e-8) << variant;
    EXPECT_LT(relative_error(logits(torch::kFloat32), expected.at("logits")), 1e-5) << variant;
  }
}

TEST_F(DecoderCheckpoint, ComesBackBitForBit) {
  auto config = small();
  config.layers[1] = {"sliding_window", {{"window", 7}, {"sink_logit", "learned"}}};
  auto model = model_of(config);
  checkpoint::save_decoder(folder_, model, torch::kFloat32);
  auto loaded = checkpoint::load_decoder(folder_);
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(torch::equal(loaded->forward(kTokens), model->forward(kTokens)));
  EXPECT_EQ(loaded->config().layers[1].mixer, "sliding_window");
  EXPECT_FALSE(loaded->config().is_llama());
}

// Positions that are terms of scores are told to the layers that have scores.
TEST_F(DecoderCheckpoint, LayersWithoutScoresComeBackFromAModelWithAlibi) {
  auto config = small();
  config.positions.kind = "alibi";
  config.layers[1] = {"gru", nlohmann::json::object()};
  auto model = model_of(config);
  checkpoint::save_decoder(folder_, model, torch::kFloat32);
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(torch::equal(checkpoint::load_decoder(folder_)->forward(kTokens), model->forward(kTokens)));
}

TEST_F(DecoderCheckpoint, RopeScalingSurvives) {
  auto config = small();
  config.positions.rope.scaling = "yarn";
  config.positions.rope.factor = 4;
  config.positions.rope.original_length = 64;
  auto model = model_of(config);
  checkpoint::save_decoder(folder_, model, torch::kFloat32);
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(torch::equal(checkpoint::load_decoder(folder_)->forward(kTokens), model->forward(kTokens)));
}

TEST_F(DecoderCheckpoint, StepsEqualTheWhole) {
  auto model = model_of(small());
  torch::NoGradGuard no_grad;
  const auto whole = model->forward(kTokens);
  auto state = model->make_state(2);
  std::vector<Tensor> parts;
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 9}, {9, 10}, {10, 20}})
    parts.push_back(model->forward(kTokens.slice(1, begin, end), &state));
  EXPECT_LT(relative_error(torch::cat(parts, 1), whole), test::kForwardTolerance);
  EXPECT_EQ(state.seen(), 20);
}

// A configuration of a few bytes must not make a model of gigabytes before its files are looked at.
TEST_F(DecoderCheckpoint, SizesThatTheFilesCannotFillAreRefusedBeforeTheyTakeMemory) {
  auto config = small();
  config.layers[1] = {"sliding_window", {{"window", 7}}};  // so that settings of layers are written
  auto model = model_of(config);
  checkpoint::save_decoder(folder_, model, torch::kFloat32);
  std::ifstream file(folder_ / "config.json");
  const auto good = nlohmann::json::parse(file);
  for (const auto& [mixer, settings] :
       std::vector<std::pair<const char*, nlohmann::json>>{{"dense", {{"heads", 65536}, {"head_dim", 65536}}},
                                                           {"base_conv", {{"dim", 1048576}, {"expand", 64}}},
                                                           {"base_conv", {{"expand", 64}}},
                                                           {"mamba", {{"state_dim", 65536}, {"expand", 64}}},
                                                           {"mamba", {{"state_dim", 1 << 24}, {"expand", 1 << 24}}}}) {
    auto bad = good;
    bad["heed"]["layers"][0] = {{"mixer", mixer}, {"config", settings}};
    std::ofstream(folder_ / "config.json") << bad;
    try {
      checkpoint::load_decoder(folder_);
      ADD_FAILURE() << "accepted: " << mixer << settings;
    } catch (const Error& error) {
      const std::string what = error.what();
      EXPECT_EQ(what.find('\n'), std::string::npos) << what;
      EXPECT_EQ(what.find("enforce"), std::string::npos) << what;
      EXPECT_LT(what.size(), 400u) << what;
    }
  }
  std::ofstream(folder_ / "config.json") << good;
  EXPECT_NO_THROW(checkpoint::load_decoder(folder_));
}

TEST_F(DecoderCheckpoint, DamageIsNamed) {
  auto model = model_of(small());
  const auto refuse = [&](const std::string& word) {
    try {
      checkpoint::load_decoder(folder_);
      ADD_FAILURE() << "accepted: " << word;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  };
  refuse("config.json");
  checkpoint::save_decoder(folder_, model);
  auto tensors = checkpoint::load_tensors(folder_ / "model.safetensors");
  const auto whole = tensors;
  tensors.erase("model.norm.weight");
  checkpoint::save_tensors(folder_ / "model.safetensors", tensors);
  refuse("model.norm.weight");
  tensors = whole;
  tensors["model.norm.weight"] = torch::ones({5});
  checkpoint::save_tensors(folder_ / "model.safetensors", tensors);
  refuse("[5]");
  tensors = whole;
  tensors["model.layers.7.input_layernorm.weight"] = torch::ones({24});
  checkpoint::save_tensors(folder_ / "model.safetensors", tensors);
  refuse("layers.7");
  EXPECT_THROW(checkpoint::load_decoder(folder_ / "nothing"), Error);
}

}  // namespace
}  // namespace heed::decoder_checkpoint_test
