#include "heed/train/spoken_symbols.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::train::spoken_symbols_test {
namespace {

using tasks::Split;
using tasks::SpokenSymbols;

SambaAsrConfig small() {
  SambaAsrConfig config;
  config.dim = 32;
  config.encoder_layers = config.decoder_layers = 1;
  config.stride = 2;
  config.encoder_mixer = config.decoder_mixer = {{"state_dim", 8}};
  config.ctc = true;
  return config;
}

TEST(SpeechBatch, HoldsTheUtterances) {
  const SpokenSymbols speech;
  const auto batch = speech_batch(speech, Split::valid, 3, 4);
  for (int64_t b = 0; b < 4; ++b) {
    const auto sample = speech.sample(Split::valid, uint64_t(3 + b));
    ASSERT_EQ(batch.lengths[b].item<int64_t>(), sample.count);
    const auto frames = torch::tensor(sample.frames).view({sample.count, -1});
    EXPECT_TRUE(torch::equal(batch.frames[b].narrow(0, 0, sample.count), frames));
    EXPECT_EQ(batch.text[b].ne(0).sum().item<int64_t>(), int64_t(sample.text.size()));
  }
}

// Padding counts for nothing: the loss of a batch is that of its utterances.
TEST(SpeechLoss, IsTheMeanOverSymbolsAndEnds) {
  const SpokenSymbols speech;
  auto config = small();
  auto model = speech_model(speech, config, 1);
  torch::NoGradGuard no_grad;
  const auto all = speech_batch(speech, Split::valid, 0, 3);
  double sum = 0, count = 0;
  for (int64_t b = 0; b < 3; ++b) {
    const auto one = speech_batch(speech, Split::valid, b, 1);
    const double labels = double(one.text.size(1) + 1);
    sum += speech_loss(model, one).item<double>() * labels;
    count += labels;
  }
  EXPECT_NEAR(speech_loss(model, all).item<double>(), sum / count, 1e-5);
  EXPECT_GT(speech_loss(model, all, 1).item<double>(), sum / count);
}

TEST(Speech, IsWrittenDownAfterTraining) {
  tasks::SpokenSymbolsConfig config;
  config.symbols = 4;
  config.bands = 8;
  config.least = 1;
  config.most = 3;
  config.slowest = 4;
  const SpokenSymbols speech(config);
  auto model = speech_model(speech, small(), 1);
  const double before = token_error_rate(model, speech, Split::test, 64);
  SpeechOptions options;
  options.steps = 250;
  options.batch = 16;
  options.learning_rate = 6e-3;
  int64_t reports = 0;
  train_speech(model, speech, options, [&](int64_t step, double) { EXPECT_EQ(step, reports++); });
  EXPECT_EQ(reports, 250);
  EXPECT_GT(before, 0.7);
  EXPECT_LT(token_error_rate(model, speech, Split::test, 64), 0.2);
  options.steps = 0;
  EXPECT_THROW(train_speech(model, speech, options), Error);
}

}  // namespace
}  // namespace heed::train::spoken_symbols_test
