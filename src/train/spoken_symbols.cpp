#include "heed/train/spoken_symbols.h"

#include <algorithm>

#include "heed/error.h"
#include "heed/tasks/metrics.h"
#include "train/scheduled_adamw.h"

namespace heed::train {

using tasks::SpokenSymbols;
using torch::Tensor;

SpeechBatch speech_batch(const SpokenSymbols& speech, tasks::Split split, int64_t first, int64_t size) {
  std::vector<SpokenSymbols::Sample> samples;
  int64_t frames = 0, symbols = 0;
  for (int64_t b = 0; b < size; ++b) {
    samples.push_back(speech.sample(split, static_cast<uint64_t>(first + b)));
    frames = std::max(frames, samples.back().count);
    symbols = std::max(symbols, static_cast<int64_t>(samples.back().text.size()));
  }
  SpeechBatch batch{torch::zeros({size, frames, speech.config().bands}), torch::empty({size}, torch::kInt64),
                    torch::zeros({size, symbols}, torch::kInt64)};
  for (int64_t b = 0; b < size; ++b) {
    const auto& sample = samples[static_cast<size_t>(b)];
    std::copy(sample.frames.begin(), sample.frames.end(), batch.frames[b].data_ptr<float>());
    std::copy(sample.text.begin(), sample.text.end(), batch.text[b].data_ptr<int64_t>());
    batch.lengths[b] = sample.count;
  }
  return batch;
}

SambaAsr speech_model(const SpokenSymbols& speech, SambaAsrConfig like, uint64_t seed) {
  torch::manual_seed(seed);
  like.bands = speech.config().bands;
  like.vocab_size = speech.config().symbols + 1;
  return SambaAsr(like);
}

Tensor speech_loss(SambaAsr& model, const SpeechBatch& batch, double ctc_weight) {
  namespace F = torch::nn::functional;
  const auto encoded = model->encode(batch.frames, batch.lengths);
  const auto labels = torch::constant_pad_nd(batch.text, {0, 1}, 0);
  const auto losses = F::cross_entropy(model->forward(encoded, batch.text).flatten(0, 1), labels.flatten(),
                                       F::CrossEntropyFuncOptions().reduction(torch::kNone));
  // The first end counts, those behind it do not.
  const auto said = batch.text.ne(0);
  const auto counted = torch::constant_pad_nd(said, {1, 0}, true).to(losses.scalar_type()).flatten();
  auto loss = (losses * counted).sum() / counted.sum();
  if (ctc_weight > 0) {
    const auto logits = model->ctc_logits(encoded);
    const auto chances = torch::log_softmax(logits, 2).transpose(0, 1);
    loss = loss + ctc_weight * torch::ctc_loss(chances, batch.text, encoded.lengths, said.sum(1), logits.size(2) - 1,
                                               at::Reduction::Mean, true);
  }
  return loss;
}

double train_speech(SambaAsr& model, const SpokenSymbols& speech, const SpeechOptions& o,
                    const std::function<void(int64_t step, double loss)>& report) {
  require(o.batch >= 1, "speech: batches of {}: 1 or more is accepted", o.batch);
  model->train();
  ScheduledAdamW adamw("speech", model->named_parameters(), o.steps, o.learning_rate, o.weight_decay);
  for (int64_t step = 0; step < o.steps; ++step) {
    const auto batch = speech_batch(speech, tasks::Split::train, step * o.batch, o.batch);
    const double loss = adamw.step(speech_loss(model, batch, model->config().ctc ? o.ctc_weight : 0));
    if (report) report(step, loss);
  }
  model->eval();
  return adamw.last_loss();
}

double token_error_rate(SambaAsr& model, const SpokenSymbols& speech, tasks::Split split, int64_t count) {
  require(count >= 1, "token error rate over {} utterances: 1 or more is accepted", count);
  torch::NoGradGuard no_grad;
  constexpr int64_t kBatch = 64;
  int64_t edits = 0, said = 0;
  for (int64_t first = 0; first < count; first += kBatch) {
    const auto batch = speech_batch(speech, split, first, std::min(kBatch, count - first));
    const auto texts = model->transcribe(model->encode(batch.frames, batch.lengths), 2 * speech.config().most);
    for (size_t b = 0; b < texts.size(); ++b) {
      const auto text = speech.sample(split, static_cast<uint64_t>(first) + b).text;
      edits += tasks::edit_distance(texts[b], text);
      said += static_cast<int64_t>(text.size());
    }
  }
  return static_cast<double>(edits) / static_cast<double>(said);
}

}  // namespace heed::train
