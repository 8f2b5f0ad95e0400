#include "tasks/algo.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "heed/nn/config.h"
#include "tasks/baselines.h"

namespace heed::tasks {
namespace {

constexpr double kRange = 2;  // of numbers at scale 1
const std::vector<std::string> kFunctions = {"sum", "min", "max", "median", "sort", "maxsub"};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

/// The answer at every position.
std::vector<double> answers(AlgoTask::Function function, const std::vector<double>& x) {
  using Function = AlgoTask::Function;
  auto result = x;
  if (function == Function::sort) {
    std::sort(result.begin(), result.end());
    return result;
  }
  double ending_here = x[0];
  for (size_t j = 1; j < x.size(); ++j) {
    ending_here = std::max(ending_here, 0.0) + x[j];
    const double before = result[j - 1];
    result[j] = function == Function::sum   ? before + x[j]
                : function == Function::min ? std::min(before, x[j])
                : function == Function::max ? std::max(before, x[j])
                : function == Function::median
                    ? median(std::vector<double>(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(j) + 1))
                    : std::max(before, ending_here);
  }
  return result;
}

}  // namespace

std::vector<Parameter> AlgoTask::parameters() {
  return {{"function", "sort", "sum, min, max, median, sort or maxsub"},
          {"numbers", 8, "numbers of a sample"},
          {"scale", 1.0, "numbers lie within 2 scale"},
          {"step", 0.0, "above 0: numbers are multiples of it"},
          {"seed", 0, "another family of samples"}};
}

AlgoTask::AlgoTask(const nlohmann::json& parameters) : LearnedTask("algo") {
  ConfigReader reader(name_, parameters);
  const auto function = reader.choice("function", "sort", kFunctions);
  function_ = static_cast<Function>(std::find(kFunctions.begin(), kFunctions.end(), function) - kFunctions.begin());
  numbers_ = reader.integer("numbers", 8, 1, 1 << 16);
  scale_ = reader.get<double>("scale", 1);
  require(std::isfinite(scale_) && scale_ > 0, "{}: scale = {}: above 0 is accepted", name_, scale_);
  step_ = reader.get<double>("step", 0);
  require(step_ >= 0 && step_ <= scale_, "{}: step = {}: 0 to scale is accepted", name_, step_);
  finish(reader);
}

Face AlgoTask::face() const {
  Face face;
  face.input = Face::Input::vectors;
  face.answer = Face::Answer::values;
  face.sight = function_ == Function::sort ? Face::Sight::all : Face::Sight::either;
  face.metric = Metric::squared_error;
  face.channels = face.outputs = 1;
  face.unit = scale_;
  face.length = numbers_ + 1;
  return face;
}

Example AlgoTask::example(Split split, uint64_t index) const {
  auto random = random_of(split, index);
  double low = 0, high = 0;
  do {
    low = scale_ * kRange * (2 * random.uniform() - 1);
    high = scale_ * kRange * (2 * random.uniform() - 1);
    if (low > high) std::swap(low, high);
  } while (scale_ > 1 && low > -kRange && high < kRange);
  std::vector<double> x(static_cast<size_t>(numbers_));
  for (auto& value : x) {
    value = low + (high - low) * random.uniform();
    if (step_ > 0) value = step_ * std::round(value / step_);
  }
  const auto y = answers(function_, x);
  Example example;
  example.values.assign(x.begin(), x.end());
  example.targets.assign(y.begin(), y.end());
  example.values.push_back(0);
  example.targets.push_back(std::numeric_limits<float>::quiet_NaN());
  return example;
}

double AlgoTask::chance() const { return mean_error(*this, Split::valid, 1000); }

}  // namespace heed::tasks
