#include "heed/models/lamamba_denoiser.h"

#include "heed/error.h"
#include "heed/models/transformer.h"
#include "heed/nn/generator.h"
#include "heed/nn/grid.h"
#include "heed/nn/positions.h"
#include "heed/nn/start.h"

namespace heed {

using torch::Tensor;

namespace {

constexpr int64_t kTimeChannels = 256;

/// Sines and cosines of rows in one half of the channels and of columns in the other, [1, height width, dim].
Tensor grid_table(int64_t height, int64_t width, int64_t dim) {
  const auto rows = nn::sinusoidal(torch::arange(height), dim - dim / 2).repeat_interleave(width, 0),
             columns = nn::sinusoidal(torch::arange(width), dim / 2).repeat({height, 1});
  return torch::cat({rows, columns}, 1).unsqueeze(0).to(torch::kFloat32);
}

}  // namespace

LaMambaDenoiserImpl::LaMambaDenoiserImpl(LaMambaDenoiserConfig config) : config_(std::move(config)) {
  const auto& c = config_;
  require(c.height >= 1 && c.width >= 1 && c.channels >= 1 && c.depth >= 1 && c.classes >= 1,
          "lamamba_denoiser: images of {} x {} x {}, depth = {}, classes = {}: 1 or more is accepted", c.channels,
          c.height, c.width, c.depth, c.classes);
  require(c.dim >= 4 && c.dim % 4 == 0, "lamamba_denoiser: dim = {}: a multiple of 4 is accepted", c.dim);
  require(c.class_dropout >= 0 && c.class_dropout <= 1, "lamamba_denoiser: class_dropout = {}: 0 to 1 is accepted",
          c.class_dropout);
  torch::NoGradGuard no_grad;
  const auto linear = [&](const std::string& name, int64_t in, int64_t out) {
    return register_module(name, torch::nn::Linear(in, out));
  };
  embedding_ = linear("embedding", c.channels, c.dim);
  positions_ = register_parameter("positions", grid_table(c.height, c.width, c.dim));
  time_in_ = linear("time_in", kTimeChannels, c.dim);
  time_out_ = linear("time_out", c.dim, c.dim);
  class_embedding_ = register_module("class_embedding", torch::nn::Embedding(c.classes + 1, c.dim));
  class_embedding_->weight.normal_(0, nn::start_deviation(c.dim));
  body_ = register_module("body", UNet(Grid{{c.height, c.width}}, c.dim, c.scales));
  for (int64_t s = 1; s < c.scales; ++s) {
    widen_.push_back(register_module("widen_" + std::to_string(s),
                                     torch::nn::Linear(torch::nn::LinearOptions(c.dim, c.dim * (s + 1)).bias(false))));
  }
  for (size_t stop = 0; stop < body_->stops(); ++stop) {
    const auto times = static_cast<int64_t>(body_->scale_of(stop)) + 1;
    auto own = c.block;
    own.update({{"dim", c.dim * times}, {"heads", c.heads * times}});
    auto& blocks = blocks_.emplace_back();
    for (int64_t i = 0; i < c.depth + (body_->is_up(stop) ? 1 : 0); ++i)
      blocks.push_back(register_module(fmt::format("stop_{}_{}", stop, i), make_mixer("lamamba", own)));
  }
  modulation_ = linear("modulation", c.dim, 2 * c.dim);
  head_ = linear("head", c.dim, c.channels * (c.learned_variance ? 2 : 1));
  for (auto* last : {&modulation_, &head_}) (*last)->weight.zero_(), (*last)->bias.zero_();
}

Tensor LaMambaDenoiserImpl::conditions(const Tensor& times, Tensor labels, uint64_t seed) {
  const auto waves = nn::sinusoidal(times, kTimeChannels).to(positions_.scalar_type());
  if (is_training() && config_.class_dropout > 0) {
    auto generator = nn::seeded_generator(seed);
    const auto hidden = torch::rand(labels.sizes(), generator, torch::kFloat64) < config_.class_dropout;
    labels = labels.masked_fill(hidden, config_.classes);
  }
  return torch::stack({time_out_(torch::silu(time_in_(waves))), class_embedding_(labels)}, 1);
}

Tensor LaMambaDenoiserImpl::forward(const Tensor& images, const Tensor& times, const Tensor& labels, uint64_t seed) {
  const auto& c = config_;
  require(images.dim() == 4 && images.size(1) == c.channels && images.size(2) == c.height && images.size(3) == c.width,
          "lamamba_denoiser: images of shape {}: [batch, {}, {}, {}] is accepted", c10::str(images.sizes()), c.channels,
          c.height, c.width);
  const int64_t batch = images.size(0);
  require(times.dim() == 1 && times.size(0) == batch, "lamamba_denoiser: times of shape {}: [{}] is accepted",
          c10::str(times.sizes()), batch);
  require(labels.dim() == 1 && labels.size(0) == batch, "lamamba_denoiser: labels of shape {}: [{}] is accepted",
          c10::str(labels.sizes()), batch);
  check_ids(labels.unsqueeze(1), c.classes + 1, "lamamba_denoiser labels");
  const auto told = conditions(times, labels, seed);
  MixerInput input;
  input.seed = seed;
  auto x = embedding_(nn::to_tokens(images)) + positions_;
  x = body_(x, [&](size_t stop, const Tensor& cells) {
    const size_t scale = body_->scale_of(stop);
    input.grid = body_->grid(stop);
    input.memory = scale == 0 ? told : widen_[scale - 1](told);
    input.x = cells;
    input.layer.count = static_cast<int64_t>(blocks_[stop].size());
    // Windows are shifted in every second block of a stop.
    for (size_t i = 0; i < blocks_[stop].size(); ++i) {
      input.layer.index = static_cast<int64_t>(i);
      input.x = blocks_[stop][i]->forward(input);
    }
    return input.x;
  });
  const auto m = modulation_(torch::silu(told.sum(1, true))).chunk(2, 2);
  const auto out = head_(torch::layer_norm(x, {c.dim}, {}, {}, 1e-6) * (1 + m[1]) + m[0]);
  return nn::to_image(out, c.height, c.width);
}

}  // namespace heed
