#include "heed/ops/softmax_scan.h"

#include <torch/library.h>

#include "heed/kernels/softmax_scan.h"
#include "heed/ops/dispatch.h"
#include "ops/once_differentiable.h"
#include "ops/scan_call.h"

namespace heed::ops {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr char kSoftmaxScan[] = "softmax_scan";

/// The tensors of one call in the shapes of kernels::SoftmaxScanParams.
struct ScanTensors {
  Tensor scores, v;
  OptionalTensor initial_state;
  Tensor cu_seqlens, out, lse, state;

  void allocate() {
    const int64_t heads = std::max(scores.size(1), v.size(1));
    const int64_t sequences = cu_seqlens.defined() ? cu_seqlens.numel() - 1 : v.size(0);
    const auto side = v.options().dtype(side_dtype(v));
    out = torch::empty({v.size(0), heads, v.size(2), v.size(3)}, v.options());
    lse = torch::empty({v.size(0), heads, v.size(2), 1}, side);
    state = torch::empty({sequences, heads, 1, v.size(3) + 2}, side);
  }
  kernels::SoftmaxScanParams params() const {
    kernels::SoftmaxScanParams p;
    p.scores = scan_view(scores), p.v = scan_view(v), p.out = scan_view(out), p.lse = scan_view(lse);
    p.initial_state = scan_view(initial_state), p.final_state = scan_view(state);
    if (cu_seqlens.defined() && !cu_seqlens.is_meta())
      p.cu_seqlens = cu_seqlens.data_ptr<int64_t>(), p.num_sequences = cu_seqlens.numel() - 1;
    return p;
  }
  void forward() {
    allocate();
    show_dispatch("softmax_scan", v);
    if (!v.is_meta()) {
      kernels::softmax_scan(params());
    } else if (!cu_seqlens.defined()) {
      kernels::check(params());
    }
  }
};

struct ScanFunction : torch::autograd::Function<ScanFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& scores, const Tensor& v,
                               const OptionalTensor& initial_state, const OptionalTensor& cu_seqlens) {
    ScanTensors call{scores, v, initial_state, cu_seqlens.value_or(Tensor())};
    call.forward();
    ctx->save_for_backward({scores, v, initial_state.value_or(Tensor()), call.out, call.lse, call.state});
    if (cu_seqlens) ctx->saved_data["cu_seqlens"] = *cu_seqlens;
    return {call.out, call.lse, call.state};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const ScanTensors call{saved[0], saved[1], OptionalTensor(saved[2]), saved_bounds(ctx), saved[3],
                           saved[4], saved[5]};
    const auto d_out = scan_gradient(grads[0], call.v.scalar_type()),
               d_lse = scan_gradient(grads[1], call.lse.scalar_type()),
               d_state = scan_gradient(grads[2], call.lse.scalar_type());
    kernels::SoftmaxScanGrads g;
    g.d_out = scan_view(d_out), g.d_lse = scan_view(d_lse), g.d_final_state = scan_view(d_state);
    variable_list result(4);
    size_t edge = 0;  // absent inputs have no edge in the graph
    const auto into = [&](size_t index, kernels::AnyView& view) {
      if (!saved[index].defined() || !ctx->needs_input_grad(edge++)) return;
      result[index] = torch::empty(saved[index].sizes(), saved[index].options());
      view = scan_view(result[index]);
    };
    into(0, g.d_scores), into(1, g.d_v), into(2, g.d_initial_state);
    if (!call.v.is_meta()) kernels::softmax_scan_backward(call.params(), g);
    return once_differentiable(std::move(result), kSoftmaxScan);
  }
};

SoftmaxScanOutput run(const Tensor& scores, const Tensor& v, const OptionalTensor& initial_state,
                      const OptionalTensor& cu_seqlens) {
  ScanTensors call;
  call.scores = scan_input(scores, kSoftmaxScan, "scores", 3, "[batch, heads, tokens]").unsqueeze(3);
  call.v = scan_input(v, kSoftmaxScan, "v", 4, "[batch, heads, tokens, head size]");
  if (initial_state) {
    call.initial_state = scan_input(*initial_state, kSoftmaxScan, "initial_state", 3, "[batch, heads, head size + 2]")
                             .unsqueeze(2)
                             .to(side_dtype(v));
  }
  call.cu_seqlens = scan_bounds(cu_seqlens, kSoftmaxScan);
  const bool grad = torch::GradMode::is_enabled() && (call.scores.requires_grad() || call.v.requires_grad() ||
                                                      (call.initial_state && call.initial_state->requires_grad()));
  if (grad) {
    const auto result = ScanFunction::apply(call.scores, call.v, call.initial_state, if_defined(call.cu_seqlens));
    call.out = result[0], call.lse = result[1], call.state = result[2];
  } else {
    call.forward();
  }
  return {call.out, call.lse.squeeze(3), call.state.squeeze(2)};
}

std::tuple<Tensor, Tensor, Tensor> library_softmax_scan(const Tensor& scores, const Tensor& v,
                                                        const OptionalTensor& initial_state,
                                                        const OptionalTensor& cu_seqlens) {
  const auto result = run(scores, v, initial_state, cu_seqlens);
  return {result.out, result.lse, result.state};
}

}  // namespace

SoftmaxScanOutput softmax_scan(const Tensor& scores, const Tensor& v, const std::optional<Tensor>& initial_state,
                               const SoftmaxScanOptions& options) {
  return run(scores, v, present(initial_state), present(options.cu_seqlens));
}

}  // namespace heed::ops

TORCH_LIBRARY_FRAGMENT(heed, library) {
  library.def(
      "softmax_scan(Tensor scores, Tensor v, Tensor? initial_state=None, Tensor? cu_seqlens=None) -> (Tensor out, "
      "Tensor lse, Tensor state)");
}
TORCH_LIBRARY_IMPL(heed, Autograd, library) { library.impl("softmax_scan", &heed::ops::library_softmax_scan); }
TORCH_LIBRARY_IMPL(heed, CPU, library) { library.impl("softmax_scan", &heed::ops::library_softmax_scan); }
TORCH_LIBRARY_IMPL(heed, Meta, library) { library.impl("softmax_scan", &heed::ops::library_softmax_scan); }
