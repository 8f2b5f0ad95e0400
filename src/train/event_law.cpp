#include "train/event_law.h"

#include <cmath>
#include <numbers>

namespace heed::train {
namespace {

constexpr int64_t kComponents = 8;
constexpr double kShortest = 1e-8;  // of a time, before its logarithm
constexpr double kWidestScale = 5;  // |log sigma|

}  // namespace

using torch::Tensor;

int64_t event_law_width(int64_t marks) { return marks + 3 * kComponents; }

Tensor mark_scores(const Tensor& parameters) {
  return parameters.narrow(1, 3 * kComponents, parameters.size(1) - 3 * kComponents);
}

EventLikelihood event_likelihood(const Tensor& parameters, const Tensor& times, const Tensor& marks) {
  const auto part = [&](int64_t i) { return parameters.narrow(1, i * kComponents, kComponents); };
  const auto log_time = times.clamp_min(kShortest).log().unsqueeze(1);
  const auto log_sigma = part(2).clamp(-kWidestScale, kWidestScale);
  const auto z = (log_time - part(1)) * torch::exp(-log_sigma);
  const auto components =
      torch::log_softmax(part(0), 1) - 0.5 * z.square() - log_sigma - 0.5 * std::log(2 * std::numbers::pi);
  return {torch::logsumexp(components, 1) - log_time.squeeze(1),
          torch::log_softmax(mark_scores(parameters), 1).gather(1, marks.unsqueeze(1)).squeeze(1)};
}

}  // namespace heed::train
