// Checkpoints of other people's architectures: the logits are theirs, a saved copy gives the same, damage is named.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/checkpoint/tensor_file.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"
#include "support/temporary_directory.h"
#include "support/test_files.h"
#include "support/torch_support.h"

namespace heed::architectures_test {
namespace {

using test::relative_error;
using torch::Tensor;
namespace fs = std::filesystem;

const fs::path kFixtures = fs::path(HEED_TEST_SOURCE_DIR) / "checkpoint/fixtures/decoders";

std::vector<std::string> fixtures() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kFixtures)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

/// One directory that transformers wrote, with the logits that it computes: fixtures/make_decoders.py.
class Decoders : public testing::TestWithParam<std::string> {
 protected:
  const fs::path folder_ = kFixtures / GetParam();
  const checkpoint::TensorMap expected_ = checkpoint::load_tensors(folder_ / "expected.safetensors");
  const Tensor tokens_ = expected_.at("tokens");
  torch::NoGradGuard no_grad_;
};

TEST_P(Decoders, GiveTheLogitsOfTransformers) {
  const auto logits = [&](torch::Dtype dtype) {
    return checkpoint::load_decoder(folder_, dtype)->forward(tokens_).slice(1, 0, INT64_MAX, 8);
  };
  // The fixture's angles are float, at positions up to 41.
  EXPECT_LT(relative_error(logits(torch::kFloat64), expected_.at("logits")), 41 * 6e-8);
  EXPECT_LT(relative_error(logits(torch::kFloat32), expected_.at("logits")), 1e-5);
}

TEST_P(Decoders, StepsEqualTheWhole) {
  auto model = checkpoint::load_decoder(folder_);
  const auto whole = model->forward(tokens_);
  auto state = model->make_state(2);
  std::vector<Tensor> parts;
  // LongRoPE looks at the length of a call, so that its first call must already be beyond the trained length.
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 19}, {19, 20}, {20, 41}})
    parts.push_back(model->forward(tokens_.slice(1, begin, end), &state));
  EXPECT_LT(relative_error(torch::cat(parts, 1), whole), test::kForwardTolerance);
}

TEST_P(Decoders, ComeBackFromHeedsOwnFormat) {
  TemporaryDirectory copy;
  auto model = checkpoint::load_decoder(folder_);
  checkpoint::save_decoder(copy.path(), model, torch::kFloat32);
  auto again = checkpoint::load_decoder(copy.path());
  EXPECT_TRUE(torch::equal(again->forward(tokens_), model->forward(tokens_)));
  const auto written = formats::read_decoder_config(copy.path() / "config.json");
  EXPECT_EQ(written.architecture, model->config().is_llama() ? "LlamaForCausalLM" : "HeedForCausalLM");
}

TEST_P(Decoders, AreTrainable) {
  torch::AutoGradMode grad(true);
  auto model = checkpoint::load_decoder(folder_);
  model->forward(tokens_).square().mean().backward();
  for (const auto& entry : model->named_parameters()) {
    ASSERT_TRUE(entry.value().grad().defined()) << entry.key();
    EXPECT_TRUE(test::all_finite(entry.value().grad())) << entry.key();
  }
}

TEST_P(Decoders, DamagedTensorsAreNamed) {
  TemporaryDirectory copy;
  checkpoint::TensorMap whole;
  for (const auto& entry : fs::directory_iterator(folder_)) {
    const auto name = entry.path().filename().string();
    if (name == "config.json") fs::copy(entry.path(), copy.path() / name);
    if (name.starts_with("model") && name.ends_with(".safetensors"))
      whole.merge(checkpoint::load_tensors(entry.path()));
  }
  const auto message = [&](const checkpoint::TensorMap& tensors) {
    checkpoint::save_tensors(copy.path() / "model.safetensors", tensors);
    return error_of([&] { checkpoint::load_decoder(copy.path()); });
  };
  for (const auto& [name, tensor] : whole) {
    auto tensors = whole;
    tensors.erase(name);
    // Without it the numbers would be too few, and that is noticed before names are.
    tensors["padding"] = torch::zeros({tensor.numel()});
    EXPECT_NE(message(tensors).find(name + " is missing"), std::string::npos);
    tensors.erase("padding");
    tensors[name] = torch::cat({tensor, tensor}, 0);
    EXPECT_NE(message(tensors).find(name), std::string::npos);
    tensors[name] = tensor;
    tensors["model.layers.7.stray"] = tensor;
    EXPECT_NE(message(tensors).find("model.layers.7.stray"), std::string::npos);
  }
}

TEST_P(Decoders, AbsurdSizesAreRefusedBeforeTheyAreAllocated) {
  TemporaryDirectory copy;
  for (const auto& entry : fs::directory_iterator(folder_))
    fs::copy(entry.path(), copy.path() / entry.path().filename());
  auto json = formats::read_json_file(folder_ / "config.json", 1 << 20);
  json["vocab_size"] = 1 << 24;
  std::ofstream(copy.path() / "config.json") << json;
  const auto message = error_of([&] { checkpoint::load_decoder(copy.path()); });
  EXPECT_NE(message.find("parameters or more"), std::string::npos) << message;
}

TEST_P(Decoders, LearnedPositionsEnd) {
  auto model = checkpoint::load_decoder(folder_);
  const int64_t rows = model->config().learned_positions;
  const auto longer = torch::cat({tokens_, tokens_}, 1);
  if (!rows) {
    EXPECT_TRUE(test::all_finite(model->forward(longer)));
    return;
  }
  EXPECT_NE(error_of([&] { model->forward(longer); }).find("82 tokens: the model has learned positions for 41"),
            std::string::npos);
  auto state = model->make_state(2);
  model->forward(tokens_, &state);
  EXPECT_NE(error_of([&] { model->forward(tokens_.slice(1, 0, 1), &state); }).find("42 tokens"), std::string::npos);
}

TEST_P(Decoders, IdsBeyondTheVocabularyAreNamed) {
  auto model = checkpoint::load_decoder(folder_);
  EXPECT_NE(error_of([&] { model->forward(tokens_ + 37); }).find("0 to 36 is accepted"), std::string::npos);
  EXPECT_NE(error_of([&] { model->forward(tokens_ - 37); }).find("tokens: -"), std::string::npos);
  EXPECT_THROW(model->forward(tokens_.to(torch::kInt32)), Error);
}

TEST_P(Decoders, WeightsAreOfTheTypeAskedFor) {
  auto model = checkpoint::load_decoder(folder_, torch::kBFloat16);
  for (const auto& entry : model->named_parameters())
    EXPECT_EQ(entry.value().scalar_type(), torch::kBFloat16) << entry.key();
  EXPECT_TRUE(test::all_finite(model->forward(tokens_)));
}

INSTANTIATE_TEST_SUITE_P(Architectures, Decoders, testing::ValuesIn(fixtures()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace heed::architectures_test
