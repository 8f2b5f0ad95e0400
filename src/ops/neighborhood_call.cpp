#include "ops/neighborhood_call.h"

#include "heed/error.h"

namespace heed::ops {
namespace {

using torch::Tensor;

AttentionOptions terms_of(const NeighborhoodOptions& options) {
  AttentionOptions o;
  o.scale = options.scale;
  o.softcap = options.softcap;
  o.sink_logit = options.sink_logit;
  return o;
}

/// A value an axis, of a list of one or of as many as there are axes.
template <class T>
T on_axis(const std::vector<T>& values, size_t axis, size_t axes, const char* name) {
  require(values.size() == 1 || values.size() == axes,
          "neighborhood: {} values of {} for a grid of {} axes: 1 or {} are accepted", values.size(), name, axes, axes);
  return values.size() == 1 ? values[0] : values[axis];
}

}  // namespace

kernels::Neighborhood neighborhood_of(const NeighborhoodOptions& options) {
  const size_t axes = options.grid.size();
  require(axes >= 1 && axes <= 3, "neighborhood: a grid of {} axes: 1, 2 or 3 are accepted", axes);
  kernels::Neighborhood around;
  around.rank = static_cast<int>(axes);
  for (size_t a = 0; a < axes; ++a)
    around.axes[a] = {options.grid[a], on_axis(options.window, a, axes, "window"),
                      on_axis(options.stride, a, axes, "stride"), on_axis(options.dilation, a, axes, "dilation"),
                      on_axis(options.causal, a, axes, "causal")};
  kernels::check(around);
  return around;
}

NeighborhoodOptions neighborhood_options(at::IntArrayRef grid, at::IntArrayRef window, at::IntArrayRef stride,
                                         at::IntArrayRef dilation, at::IntArrayRef causal) {
  NeighborhoodOptions o;
  o.grid = grid.vec(), o.window = window.vec(), o.stride = stride.vec(), o.dilation = dilation.vec();
  o.causal.clear();
  for (const int64_t flag : causal) o.causal.push_back(flag != 0);
  return o;
}

NeighborhoodCall::NeighborhoodCall(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const NeighborhoodOptions& options)
    : flash(q, k, v, terms_of(options)), around(neighborhood_of(options)) {
  const int64_t tokens = around.tokens();
  require(
      q.size(2) == tokens && k.size(2) >= tokens,
      "neighborhood: {} queries and {} keys for a grid of {} cells: {} queries and as many keys or more are accepted",
      q.size(2), k.size(2), tokens, tokens);
  if (!options.key_padding || !options.key_padding->defined()) return;
  const auto& padding = *options.key_padding;
  require(padding.dim() == 2 && padding.size(0) == k.size(0) && padding.size(1) == k.size(2),
          "neighborhood: key_padding does not fit: bool [{}, {}] is accepted", k.size(0), k.size(2));
  hidden = padding.to(torch::kBool).to(torch::kUInt8).contiguous();
}

kernels::NeighborhoodParams NeighborhoodCall::params() const {
  kernels::BlockList none;
  return {flash.params(none), around, hidden.defined() ? hidden.data_ptr<uint8_t>() : nullptr};
}

void NeighborhoodCall::forward() {
  flash.allocate_outputs();
  if (!flash.q.is_meta()) kernels::neighborhood_forward(params());
}

}  // namespace heed::ops
