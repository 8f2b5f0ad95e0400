// Decoders from GGUF files: the logits are those of transformers with the same rounded numbers, damage is named.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/checkpoint/language_model.h"
#include "heed/checkpoint/tensor_file.h"
#include "support/temporary_directory.h"
#include "support/test_files.h"
#include "support/torch_support.h"

namespace heed::gguf_checkpoint_test {
namespace {

using test::relative_error;
namespace fs = std::filesystem;

const fs::path kFixtures = fs::path(HEED_TEST_SOURCE_DIR) / "checkpoint/fixtures/gguf";

class Gguf : public testing::TestWithParam<std::string> {
 protected:
  const fs::path file_ = kFixtures / (GetParam() + ".gguf");
  const checkpoint::TensorMap expected_ = checkpoint::load_tensors(kFixtures / (GetParam() + ".safetensors"));
  torch::NoGradGuard no_grad_;
};

// Written by PyPI's gguf, run in double precision by Hugging Face transformers: fixtures/make_gguf.py.
TEST_P(Gguf, GivesTheLogitsOfTransformers) {
  const auto logits = [&](torch::Dtype dtype) {
    return checkpoint::load_decoder(file_, dtype)->forward(expected_.at("tokens")).slice(1, 0, INT64_MAX, 8);
  };
  // The fixture's angles are float, at positions up to 41.
  EXPECT_LT(relative_error(logits(torch::kFloat64), expected_.at("logits")), 41 * 6e-8);
  EXPECT_LT(relative_error(logits(torch::kFloat32), expected_.at("logits")), 1e-5);
}

TEST_P(Gguf, BecomesADirectory) {
  TemporaryDirectory folder;
  auto model = checkpoint::load_decoder(file_);
  checkpoint::save_decoder(folder.path(), model, torch::kFloat32);
  auto again = checkpoint::load_decoder(folder.path());
  EXPECT_TRUE(torch::equal(again->forward(expected_.at("tokens")), model->forward(expected_.at("tokens"))));
  const auto config = formats::read_decoder_config(folder.path() / "config.json");
  EXPECT_EQ(config.architecture, GetParam().starts_with("llama") ? "LlamaForCausalLM" : "HeedForCausalLM");
}

INSTANTIATE_TEST_SUITE_P(Files, Gguf,
                         testing::Values("llama_q8_0", "llama3_f16", "llama_yarn_bf16", "qwen2_q4_0", "qwen3_q8_0"),
                         [](const auto& info) { return info.param; });

TEST(GgufLanguageModel, HasItsTokenizerAndEndings) {
  auto lm = checkpoint::load_language_model(kFixtures / "llama_q8_0.gguf");
  EXPECT_EQ(lm.eos, std::vector<int64_t>{2});
  const auto ids = lm.tokenizer.encode("the cat");
  EXPECT_EQ(lm.tokenizer.decode(ids, true), "the cat");
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(test::all_finite(lm.model->forward(torch::tensor(ids).view({1, -1}))));
  EXPECT_NE(error_of([] { checkpoint::load_language_model(kFixtures / "qwen2_q4_0.gguf"); }).find("tokenizer.ggml"),
            std::string::npos);
}

/// A fixture whose bytes `from` have become `to`, as long.
class PatchedGguf : public testing::Test {
 protected:
  std::string refusal(const std::string& fixture, const std::string& from, const std::string& to) {
    std::ifstream in(kFixtures / (fixture + ".gguf"), std::ios::binary);
    std::string bytes(std::istreambuf_iterator<char>(in), {});
    const auto at = bytes.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    bytes.replace(at, from.size(), to);
    return refusal_of(bytes);
  }
  std::string refusal_of(const std::string& bytes) {
    const auto path = folder_.path() / "model.gguf";
    std::ofstream(path, std::ios::binary) << bytes;
    return error_of([&] { checkpoint::load_decoder(path); });
  }
  static void expect_in(const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message << "\nexpected: " << part;
  }
  TemporaryDirectory folder_;
};

TEST_F(PatchedGguf, DamageIsNamed) {
  // The value of general.architecture stands behind its type and length.
  const std::string value("\x08\0\0\0\x05\0\0\0\0\0\0\0", 12);
  expect_in(refusal("llama_q8_0", value + "llama", value + "bloom"),
            "general.architecture is 'bloom', accepted: llama, qwen2, qwen3");
  expect_in(refusal("llama_q8_0", "llama.block_count", "llama.block_counl"), "llama.block_count is missing");
  expect_in(refusal("llama_q8_0", "llama.context_length", "llama.max_context_le"), "llama.context_length is missing");
  expect_in(refusal("llama_q8_0", "llama.rope.freq_base", "llama.residual_scale"), "which heed does not follow");
  expect_in(refusal("llama_q8_0", "output_norm.weight", "output_nurm.weight"), "output_norm.weight is missing");
  expect_in(refusal("llama_q8_0", "token_embd.weight", "token_embb.weight"), "token_embd.weight");
  expect_in(refusal("llama3_f16", "rope_freqs.weight", "rope_frogs.weight"), "rope_frogs.weight belongs to no part");
  expect_in(refusal("llama_yarn_bf16", "yarn", "yurn"), "accepted: none, linear, yarn");
}

TEST_F(PatchedGguf, TruncationIsNamedEverywhere) {
  std::ifstream in(kFixtures / "qwen2_q4_0.gguf", std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(in), {});
  // The last tensor is followed by padding, which nobody misses.
  for (size_t size = 0; size + 32 < bytes.size(); size += 131) EXPECT_FALSE(refusal_of(bytes.substr(0, size)).empty());
}

}  // namespace
}  // namespace heed::gguf_checkpoint_test
