// Neighbourhoods with their weights written out, and their gradients: each is one of the three sums of a band.
#include <torch/library.h>

#include "heed/error.h"
#include "heed/kernels/neighborhood_band.h"
#include "ops/neighborhood_call.h"
#include "ops/once_differentiable.h"

namespace heed::ops {
namespace {

using kernels::Neighborhood;
using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// As the kernels take it: float32 or float64, the last dimension dense.
Tensor plain(const Tensor& tensor, const char* name) {
  require(tensor.defined() && tensor.dim() == 4,
          "neighborhood: {}: four dimensions, [batch, heads, tokens, ...], are accepted", name);
  require(torch::isFloatingType(tensor.scalar_type()), "neighborhood: {} of type {}: a floating type is accepted", name,
          toString(tensor.scalar_type()));
  const auto wide = tensor.to(tensor.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32);
  return wide.size(3) > 1 && wide.stride(3) != 1 ? wide.contiguous() : wide;
}

struct Axes : torch::CustomClassHolder {
  explicit Axes(const Neighborhood& around) : around(around) {}
  Neighborhood around;
};

const Neighborhood& kept(AutogradContext* ctx) {
  return static_cast<Axes&>(*ctx->saved_data["axes"].toCapsule()).around;
}

Tensor scores(const Neighborhood& around, const Tensor& rows, const Tensor& keys, double scale, double absent) {
  const auto band = torch::empty({rows.size(0), rows.size(1), rows.size(2), around.window_keys()}, rows.options());
  if (!rows.is_meta()) kernels::band_scores(around, view_of(rows), view_of(keys), scale, absent, view_of(band));
  return band;
}

Tensor sums(const Neighborhood& around, const Tensor& band, const Tensor& keys) {
  const auto out = torch::empty({band.size(0), band.size(1), band.size(2), keys.size(3)}, keys.options());
  if (!keys.is_meta()) kernels::band_sums(around, view_of(band), view_of(keys), view_of(out));
  return out;
}

Tensor sums_of_seeing(const Neighborhood& around, const Tensor& band, const Tensor& rows, int64_t key_heads) {
  const auto out = torch::empty({rows.size(0), key_heads, rows.size(2), rows.size(3)}, rows.options());
  if (!rows.is_meta()) kernels::band_sums_of_seeing(around, view_of(band), view_of(rows), view_of(out));
  return out;
}

/// band = scale <rows, keys>. Inputs are plain.
struct ScoresFunction : torch::autograd::Function<ScoresFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& rows, const Tensor& keys, const Neighborhood& around,
                        double scale) {
    ctx->save_for_backward({rows, keys});
    ctx->saved_data["axes"] = c10::IValue::make_capsule(c10::make_intrusive<Axes>(around));
    ctx->saved_data["scale"] = scale;
    return scores(around, rows, keys, scale, -std::numeric_limits<double>::infinity());
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto d_band = plain(grads[0], "grad");
    const double scale = ctx->saved_data["scale"].toDouble();
    return once_differentiable({sums(kept(ctx), d_band, saved[1]) * scale,
                                sums_of_seeing(kept(ctx), d_band, saved[0], saved[1].size(1)) * scale,
                                {},
                                {}},
                               "neighborhood_qk");
  }
};

/// out = band keys. Inputs are plain.
struct SumsFunction : torch::autograd::Function<SumsFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& band, const Tensor& keys, const Neighborhood& around) {
    ctx->save_for_backward({band, keys});
    ctx->saved_data["axes"] = c10::IValue::make_capsule(c10::make_intrusive<Axes>(around));
    return sums(around, band, keys);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto d_out = plain(grads[0], "grad");
    return once_differentiable(
        {scores(kept(ctx), d_out, saved[1], 1, 0), sums_of_seeing(kept(ctx), saved[0], d_out, saved[1].size(1)), {}},
        "neighborhood_av");
  }
};

Tensor qk_op(const Tensor& q, const Tensor& k, at::IntArrayRef grid, at::IntArrayRef window, at::IntArrayRef stride,
             at::IntArrayRef dilation, at::IntArrayRef causal, double scale) {
  auto options = neighborhood_options(grid, window, stride, dilation, causal);
  options.scale = scale;
  return neighborhood_qk(q, k, options);
}

Tensor av_op(const Tensor& weights, const Tensor& v, at::IntArrayRef grid, at::IntArrayRef window,
             at::IntArrayRef stride, at::IntArrayRef dilation, at::IntArrayRef causal) {
  return neighborhood_av(weights, v, neighborhood_options(grid, window, stride, dilation, causal));
}

/// Tensors of a band's call have the batch, heads and cells that its kernels expect; the kernels say what else.
void require_cells(const Tensor& tensor, const Neighborhood& around, const char* name) {
  require(tensor.size(2) == around.tokens(),
          "neighborhood: {} tokens of {} for a grid of {}: equal numbers are accepted", tensor.size(2), name,
          around.tokens());
}

}  // namespace

Tensor neighborhood_qk(const Tensor& q, const Tensor& k, const NeighborhoodOptions& options) {
  const auto around = neighborhood_of(options);
  const auto rows = plain(q, "q"), keys = plain(k, "k");
  require_cells(rows, around, "q"), require_cells(keys, around, "k");
  const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(q.size(3)));
  return ScoresFunction::apply(rows, keys, around, scale);
}

Tensor neighborhood_av(const Tensor& weights, const Tensor& v, const NeighborhoodOptions& options) {
  const auto around = neighborhood_of(options);
  const auto band = plain(weights, "weights"), keys = plain(v, "v").to(band.scalar_type());
  require_cells(band, around, "weights"), require_cells(keys, around, "v");
  return SumsFunction::apply(band, keys, around).to(v.scalar_type());
}

Tensor neighborhood_offsets(const NeighborhoodOptions& options, const std::vector<int64_t>& widest) {
  const auto around = neighborhood_of(options);
  require(widest.empty() || widest.size() == size_t(around.rank),
          "neighborhood: {} widest windows for {} axes: as many, or none, are accepted", widest.size(), around.rank);
  auto offsets = torch::zeros({1, 1}, torch::kInt64);
  for (int a = 0; a < around.rank; ++a) {
    const auto& axis = around.axes[a];
    const int64_t most = widest.empty() ? axis.window : widest[a];
    require(most >= axis.window, "neighborhood: widest window {} below {}", most, axis.window);
    const auto along = torch::zeros({axis.length, axis.window}, torch::kInt64);
    auto at = along.accessor<int64_t, 2>();
    for (int64_t i = 0; i < axis.length; ++i) {
      const auto window = kernels::window_at(axis, axis.group_length(i), i / axis.dilation);
      for (int64_t c = window.begin; c < window.end; ++c) at[i][c - window.begin] = c - i / axis.dilation + most - 1;
    }
    offsets = (offsets.unsqueeze(1).unsqueeze(3) * (2 * most - 1) + along.unsqueeze(0).unsqueeze(2))
                  .flatten(0, 1)
                  .flatten(1, 2);
  }
  return offsets;
}

}  // namespace heed::ops

TORCH_LIBRARY_FRAGMENT(heed, library) {
  library.def(
      "neighborhood_qk(Tensor q, Tensor k, int[] grid, int[] window, int[] stride=[1], int[] dilation=[1], int[] "
      "causal=[0], float scale=0.) -> Tensor");
  library.def(
      "neighborhood_av(Tensor weights, Tensor v, int[] grid, int[] window, int[] stride=[1], int[] dilation=[1], int[] "
      "causal=[0]) -> Tensor");
}
#define HEED_NEIGHBORHOOD_BAND(key)                     \
  TORCH_LIBRARY_IMPL(heed, key, library) {              \
    library.impl("neighborhood_qk", &heed::ops::qk_op); \
    library.impl("neighborhood_av", &heed::ops::av_op); \
  }
HEED_NEIGHBORHOOD_BAND(Autograd)
HEED_NEIGHBORHOOD_BAND(CPU)
HEED_NEIGHBORHOOD_BAND(Meta)
