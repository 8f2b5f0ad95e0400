#include "tasks/icl_regression.h"

#include <cmath>
#include <limits>

#include "heed/nn/config.h"

namespace heed::tasks {

std::vector<Parameter> IclRegressionTask::parameters() {
  return {{"dim", 5, "d, channels of x"},
          {"points", 20, "pairs of a sample"},
          {"noise", 0.0, "deviation of what is added to y"},
          {"last_only", false, "ask for the last y alone"},
          {"seed", 0, "another family of samples"}};
}

IclRegressionTask::IclRegressionTask(const nlohmann::json& parameters) : LearnedTask("icl_regression") {
  ConfigReader reader(name_, parameters);
  dim_ = reader.integer("dim", 5, 1, 1024);
  points_ = reader.integer("points", 20, 1, 1 << 20);
  noise_ = reader.get<double>("noise", 0);
  require(std::isfinite(noise_) && noise_ >= 0, "{}: noise = {}: 0 or more is accepted", name_, noise_);
  last_ = reader.get("last_only", false);
  finish(reader);
}

Face IclRegressionTask::face() const {
  Face face;
  face.input = Face::Input::vectors;
  face.answer = Face::Answer::values;
  face.metric = Metric::squared_error;
  face.channels = dim_ + 1;
  face.outputs = 1;
  face.unit = std::sqrt(static_cast<double>(dim_));
  face.length = 2 * points_ - 1;
  return face;
}

double IclRegressionTask::chance() const { return 1 + noise_ * noise_ / static_cast<double>(dim_); }

std::optional<double> IclRegressionTask::ideal() const {
  if (noise_ > 0) return {};
  double sum = 0;
  for (int64_t k = last_ ? points_ - 1 : 0; k < points_; ++k)
    sum += std::max(0.0, 1 - static_cast<double>(k) / static_cast<double>(dim_));
  return sum / static_cast<double>(last_ ? 1 : points_);
}

Example IclRegressionTask::example(Split split, uint64_t index) const {
  constexpr float kUnasked = std::numeric_limits<float>::quiet_NaN();
  auto random = random_of(split, index);
  std::vector<double> w(static_cast<size_t>(dim_));
  for (auto& value : w) value = random.normal();
  Example example;
  for (int64_t i = 0; i < points_; ++i) {
    double y = 0;
    for (const double weight : w) {
      const double x = random.normal();
      example.values.push_back(static_cast<float>(x));
      y += weight * x;
    }
    example.values.push_back(0);
    if (noise_ > 0) y += noise_ * random.normal();
    const bool end = i + 1 == points_;
    example.targets.push_back(last_ && !end ? kUnasked : static_cast<float>(y));
    if (end) break;
    example.values.insert(example.values.end(), static_cast<size_t>(dim_), 0);
    example.values.push_back(static_cast<float>(y));
    example.targets.push_back(kUnasked);
  }
  return example;
}

}  // namespace heed::tasks
