#include "mixers/exact/neighborhood_mixer.h"

#include "heed/error.h"
#include "heed/nn/sizes.h"

namespace heed {

using torch::Tensor;

NeighborhoodConfig NeighborhoodConfig::read(ConfigReader& reader, AttentionConfig& attention) {
  NeighborhoodConfig c;
  c.window = nn::read_sizes(reader, "window", c.window);
  c.stride = nn::read_sizes(reader, "stride", c.stride);
  c.dilation = nn::read_sizes(reader, "dilation", c.dilation);
  for (const auto& [sizes, name] : {std::pair{&c.window, "window"}, {&c.stride, "stride"}, {&c.dilation, "dilation"}}) {
    require(!sizes->empty() && sizes->size() <= 3, "{}: {} values of {}: 1 to 3 are accepted", reader.owner(),
            sizes->size(), name);
    for (const int64_t size : *sizes)
      require(size >= 1, "{}: {} = {}: 1 or more is accepted", reader.owner(), name, size);
  }
  for (size_t a = 0; a < std::max(c.window.size(), c.stride.size()); ++a) {
    const auto window = c.window[c.window.size() == 1 ? 0 : std::min(a, c.window.size() - 1)],
               stride = c.stride[c.stride.size() == 1 ? 0 : std::min(a, c.stride.size() - 1)];
    require(stride <= window, "{}: stride {} beyond the window of {}: 1 to {} is accepted", reader.owner(), stride,
            window, window);
  }
  c.causal = nn::read_flags(reader, "causal_axes", {reader.get("causal", false)});
  attention.causal = std::all_of(c.causal.begin(), c.causal.end(), [](bool causal) { return causal; });
  require(attention.dropout == 0, "{}: dropout = {}: 0 is accepted", reader.owner(), attention.dropout);
  const auto& kind = attention.positions.kind;
  require(kind != "alibi" && kind != "t5", "{}: positions {}: none, rope, learned or sinusoidal is accepted",
          reader.owner(), kind);
  return c;
}

NeighborhoodMixer::NeighborhoodMixer(std::string name, const AttentionConfig& config, NeighborhoodConfig around)
    : AttentionMixer(std::move(name), config), around_(std::move(around)) {}

bool NeighborhoodMixer::is_line() const {
  const auto& c = around_;
  return c.causal == std::vector<bool>{true} && c.window.size() == 1 && c.dilation.size() == 1 &&
         c.stride == std::vector<int64_t>{1};
}

std::unique_ptr<MixerState> NeighborhoodMixer::make_state(int64_t batch) const {
  require(is_line(), "{} has no step: it needs the whole grid; one causal axis with stride 1 is accepted", name_);
  return AttentionMixer::make_state(batch);
}

Tensor NeighborhoodMixer::attend_line(const CoreInput& in) {
  const int64_t n = in.q.size(2), m = in.k.size(2), dilation = around_.dilation[0];
  auto options = options_for(in);
  options.mask = Causal{} & Window{(around_.window[0] - 1) * dilation, 0};
  if (dilation > 1) options.mask = options.mask & Dilation{dilation};
  const auto cells_before = (torch::arange(m - n, m).unsqueeze(1) - torch::arange(m)).div(dilation, "floor");
  if (const auto bias = line_bias(cells_before.clamp(0, around_.window[0] - 1)); bias.defined()) options.bias = bias;
  return nn::attention(in.q, in.k, in.v, options, in.report);
}

void NeighborhoodMixer::evict(KvState& state) const {
  state.erase(0, state.kv.length() - (around_.window[0] - 1) * around_.dilation[0]);
}

ops::NeighborhoodOptions NeighborhoodMixer::options_of(const std::vector<int64_t>& grid) const {
  ops::NeighborhoodOptions o;
  o.grid = grid;
  o.scale = config_.scale;
  o.softcap = config_.softcap;
  const size_t axes = grid.size();
  const auto on_axis = [&](const auto& values, size_t a, const char* what) {
    require(values.size() == 1 || values.size() == axes, "{}: {} values of {} for a grid of {} axes", name_,
            values.size(), what, axes);
    return values[values.size() == 1 ? 0 : a];
  };
  o.window.clear(), o.stride.clear(), o.dilation.clear(), o.causal.clear();
  for (size_t a = 0; a < axes; ++a) {
    const int64_t dilation = std::min(on_axis(around_.dilation, a, "dilation"), grid[a]),
                  window = std::min(on_axis(around_.window, a, "window"), grid[a] / dilation);
    o.dilation.push_back(dilation), o.window.push_back(window);
    o.stride.push_back(std::min(on_axis(around_.stride, a, "stride"), window));
    o.causal.push_back(on_axis(around_.causal, a, "causal_axes"));
  }
  return o;
}

Tensor NeighborhoodMixer::mix(const CoreInput& in) {
  require(!in.cu_seqlens, "{}: cu_seqlens are not accepted: the tokens are one grid", name_);
  if (!in.grid && is_line()) return attend_line(in);
  require(in.grid.has_value(), "{}: a grid is missing: cells an axis, whose product is the number of tokens", name_);
  int64_t cells = 1;
  for (const int64_t size : in.grid->sizes) {
    require(size >= 1, "{}: a grid with an axis of {} cells: 1 or more are accepted", name_, size);
    cells *= size;
  }
  require(in.q.size(2) == cells && in.k.size(2) == cells,
          "{}: {} queries and {} keys for a grid of {} cells: one token a cell is accepted", name_, in.q.size(2),
          in.k.size(2), cells);
  // No window is cut to what a short line has of its dilated cells, so that steps give what the whole line gives.
  if (is_line() && in.grid->sizes.size() == 1 && around_.window[0] * around_.dilation[0] > cells)
    return attend_line(in);
  auto options = options_of(in.grid->sizes);
  options.key_padding = in.key_padding;
  return attend(in, options);
}

std::vector<Parameter> neighborhood_parameters(std::vector<Parameter> own) {
  std::vector<Parameter> all{
      {"window", 7, "visible cells an axis: a number for all axes, a list, or text like 7x7; at most what an axis has"},
      {"stride", 1, "neighbours that share a window, an axis"},
      {"dilation", 1, "steps between visible cells, an axis"},
      {"causal_axes", nullptr, "a list: no later cell along an axis; default: causal, for all"}};
  all.insert(all.end(), own.begin(), own.end());
  return rows::attention_parameters(std::move(all));
}

}  // namespace heed
