#include "heed/train/lm_data.h"

#include <algorithm>
#include <cmath>

#include "heed/error.h"
#include "heed/formats/byte_tokenizer.h"
#include "heed/progress.h"

namespace heed::train {

using tasks::Split;

MixturePart parse_mixture_part(const std::string& text) {
  const size_t equals = text.find('='), colon = text.find(':', equals);
  MixturePart part{text.substr(0, equals)};
  const bool has_json = equals != std::string::npos && colon != std::string::npos;
  if (equals != std::string::npos) {
    const auto number = text.substr(equals + 1, has_json ? colon - equals - 1 : std::string::npos);
    char* stop = nullptr;
    part.share = std::strtod(number.c_str(), &stop);
    require(!number.empty() && *stop == 0 && part.share > 0 && std::isfinite(part.share),
            "mixture part \"{}\": NAME=SHARE with a share above 0 is accepted", text);
  }
  if (has_json) part.parameters = nlohmann::json::parse(text.substr(colon + 1), nullptr, false);
  require(part.parameters.is_object(), "mixture part \"{}\": what stands behind the colon is no JSON object", text);
  return part;
}

LmData::LmData(std::shared_ptr<const tasks::Corpus> corpus, LmDataOptions options) : corpus_(std::move(corpus)), options_(std::move(options)) {
  if (options_.mixture.empty()) options_.mixture = {{"text"}};
  double total = 0;
  for (const auto& part : options_.mixture) total += part.share;
  for (const auto& part : options_.mixture) {
    Part own{part.share / total, nullptr};
    if (part.name == "text") {
      require(corpus_ != nullptr, "the mixture has text: give files or folders with --text");
    } else {
      auto parameters = part.parameters;
      for (const auto& row : tasks::task_rows())
        for (const auto& parameter : row.parameters)
          if (row.name == part.name && parameter.name == "max_tokens" && !parameters.contains("max_tokens")) parameters["max_tokens"] = options_.context;
      own.task = tasks::make_text_task(part.name, parameters);
    }
    parts_.push_back(std::move(own));
  }
}

void LmData::fill(const Part& part, uint64_t index, int64_t* tokens, float* weights) const {
  const int64_t length = options_.context + 1;
  if (!part.task) {
    const auto window = corpus_->window(Split::train, index, length, options_.seed);
    for (int64_t i = 0; i < length; ++i) tokens[i] = static_cast<unsigned char>(window[i]);
    std::fill(weights, weights + length - 1, 1.0f);
    return;
  }
  // Whole samples one behind the other, the last one cut: a separator begins each.
  int64_t at = 0;
  constexpr int kSampleBits = 20;  // samples a sequence has room for
  for (uint64_t n = 0; at < length; ++n) {
    const auto sample = part.task->sample(Split::train, (index << kSampleBits) + n);
    tokens[at] = formats::ByteTokenizer::kSeparator;
    if (at > 0) weights[at - 1] = 0;
    ++at;
    const auto text = sample.text();
    const int64_t count = std::min<int64_t>(int64_t(text.size()), length - at);
    for (int64_t i = 0; i < count; ++i) {
      tokens[at + i] = static_cast<unsigned char>(text[i]);
      weights[at + i - 1] = float(options_.filler_weight);
    }
    for (const auto& span : sample.scored)
      for (int64_t i = span.begin; i < std::min(span.end, count); ++i) weights[at + i - 1] = float(options_.answer_weight);
    at += count;
  }
}

LmBatch LmData::batch(int64_t step) const {
  LmBatch batch{torch::empty({options_.batch, options_.context + 1}, torch::kInt64), torch::empty({options_.batch, options_.context})};
  const auto key = tasks::stream_key("mixture", Split::train, options_.seed);
  for (int64_t b = 0; b < options_.batch; ++b) {
    const uint64_t index = uint64_t(step) * uint64_t(options_.batch) + uint64_t(b);
    double u = tasks::Random(key, index).uniform();
    const Part* part = &parts_.back();
    for (const auto& candidate : parts_) {
      if (u < candidate.share) {
        part = &candidate;
        break;
      }
      u -= candidate.share;
    }
    fill(*part, index, batch.tokens.data_ptr<int64_t>() + b * (options_.context + 1), batch.weights.data_ptr<float>() + b * options_.context);
  }
  return batch;
}

double bits_per_byte(DecoderLm& model, const tasks::Corpus& corpus, Split split, int64_t context, int64_t most_windows) {
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

double greedy_score(DecoderLm& model, const tasks::TextTask& task, Split split, int64_t samples) {
  torch::NoGradGuard no_grad;
  model->eval();
  double score = 0;
  Progress progress(task.name(), samples);
  for (int64_t i = 0; i < samples; ++i) {
    const auto sample = task.sample(split, uint64_t(i));
    auto ids = formats::ByteTokenizer::encode(sample.prompt);
    ids.insert(ids.begin(), formats::ByteTokenizer::kSeparator);
    auto state = model->make_state(1);
    auto next = torch::tensor(ids, torch::kInt64).unsqueeze(0);
    std::string output;
    for (int64_t n = 0; n < task.answer_bytes(); ++n) {
      const auto hidden = model->hidden(next, &state);
      next = model->logits(hidden.slice(1, hidden.size(1) - 1)).argmax(-1);
      output += char(next.item<int64_t>());
    }
    score += task.score(sample, output);
    progress.update(i + 1);
  }
  return score / double(samples);
}

}  // namespace heed::train
