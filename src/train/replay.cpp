#include "heed/train/replay.h"

#include "heed/error.h"
#include "heed/nn/generator.h"

namespace heed::train {
namespace {

using torch::Tensor;

Tensor draw(const Tensor& weights, int64_t count, uint64_t seed) {
  auto generator = nn::seeded_generator(seed);
  return weights.multinomial(count, true, generator);
}

}  // namespace

Replay::Replay(int64_t observation, int64_t capacity) : capacity_(capacity) {
  require(observation >= 1 && capacity >= 1, "replay of {} steps of {} numbers: 1 or more of both are accepted",
          capacity, observation);
  all_ = {torch::zeros({capacity, observation}), torch::zeros({capacity}, torch::kInt64), torch::zeros({capacity}),
          torch::zeros({capacity}, torch::kBool), torch::zeros({capacity}, torch::kBool)};
  episode_ = torch::zeros({capacity}, torch::kInt64);
  trained_ = torch::zeros({capacity}, torch::kFloat64);
  imagined_ = torch::zeros({capacity}, torch::kFloat64);
}

void Replay::add(const std::vector<float>& observation, int64_t action, float reward, bool start, bool end) {
  require(size_ < capacity_, "replay: {} steps are all it holds", capacity_);
  require(int64_t(observation.size()) == all_.observations.size(1), "replay: an observation of {} numbers: {} accepted",
          observation.size(), all_.observations.size(1));
  std::copy(observation.begin(), observation.end(), all_.observations[size_].data_ptr<float>());
  all_.actions[size_] = action;
  all_.rewards[size_] = reward;
  all_.starts[size_] = start;
  all_.ends[size_] = end;
  episode_[size_] = size_ == 0 ? 0 : episode_[size_ - 1].item<int64_t>() + start;
  ++size_;
}

WorldBatch Replay::gather(const Tensor& rows) const {
  return {all_.observations.index({rows}), all_.actions.index({rows}), all_.rewards.index({rows}),
          all_.ends.index({rows}), all_.starts.index({rows})};
}

WorldBatch Replay::windows(int64_t batch, int64_t length, uint64_t seed) {
  require(length >= 1 && length <= size_, "replay: windows of {} steps: 1 to {} are accepted", length, size_);
  const auto first = draw(model_weights(trained_.narrow(0, 0, size_ - length + 1)), batch, seed);
  const auto rows = first.unsqueeze(1) + torch::arange(length);
  trained_.index_put_({rows.flatten()}, torch::ones({batch * length}, torch::kFloat64), true);
  return gather(rows);
}

Replay::Contexts Replay::contexts(int64_t batch, int64_t length, double ratio, uint64_t seed) {
  require(size_ >= 1 && length >= 1, "replay: contexts of {} of {} steps: 1 or more of 1 or more are accepted", length,
          size_);
  const auto last = draw(imagination_weights(trained_.narrow(0, 0, size_), imagined_.narrow(0, 0, size_)), batch, seed);
  imagined_.index_put_({last}, torch::full({batch}, 1 / ratio, torch::kFloat64), true);
  const auto rows = last.unsqueeze(1) + torch::arange(1 - length, 1), inside = rows.clamp_min(0);
  const auto padding = (rows < 0) | (episode_.index({inside}) != episode_.index({last}).unsqueeze(1));
  return {gather(inside), padding};
}

Tensor Replay::model_weights(const Tensor& trained) { return torch::softmax(-trained / 10, 0); }

Tensor Replay::imagination_weights(const Tensor& trained, const Tensor& imagined) {
  return torch::softmax((trained - imagined).clamp_max(0) / 10, 0);
}

}  // namespace heed::train
