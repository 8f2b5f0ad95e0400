#include "heed/models/memory_propagation.h"

#include "heed/error.h"
#include "heed/nn/grid.h"
#include "heed/ops/neighborhood.h"
#include "models/near_conv.h"

namespace heed {

using torch::Tensor;

namespace {

constexpr int64_t kStride = 4;  // pixels a side of a cell

ops::NeighborhoodOptions windows_of(const std::vector<int64_t>& grid, const std::vector<int64_t>& window) {
  ops::NeighborhoodOptions options;
  options.grid = grid, options.window = window;
  return options;
}

}  // namespace

LocalPropagationImpl::LocalPropagationImpl(int64_t key, int64_t channels, int64_t height, int64_t width, int64_t window)
    : grid_{height, width}, window_{std::min(window, height), std::min(window, width)} {
  require(window >= 1 && window % 2 == 1, "local attention to {} cells a side; an odd number is accepted", window);
  // Windows of neighborhood are moved inwards at borders: what they hold beyond half a window is hidden.
  const auto flat = ops::neighborhood_offsets(windows_of(grid_, window_));
  const int64_t across = 2 * window_[1] - 1, half = window / 2;
  const auto down = torch::floor_divide(flat, across) - (window_[0] - 1), right = flat % across - (window_[1] - 1);
  const int64_t rows = std::min(half, height - 1), columns = std::min(half, width - 1);
  beyond_ = (down.abs() > rows) | (right.abs() > columns);
  where_ = ((down + rows) * (2 * columns + 1) + right + columns).masked_fill(beyond_, 0);
  offsets = register_module("offsets", torch::nn::Linear(key, (2 * rows + 1) * (2 * columns + 1)));
  mix_ = register_module("mix", near_conv(channels, channels, 1, channels));
  out_ = register_module("out", torch::nn::Linear(channels, channels));
}

Tensor LocalPropagationImpl::attend(const Tensor& q, const Tensor& k, const Tensor& v) {
  const auto options = windows_of(grid_, window_);
  const auto head = [](const Tensor& t) { return t.unsqueeze(1).contiguous(); };
  const auto where = where_.unsqueeze(0).expand({q.size(0), -1, -1});
  auto logits = ops::neighborhood_qk(head(q), head(k), options) + offsets(q).gather(2, where).unsqueeze(1);
  logits = logits.masked_fill(beyond_, std::numeric_limits<float>::lowest());
  return ops::neighborhood_av(torch::softmax(logits, 3), head(v), options).squeeze(1);
}

Tensor LocalPropagationImpl::forward(const Tensor& q, const Tensor& k, const Tensor& v) {
  const auto image = nn::to_image(attend(q, k, v), grid_[0], grid_[1]).contiguous();
  return out_(nn::to_tokens(mix_(image)));
}

MemoryPropagationImpl::MemoryPropagationImpl(MemoryPropagationConfig config) : config_(config) {
  const auto& c = config_;
  require(c.height > 0 && c.width > 0 && c.height % kStride == 0 && c.width % kStride == 0,
          "a video of {} x {} pixels; multiples of {} are accepted", c.height, c.width, kStride);
  require(c.every >= 1, "every {} frames one is remembered; 1 or more are accepted", c.every);
  PropagationMemory{c.cells};  // what it refuses is refused here
  encoder_ = register_module("encoder", torch::nn::Sequential(near_conv(1, c.channels, 2), torch::nn::ReLU(),
                                                              near_conv(c.channels, c.channels, 2), torch::nn::ReLU(),
                                                              near_conv(c.channels, c.channels)));
  key_ = register_module("key", near_conv(c.channels, c.key));
  shrinkage_ = register_module("shrinkage", near_conv(c.channels, 1));
  selection_ = register_module("selection", near_conv(c.channels, c.key));
  value_ = register_module("value", near_conv(c.channels + 2 * kStride * kStride, c.channels));
  if (c.local)
    local_ =
        register_module("local", LocalPropagation(c.key, c.channels, c.height / kStride, c.width / kStride, c.window));
  if (c.recurrent) {
    gates_ = register_module("gates", near_conv(3 * c.channels, 2 * c.channels));
    candidate_ = register_module("candidate", near_conv(3 * c.channels, c.channels));
  }
  decoder_ = register_module("decoder", near_conv(3 * c.channels, 2 * kStride * kStride));
}

MemoryPropagationImpl::State MemoryPropagationImpl::start() const {
  return {PropagationMemory(config_.cells), {}, {}, {}, 0};
}

MemoryPropagationImpl::Looked MemoryPropagationImpl::look(const Tensor& lightness) {
  const auto& c = config_;
  require(
      lightness.dim() == 4 && lightness.size(1) == 1 && lightness.size(2) == c.height && lightness.size(3) == c.width,
      "lightness of a frame: [batch, 1, {}, {}] is accepted", c.height, c.width);
  const auto features = encoder_->forward(lightness);
  return {features, nn::to_tokens(key_(features)), nn::to_tokens(shrinkage_(features).square() + 1),
          nn::to_tokens(torch::sigmoid(selection_(features)))};
}

void MemoryPropagationImpl::remember(const Looked& looked, const Tensor& colours, State& state) {
  const auto cells = torch::pixel_unshuffle(colours, kStride);
  const auto value = nn::to_tokens(value_(torch::cat({looked.features, cells}, 1)));
  if (config_.memory) state.memory.add(looked.k, looked.s, value);
  state.last_k = looked.k, state.last_v = value;
}

void MemoryPropagationImpl::show(const Tensor& lightness, const Tensor& colours, State& state) {
  const auto looked = look(lightness);
  require(colours.sizes() == (std::vector<int64_t>{lightness.size(0), 2, config_.height, config_.width}),
          "colours of a frame: [{}, 2, {}, {}] is accepted", lightness.size(0), config_.height, config_.width);
  remember(looked, colours, state);
  state.hidden = torch::zeros_like(looked.features);
  if (!config_.memory && !config_.local)  // the recurrent state is all that knows the first frame
    state.hidden = nn::to_image(state.last_v, looked.features.size(2), looked.features.size(3)).contiguous();
  state.frames = 1;
}

Tensor MemoryPropagationImpl::step(const Tensor& lightness, State& state) {
  require(state.frames > 0, "a video begins with a frame whose colours are shown");
  const auto looked = look(lightness);
  const int64_t rows = looked.features.size(2), columns = looked.features.size(3);
  auto read = torch::zeros_like(state.last_v);
  if (config_.memory) read = read + state.memory.read(looked.k, looked.e);
  if (local_) read = read + local_(looked.k, state.last_k, state.last_v);
  const auto seen = torch::cat({looked.features, nn::to_image(read, rows, columns)}, 1);
  if (gates_) {
    const auto gates = torch::sigmoid(gates_(torch::cat({seen, state.hidden}, 1))).chunk(2, 1);
    const auto next = torch::tanh(candidate_(torch::cat({seen, gates[0] * state.hidden}, 1)));
    state.hidden = (1 - gates[1]) * state.hidden + gates[1] * next;
  }
  const auto colours = torch::tanh(torch::pixel_shuffle(decoder_(torch::cat({seen, state.hidden}, 1)), kStride));
  if (state.frames % config_.every == 0) remember(looked, colours, state);
  ++state.frames;
  return colours;
}

Tensor MemoryPropagationImpl::forward(const Tensor& lightness, const Tensor& first) {
  require(lightness.dim() == 5 && lightness.size(1) >= 2, "a video: [batch, 2 frames or more, 1, {}, {}] is accepted",
          config_.height, config_.width);
  auto state = start();
  show(lightness.select(1, 0), first, state);
  std::vector<Tensor> frames;
  for (int64_t t = 1; t < lightness.size(1); ++t) frames.push_back(step(lightness.select(1, t), state));
  return torch::stack(frames, 1);
}

}  // namespace heed
