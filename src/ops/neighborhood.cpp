// Autograd and dispatcher registration of fused neighbourhood attention.
#include "heed/ops/neighborhood.h"

#include <torch/library.h>

#include "ops/neighborhood_call.h"
#include "ops/once_differentiable.h"
#include "ops/optional_tensor.h"

namespace heed::ops {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct NeighborhoodFunction : torch::autograd::Function<NeighborhoodFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                               const OptionalTensor& sink, const std::shared_ptr<NeighborhoodOptions>& options) {
    NeighborhoodCall call(q, k, v, *options);
    call.forward();
    ctx->save_for_backward({q, k, v, sink.value_or(Tensor()), call.flash.out, call.flash.lse});
    auto kept = c10::make_intrusive<Kept>();
    kept->options = *options;
    kept->options.sink_logit = std::nullopt;  // it lives among the saved variables
    ctx->saved_data["options"] = c10::IValue::make_capsule(std::move(kept));
    return {call.flash.out, call.flash.lse};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    auto options = static_cast<Kept&>(*ctx->saved_data["options"].toCapsule()).options;
    if (saved[3].defined()) options.sink_logit = saved[3];
    NeighborhoodCall call(saved[0], saved[1], saved[2], options);
    call.flash.out = saved[4];
    call.flash.lse = saved[5];
    auto d_out = grads[0].defined() ? grads[0].to(call.flash.q.scalar_type()) : torch::zeros_like(saved[4]);
    if (d_out.size(3) > 1 && d_out.stride(3) != 1) d_out = d_out.contiguous();
    Tensor d_lse;
    if (grads[1].defined()) d_lse = grads[1].to(call.flash.side_dtype()).contiguous();

    kernels::FlashGrads g;
    g.d_out = view_of(d_out);
    if (d_lse.defined()) g.d_lse = view_of(d_lse);
    variable_list result(5);
    size_t edge = 0;  // an absent sink has no edge in the graph
    for (size_t i = 0; i < 4; ++i) {
      if (!saved[i].defined() || !ctx->needs_input_grad(edge++)) continue;
      const auto dtype = i == 3 ? call.flash.side_dtype() : call.flash.q.scalar_type();
      result[i] = torch::empty(saved[i].sizes(), saved[i].options().dtype(dtype));
      const auto view = view_of(i == 3 ? result[i].view({1, -1, 1, 1}) : result[i]);
      kernels::AnyView* const targets[] = {&g.d_q, &g.d_k, &g.d_v, &g.d_sink};
      *targets[i] = view;
    }
    if (!call.flash.q.is_meta()) kernels::neighborhood_backward(call.params(), g);
    if (result[3].defined()) result[3] = result[3].to(saved[3].scalar_type());
    return once_differentiable(std::move(result), "neighborhood");
  }

 private:
  struct Kept : torch::CustomClassHolder {
    NeighborhoodOptions options;
  };
};

std::tuple<Tensor, Tensor> neighborhood_op(const Tensor& q, const Tensor& k, const Tensor& v, at::IntArrayRef grid,
                                           at::IntArrayRef window, at::IntArrayRef stride, at::IntArrayRef dilation,
                                           at::IntArrayRef causal, double scale, double softcap,
                                           const OptionalTensor& sink_logit, const OptionalTensor& key_padding) {
  auto o = neighborhood_options(grid, window, stride, dilation, causal);
  o.scale = scale;
  o.softcap = softcap;
  if (sink_logit) o.sink_logit = *sink_logit;
  if (key_padding) o.key_padding = *key_padding;
  const auto result = neighborhood(q, k, v, o);
  return {result.out, result.lse};
}

}  // namespace

NeighborhoodOutput neighborhood(const Tensor& q, const Tensor& k, const Tensor& v, const NeighborhoodOptions& options) {
  const OptionalTensor sink = present(options.sink_logit);
  const bool wanted = q.requires_grad() || k.requires_grad() || v.requires_grad() || (sink && sink->requires_grad());
  if (torch::GradMode::is_enabled() && wanted) {
    const auto result = NeighborhoodFunction::apply(q, k, v, sink, std::make_shared<NeighborhoodOptions>(options));
    return {result[0], result[1]};
  }
  torch::NoGradGuard no_grad;
  NeighborhoodCall call(q, k, v, options);
  call.forward();
  return {call.flash.out, call.flash.lse};
}

}  // namespace heed::ops

TORCH_LIBRARY_FRAGMENT(heed, library) {
  library.def(
      "neighborhood(Tensor q, Tensor k, Tensor v, int[] grid, int[] window, int[] stride=[1], int[] dilation=[1], "
      "int[] causal=[0], float scale=0., float softcap=0., Tensor? sink_logit=None, Tensor? key_padding=None) -> "
      "(Tensor out, Tensor lse)");
}
TORCH_LIBRARY_IMPL(heed, Autograd, library) { library.impl("neighborhood", &heed::ops::neighborhood_op); }
TORCH_LIBRARY_IMPL(heed, CPU, library) { library.impl("neighborhood", &heed::ops::neighborhood_op); }
TORCH_LIBRARY_IMPL(heed, Meta, library) { library.impl("neighborhood", &heed::ops::neighborhood_op); }
