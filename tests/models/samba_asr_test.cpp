// The card of samba_asr: states that are handed over, padding that leaves no trace, steps that equal whole texts.
#include "heed/models/samba_asr.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::samba_asr_test {
namespace {

using test::relative_error;
using torch::Tensor;

constexpr double kRounding = 1e-11;

SambaAsrConfig small(const std::string& connection = "state", const std::string& mixer = "mamba") {
  SambaAsrConfig config;
  config.bands = 6;
  config.dim = 16;
  config.encoder_layers = 2;
  config.decoder_layers = 3;
  config.vocab_size = 7;
  config.mixer = mixer;
  config.encoder_mixer = config.decoder_mixer = {{"state_dim", 4}};
  config.connection = connection;
  if (mixer == "mamba2") {
    config.bidirectional = false;
    config.encoder_mixer = config.decoder_mixer = {{"state_dim", 4}, {"head_dim", 8}};
  }
  return config;
}

SambaAsr in_double(const SambaAsrConfig& config, uint64_t seed = 3) {
  torch::manual_seed(seed);
  SambaAsr model(config);
  model->to(torch::kFloat64);
  return model;
}

Tensor random_frames(int64_t batch, int64_t frames) { return torch::randn({batch, frames, 6}, torch::kFloat64); }
Tensor random_text(int64_t batch, int64_t length) { return torch::randint(1, 7, {batch, length}, torch::kInt64); }

TEST(SambaAsr, HandingAStateOverIsScanningOneSequence) {
  // With one layer both connections have the same weights and the same scan.
  for (const char* mixer : {"mamba", "mamba2"}) {
    auto config = small("state", mixer);
    config.decoder_layers = 1;
    config.mean = false;
    auto by_state = in_double(config, 5);
    config.connection = "concatenated";
    auto as_one = in_double(config, 5);
    const auto frames = random_frames(2, 21);
    const auto lengths = torch::tensor({21, 14}, torch::kInt64);
    const auto text = random_text(2, 5);
    const auto a = by_state->forward(by_state->encode(frames, lengths), text);
    const auto b = as_one->forward(as_one->encode(frames, lengths), text);
    EXPECT_LT(relative_error(a, b), kRounding) << mixer;
  }
}

TEST(SambaAsr, StepsEqualWholeTexts) {
  torch::NoGradGuard no_grad;
  for (const char* connection : {"state", "concatenated"})
    for (const char* mixer : {"mamba", "mamba2", "dense"}) {
      auto config = small(connection, mixer);
      if (config.mixer == "dense") config.encoder_mixer = config.decoder_mixer = {{"positions", "rope"}};
      auto model = in_double(config);
      const auto speech = model->encode(random_frames(2, 19), torch::tensor({11, 19}, torch::kInt64));
      const auto text = random_text(2, 6);
      const auto whole = model->forward(speech, text);
      auto [state, first] = model->begin(speech);
      std::vector<Tensor> parts{first.unsqueeze(1)};
      for (const auto& [from, to] : {std::pair<int64_t, int64_t>{0, 1}, {1, 2}, {2, 6}})
        parts.push_back(model->advance(state, text.slice(1, from, to)));
      EXPECT_LT(relative_error(torch::cat(parts, 1), whole), kRounding) << connection << " " << mixer;
    }
}

TEST(SambaAsr, LaterTextIsNotSeen) {
  torch::NoGradGuard no_grad;
  for (const char* connection : {"state", "concatenated"}) {
    auto model = in_double(small(connection));
    const auto speech = model->encode(random_frames(1, 12));
    auto text = random_text(1, 6);
    const auto before = model->forward(speech, text);
    text[0][3] = text[0][3].item<int64_t>() % 6 + 1;
    const auto after = model->forward(speech, text);
    EXPECT_TRUE(torch::equal(after.slice(1, 0, 4), before.slice(1, 0, 4)));
    EXPECT_FALSE(torch::equal(after.slice(1, 4), before.slice(1, 4)));
  }
}

TEST(SambaAsr, PaddedFramesLeaveNoTrace) {
  torch::NoGradGuard no_grad;
  for (const bool bidirectional : {false, true})
    for (const int64_t stride : {2, 4})
      for (const char* connection : {"state", "concatenated"}) {
        auto config = small(connection);
        config.bidirectional = bidirectional;
        config.stride = stride;
        auto model = in_double(config);
        for (const int64_t real : {1, 2, 9, 12, 22}) {
          auto frames = random_frames(2, 23);
          frames[0].slice(0, real).fill_(NAN);
          const auto text = random_text(2, 4);
          const auto speech = model->encode(frames, torch::tensor({real, int64_t{23}}, torch::kInt64));
          const auto alone = model->encode(frames.narrow(0, 0, 1).narrow(1, 0, real));
          ASSERT_EQ(speech.lengths[0].item<int64_t>(), (real + stride - 1) / stride);
          ASSERT_EQ(alone.x.size(1), speech.lengths[0].item<int64_t>());
          EXPECT_LT(relative_error(speech.x[0].narrow(0, 0, alone.x.size(1)), alone.x[0]), kRounding);
          EXPECT_LT(relative_error(model->forward(speech, text)[0], model->forward(alone, text.narrow(0, 0, 1))[0]),
                    kRounding)
              << connection << " " << real << " frames, stride " << stride << ", bidirectional " << bidirectional;
        }
      }
}

TEST(SambaAsr, ACausalEncoderDoesNotSeeLaterFrames) {
  torch::NoGradGuard no_grad;
  for (const bool bidirectional : {false, true}) {
    auto config = small();
    config.bidirectional = bidirectional;
    config.stride = 2;
    auto model = in_double(config);
    auto frames = random_frames(1, 20);
    const auto before = model->encode(frames).x;
    frames.slice(1, 11).add_(1);  // token 5 stands on frame 10
    const auto after = model->encode(frames).x;
    EXPECT_EQ(torch::equal(after.slice(1, 0, 6), before.slice(1, 0, 6)), !bidirectional);
    EXPECT_FALSE(torch::equal(after.slice(1, 6), before.slice(1, 6)));
  }
}

TEST(SambaAsr, TextTeachesTheEncoderThroughTheState) {
  for (const char* connection : {"state", "concatenated"}) {
    auto config = small(connection);
    config.mean = false;
    auto model = in_double(config);
    auto frames = random_frames(2, 13).requires_grad_();
    const auto text = random_text(2, 4);
    const auto loss = [&] { return model->forward(model->encode(frames), text).square().sum(); };
    const auto grad = torch::autograd::grad({loss()}, {frames})[0];
    const auto direction = torch::randn_like(frames);
    torch::NoGradGuard no_grad;
    const auto at = [&](double step) {
      frames.add_(direction, step);
      const double value = loss().item<double>();
      frames.add_(direction, -step);
      return value;
    };
    const double expected = (grad * direction).sum().item<double>();
    ASSERT_GT(std::abs(expected), 1e-4);
    EXPECT_NEAR((at(1e-5) - at(-1e-5)) / 2e-5, expected, 1e-6 * std::max(1.0, std::abs(expected)));
    for (auto& entry : model->named_parameters()) EXPECT_TRUE(test::all_finite(entry.value())) << entry.key();
  }
}

TEST(SambaAsr, TheStateDoesNotGrowWithTheSpeech) {
  torch::NoGradGuard no_grad;
  auto model = in_double(small());
  const auto bytes = [&](int64_t frames) {
    int64_t sum = 0;
    for (const auto& layer : model->begin(model->encode(random_frames(1, frames))).first.layers) sum += layer->bytes();
    return sum;
  };
  EXPECT_EQ(bytes(16), bytes(400));
}

TEST(SambaAsr, TranscriptionsAreTheLikeliestTokens) {
  auto model = in_double(small());
  const auto speech = model->encode(random_frames(3, 17));
  const auto texts = model->transcribe(speech, 8);
  ASSERT_EQ(texts.size(), 3u);
  for (size_t b = 0; b < 3; ++b) {
    ASSERT_LE(texts[b].size(), 8u);
    const auto text = torch::tensor(texts[b], torch::kInt64).view({1, -1});
    const EncodedSpeech one{speech.x.narrow(0, int64_t(b), 1), speech.lengths.narrow(0, int64_t(b), 1)};
    const auto best = model->forward(one, text).argmax(2)[0];
    for (size_t i = 0; i < texts[b].size(); ++i) EXPECT_EQ(best[int64_t(i)].item<int64_t>(), texts[b][i]);
    if (texts[b].size() < 8) {
      EXPECT_EQ(best[int64_t(texts[b].size())].item<int64_t>(), 0);
    }
  }
}

TEST(SambaAsr, WrongInputIsNamed) {
  auto config = small();
  config.stride = 3;
  EXPECT_THROW(SambaAsr{config}, Error);
  config = small();
  config.connection = "cross";
  EXPECT_THROW(SambaAsr{config}, Error);
  auto model = in_double(small());
  EXPECT_THROW(model->encode(torch::randn({1, 5, 7})), Error);
  EXPECT_THROW(model->encode(random_frames(1, 5), torch::tensor({6}, torch::kInt64)), Error);
  EXPECT_THROW(model->forward(model->encode(random_frames(1, 5)), torch::full({1, 2}, 7, torch::kInt64)), Error);
  EXPECT_THROW(model->ctc_logits(model->encode(random_frames(1, 5))), Error);
}

}  // namespace
}  // namespace heed::samba_asr_test
