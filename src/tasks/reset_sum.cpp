#include "tasks/reset_sum.h"

#include "tasks/baselines.h"

namespace heed::tasks {

std::vector<Parameter> ResetSumTask::parameters() {
  return {{"length", 64, "tokens of a sample"},
          {"digits", 4, "numbers are 0 to digits - 1"},
          {"resets", 0.1, "chance of a reset at a place behind the first"},
          {"seed", 0, "another family of samples"}};
}

ResetSumTask::ResetSumTask(const nlohmann::json& parameters) : LearnedTask("reset_sum") {
  ConfigReader reader(name_, parameters);
  length_ = reader.integer("length", 64, 2, 1 << 20);
  digits_ = reader.integer("digits", 4, 2, 1 << 10);
  resets_ = reader.get<double>("resets", 0.1);
  require(resets_ >= 0 && resets_ < 1, "{}: resets = {}: 0 up to 1 is accepted", name_, resets_);
  finish(reader);
}

Face ResetSumTask::face() const {
  Face face;
  face.answer = Face::Answer::values;
  face.metric = Metric::squared_error;
  face.vocabulary = digits_ + 1;
  face.outputs = 1;
  face.unit = static_cast<double>(digits_ - 1);
  face.length = length_;
  return face;
}

Example ResetSumTask::example(Split split, uint64_t index) const {
  auto random = random_of(split, index);
  Example example;
  int64_t sum = 0;
  for (int64_t i = 0; i < length_; ++i) {
    const bool reset = i == 0 || random.uniform() < resets_;
    const int64_t token = reset ? digits_ : random.between(0, digits_ - 1);
    sum = reset ? 0 : sum + token;
    example.tokens.push_back(token);
    example.targets.push_back(static_cast<float>(sum));
  }
  return example;
}

double ResetSumTask::chance() const { return mean_error(*this, Split::valid, 1000); }

}  // namespace heed::tasks
