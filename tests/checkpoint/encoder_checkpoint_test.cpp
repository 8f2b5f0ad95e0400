// Encoders of text and images from Hugging Face's directories: their outputs are transformers', damage is named.
#include "heed/checkpoint/encoder_checkpoint.h"

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

namespace heed::encoder_checkpoint_test {
namespace {

using test::relative_error;
using torch::Tensor;
namespace fs = std::filesystem;

const fs::path kFixtures = fs::path(HEED_TEST_SOURCE_DIR) / "checkpoint/fixtures/encoders";
// The fixtures are double but for their softmax, which transformers takes in float.
constexpr double kDoubleTolerance = 1e-6, kFloatTolerance = 1e-5;

checkpoint::TensorMap expected_of(const std::string& name) {
  return checkpoint::load_tensors(kFixtures / name / "expected.safetensors");
}

EncoderInput input_of(const checkpoint::TensorMap& t) {
  return {
      .tokens = t.at("input_ids"), .token_types = t.at("token_type_ids"), .key_padding = t.at("attention_mask") == 0};
}

class Encoders : public testing::TestWithParam<std::string> {
 protected:
  const checkpoint::TensorMap expected_ = expected_of(GetParam());
  torch::NoGradGuard no_grad_;
};

// Written, and run in double precision, by Hugging Face transformers: fixtures/make_encoders.py.
TEST_P(Encoders, GiveTheOutputsOfTransformers) {
  for (const auto dtype : {torch::kFloat64, torch::kFloat32}) {
    const double tolerance = dtype == torch::kFloat64 ? kDoubleTolerance : kFloatTolerance;
    auto model = checkpoint::load_encoder(kFixtures / GetParam(), dtype);
    const auto hidden = model->forward(input_of(expected_));
    EXPECT_LT(relative_error(hidden, expected_.at("hidden")), tolerance);
    EXPECT_EQ(expected_.contains("pooled"), model->config().pooler);
    EXPECT_EQ(expected_.contains("logits"), model->config().mlm_head);
    if (model->config().pooler) {
      EXPECT_LT(relative_error(model->pooled(hidden), expected_.at("pooled")), tolerance);
    } else {
      EXPECT_THROW(model->pooled(hidden), Error);
    }
    if (model->config().mlm_head) {
      EXPECT_LT(relative_error(model->mlm_logits(hidden).slice(1, 0, INT64_MAX, 5), expected_.at("logits")), tolerance);
    } else {
      EXPECT_THROW(model->mlm_logits(hidden), Error);
    }
  }
}

TEST_P(Encoders, PaddingDoesNotLeak) {
  auto model = checkpoint::load_encoder(kFixtures / GetParam());
  auto in = input_of(expected_);
  const auto before = model->forward(in);
  // Another kind of token in the padding, which no real token may notice.
  in.token_types = in.token_types->where(in.key_padding->logical_not(), torch::zeros_like(*in.token_types));
  const auto real = in.key_padding->logical_not();
  EXPECT_TRUE(torch::equal(model->forward(in).index({real}), before.index({real})));
}

TEST_P(Encoders, TooManyTokensAreRefused) {
  auto model = checkpoint::load_encoder(kFixtures / GetParam());
  const auto message = error_of([&] { model->forward({.tokens = torch::full({1, 29}, 5, torch::kInt64)}); });
  EXPECT_NE(message.find("29 tokens: the encoder has positions for 2"), std::string::npos) << message;
}

TEST_P(Encoders, IdsAndTypesThatDoNotFitAreNamed) {
  auto model = checkpoint::load_encoder(kFixtures / GetParam());
  const auto tokens = torch::full({1, 4}, 5, torch::kInt64);
  EXPECT_NE(error_of([&] { model->forward({.tokens = tokens + 37}); }).find("tokens: 42 is given"), std::string::npos);
  EXPECT_NE(error_of([&] { model->forward({.tokens = tokens, .token_types = tokens}); }).find("token_types: 5"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              model->forward({.tokens = tokens, .token_types = torch::zeros({1, 3}, torch::kInt64)});
            }).find("[1, 4] is accepted"),
            std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Architectures, Encoders,
                         testing::Values("bert", "bert_mlm", "bert_pretraining_f16", "roberta", "roberta_mlm"),
                         [](const auto& info) { return info.param; });

class Vision : public testing::TestWithParam<std::string> {};

TEST_P(Vision, GivesTheOutputsOfTransformers) {
  torch::NoGradGuard no_grad;
  const auto expected = expected_of(GetParam());
  for (const auto dtype : {torch::kFloat64, torch::kFloat32}) {
    const double tolerance = dtype == torch::kFloat64 ? kDoubleTolerance : kFloatTolerance;
    auto model = checkpoint::load_vision(kFixtures / GetParam(), dtype);
    const auto hidden = model->forward(expected.at("pixel_values").to(dtype));
    EXPECT_LT(relative_error(hidden, expected.at("hidden")), tolerance);
    if (expected.contains("pooled")) {
      EXPECT_LT(relative_error(model->pooled(hidden), expected.at("pooled")), tolerance);
      EXPECT_THROW(model->logits(hidden), Error);
    } else {
      EXPECT_LT(relative_error(model->logits(hidden), expected.at("logits")), tolerance);
      EXPECT_THROW(model->pooled(hidden), Error);
    }
    EXPECT_THROW(model->forward(torch::zeros({1, 3, 20, 12}, dtype)), Error);
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, Vision, testing::Values("vit", "vit_classifier"),
                         [](const auto& info) { return info.param; });

/// The tensors of a fixture, changed, in a directory of their own.
class ChangedEncoder : public testing::Test {
 protected:
  void copy(const std::string& name) {
    fs::copy_file(kFixtures / name / "config.json", folder_.path() / "config.json");
    tensors_ = checkpoint::load_tensors(kFixtures / name / "model.safetensors");
  }
  void save() { checkpoint::save_tensors(folder_.path() / "model.safetensors", tensors_); }
  TemporaryDirectory folder_;
  checkpoint::TensorMap tensors_;
};

TEST_F(ChangedEncoder, OldNamesOfNormsAndHeadsNobodyAskedForAreRead) {
  copy("bert_pretraining_f16");
  auto json = formats::read_json_file(folder_.path() / "config.json", 1 << 20);
  json["architectures"] = {"BertForMaskedLM"};
  std::ofstream(folder_.path() / "config.json") << json;
  checkpoint::TensorMap old;
  for (const auto& [stored, tensor] : tensors_) {
    auto name = stored;
    const auto rename = [&](const std::string& from, const std::string& to) {
      if (name.ends_with(from)) name.replace(name.size() - from.size(), from.size(), to);
    };
    rename("LayerNorm.weight", "LayerNorm.gamma");
    rename("LayerNorm.bias", "LayerNorm.beta");
    old[name] = tensor;
  }
  tensors_ = old;
  save();
  torch::NoGradGuard no_grad;
  const auto expected = expected_of("bert_pretraining_f16");
  auto model = checkpoint::load_encoder(folder_.path());
  const auto hidden = model->forward(input_of(expected));
  EXPECT_LT(relative_error(model->pooled(hidden), expected.at("pooled")), kFloatTolerance);
}

TEST_F(ChangedEncoder, DamageIsNamed) {
  copy("bert_mlm");
  const auto whole = tensors_;
  const auto name = "bert.encoder.layer.1.attention.self.key.bias";
  const auto message = [&] {
    save();
    return error_of([&] { checkpoint::load_encoder(folder_.path()); });
  };
  tensors_.erase(name);
  EXPECT_NE(message().find(std::string(name) + " is missing"), std::string::npos);
  tensors_ = whole;
  tensors_[name] = torch::zeros({13});
  EXPECT_NE(message().find("[13]"), std::string::npos);
  tensors_ = whole;
  tensors_["bert.encoder.layer.1.crossattention.self.key.bias"] = torch::zeros({12});
  EXPECT_NE(message().find("crossattention"), std::string::npos);
}

TEST_F(ChangedEncoder, AbsurdSizesAreRefusedBeforeTheyAreAllocated) {
  for (const auto& [name, key] : {std::pair("bert", "vocab_size"), {"vit_classifier", "intermediate_size"}}) {
    TemporaryDirectory folder;
    auto json = formats::read_json_file(kFixtures / name / "config.json", 1 << 20);
    json[key] = 1 << 24;
    std::ofstream(folder.path() / "config.json") << json;
    fs::copy_file(kFixtures / name / "model.safetensors", folder.path() / "model.safetensors");
    const auto message = error_of([&] {
      if (std::string(name) == "bert")
        checkpoint::load_encoder(folder.path());
      else
        checkpoint::load_vision(folder.path());
    });
    EXPECT_NE(message.find("parameters or more"), std::string::npos) << message;
  }
}

TEST(EncoderKinds, AnotherKindOfModelIsNamed) {
  EXPECT_NE(
      error_of([] { checkpoint::load_decoder(kFixtures / "bert_mlm"); }).find("'BertForMaskedLM', accepted: Llama"),
      std::string::npos);
  EXPECT_NE(error_of([] { checkpoint::load_encoder(kFixtures / "vit"); }).find("'ViTModel', accepted: BertModel"),
            std::string::npos);
  EXPECT_NE(error_of([] { checkpoint::load_vision(kFixtures / "bert"); }).find("'BertModel', accepted: ViTModel"),
            std::string::npos);
}

}  // namespace
}  // namespace heed::encoder_checkpoint_test
