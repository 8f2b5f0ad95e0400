#include "heed/train/lm_data.h"

#include <algorithm>
#include <cmath>

#include "heed/error.h"
#include "heed/formats/byte_tokenizer.h"
#include "heed/progress.h"

namespace heed::train {

using tasks::Split;

namespace {

/// Without the parts of characters at both ends.
std::string_view whole_characters(std::string_view utf8) {
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; };
  size_t begin = 0;
  while (begin < utf8.size() && begin < 3 && continues(utf8[begin])) ++begin;
  utf8.remove_prefix(begin);
  size_t last = utf8.size();
  while (last > 0 && utf8.size() - last < 3 && continues(utf8[last - 1])) --last;
  if (last > 0 && static_cast<unsigned char>(utf8[last - 1]) >= 0xC0) {
    const auto lead = static_cast<unsigned char>(utf8[last - 1]);
    const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (utf8.size() - (last - 1) < length) utf8 = utf8.substr(0, last - 1);
  }
  return utf8;
}

}  // namespace

LmBatch mixture_batch(const tasks::Mixture& mixture, int64_t step, int64_t size, int64_t context) {
  LmBatch batch{torch::empty({size, context + 1}, torch::kInt64), torch::empty({size, context})};
  for (int64_t b = 0; b < size; ++b) {
    const auto window = mixture.window(Split::train, uint64_t(step) * uint64_t(size) + uint64_t(b));
    std::copy(window.tokens.begin(), window.tokens.end(), batch.tokens.data_ptr<int64_t>() + b * (context + 1));
    std::copy(window.weights.begin(), window.weights.end(), batch.weights.data_ptr<float>() + b * context);
  }
  return batch;
}

Curriculum::Curriculum(std::string_view mixture, const tasks::Corpus* corpus, const std::vector<int64_t>& contexts,
                       int64_t size, int64_t steps, uint64_t seed)
    : steps_(steps) {
  require(!contexts.empty() && size >= 1 && steps >= 1, "a curriculum of {} contexts, {} windows and {} steps",
          contexts.size(), size, steps);
  for (const int64_t context : contexts)
    stages_.push_back(
        {tasks::Mixture(contexts.size() == 1 ? std::string(mixture) : tasks::Mixture::fitting(mixture, context), corpus,
                        context, seed),
         context, std::max<int64_t>(1, size * contexts.back() / context)});
}

LmBatch Curriculum::batch(int64_t step) const {
  const auto count = int64_t(stages_.size());
  const auto& stage = stages_[size_t(std::clamp<int64_t>(step * count / steps_, 0, count - 1))];
  return mixture_batch(stage.mixture, step, stage.size, stage.context);
}

LmBatch text_batch(const formats::Tokenizer& tokenizer, const tasks::Corpus& corpus, Split split, int64_t step,
                   int64_t size, int64_t context, uint64_t seed) {
  LmBatch batch{torch::empty({size, context + 1}, torch::kInt64), torch::ones({size, context})};
  for (int64_t b = 0; b < size; ++b) {
    const auto index = uint64_t(step) * uint64_t(size) + uint64_t(b);
    std::vector<int64_t> ids;
    // A token has a byte or more, mostly.
    for (int64_t bytes = context + 1; int64_t(ids.size()) <= context; bytes *= 2) {
      ids = tokenizer.encode(whole_characters(corpus.window(split, index, bytes, seed)), false);
    }
    std::copy(ids.begin(), ids.begin() + context + 1, batch.tokens.data_ptr<int64_t>() + b * (context + 1));
  }
  return batch;
}

double bits_per_byte(DecoderLm& model, const tasks::Corpus& corpus, Split split, int64_t context,
                     int64_t most_windows) {
  torch::NoGradGuard no_grad;
  model->eval();
  const int64_t windows = corpus.evaluation_windows(split, context);
  require(windows > 0, "the {} split is shorter than one window of {} bytes", tasks::name_of(split), context);
  const int64_t used = std::min(windows, most_windows);
  double nats = 0;
  Progress progress("bits per byte", used);
  for (int64_t w = 0; w < used; ++w) {
    const auto window = corpus.evaluation_window(split, w * windows / used, context);
    auto tokens = torch::empty({1, context + 1}, torch::kInt64);
    for (int64_t i = 0; i <= context; ++i) tokens[0][i] = int64_t(static_cast<unsigned char>(window[i]));
    nats += lm_loss(model, {tokens, torch::ones({1, context})}).item<double>();
    progress.update(w + 1);
  }
  return nats / double(used) / std::log(2.0);
}

}  // namespace heed::train
