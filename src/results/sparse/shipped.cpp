#include "results/sparse/shipped.h"

#include <fmt/format.h>

#include "heed/assets.h"
#include "heed/checkpoint/decoder_checkpoint.h"

namespace heed::results::sparse {

DecoderLm shipped_model() { return checkpoint::load_decoder(find_asset("tiny-lm")); }

DecoderLm with_mixer(DecoderLm& source, const LayerPlan& plan) {
  auto config = source->config();
  for (auto& layer : config.layers) layer = plan;
  DecoderLm model(config);
  take_weights(*model, *source);
  return model;
}

Lesson shipped_lesson(const std::string& task, const nlohmann::json& parameters, int64_t steps) {
  Lesson lesson;
  lesson.task = task, lesson.parameters = parameters;
  lesson.training.steps = steps, lesson.training.batch = 8, lesson.training.learning_rate = 5e-4;
  lesson.training.warmup = 5;
  lesson.seeds = 1, lesson.samples = 48;
  lesson.begins = "The language model that comes with heed, its mixer exchanged, learns on";
  lesson.make = [](const Learner& learner, uint64_t seed) {
    torch::manual_seed(int64_t(seed));
    auto source = shipped_model();
    const auto found = learner.settings.find(learner.mixer);
    return train::task_model_of(with_mixer(
        source, {learner.mixer, found == learner.settings.end() ? nlohmann::json::object() : found->second}));
  };
  return lesson;
}

Lesson needle_lesson(int64_t tokens, const std::vector<int64_t>& beyond, int64_t steps) {
  auto lesson = shipped_lesson("niah_single", {{"max_tokens", tokens}}, steps);
  for (const auto more : beyond) lesson.beyond.push_back({fmt::format("{} bytes", more), {{"max_tokens", more}}});
  return lesson;
}

}  // namespace heed::results::sparse
