#include "heed/ops/selective_scan.h"

#include <torch/library.h>

#include "heed/kernels/selective_scan.h"
#include "heed/ops/dispatch.h"
#include "ops/once_differentiable.h"
#include "ops/scan_call.h"

namespace heed::ops {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr char kSelectiveScan[] = "selective_scan";

/// The tensors of one call in the shapes of kernels::SelectiveScanParams.
struct SelectiveTensors {
  Tensor x, delta, a, b, c;
  OptionalTensor skip, z, delta_bias, initial_state;
  Tensor cu_seqlens;
  bool complex = false, delta_softplus = false;

  int64_t sequences() const { return cu_seqlens.defined() ? cu_seqlens.numel() - 1 : x.size(0); }
  kernels::SelectiveScanParams params() const {
    kernels::SelectiveScanParams p;
    p.x = scan_view(x), p.delta = scan_view(delta), p.a = scan_view(a), p.b = scan_view(b), p.c = scan_view(c);
    p.skip = scan_view(skip), p.z = scan_view(z), p.delta_bias = scan_view(delta_bias);
    p.initial_state = scan_view(initial_state);
    p.complex = complex, p.delta_softplus = delta_softplus;
    if (cu_seqlens.defined() && !cu_seqlens.is_meta())
      p.cu_seqlens = cu_seqlens.data_ptr<int64_t>(), p.num_sequences = sequences();
    return p;
  }
  std::pair<Tensor, Tensor> forward() const {
    auto out = torch::empty(x.sizes(), x.options());
    auto state = torch::empty({sequences(), 1, a.size(2), a.size(3)}, a.options());
    auto p = params();
    p.out = scan_view(out), p.final_state = scan_view(state);
    show_dispatch("selective_scan", x);
    if (!x.is_meta()) {
      kernels::selective_scan(p);
    } else if (!cu_seqlens.defined()) {
      kernels::check(p);
    }
    return {out, state};
  }
};

struct SelectiveFunction : torch::autograd::Function<SelectiveFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& delta, const Tensor& a,
                               const Tensor& b, const Tensor& c, const OptionalTensor& skip, const OptionalTensor& z,
                               const OptionalTensor& delta_bias, const OptionalTensor& initial_state,
                               const OptionalTensor& cu_seqlens, bool complex, bool delta_softplus) {
    const auto [out, state] =
        SelectiveTensors{
            x,       delta,         a, b, c, skip, z, delta_bias, initial_state, cu_seqlens.value_or(Tensor()),
            complex, delta_softplus}
            .forward();
    ctx->save_for_backward({x, delta, a, b, c, skip.value_or(Tensor()), z.value_or(Tensor()),
                            delta_bias.value_or(Tensor()), initial_state.value_or(Tensor())});
    if (cu_seqlens) ctx->saved_data["cu_seqlens"] = *cu_seqlens;
    ctx->saved_data["complex"] = complex;
    ctx->saved_data["delta_softplus"] = delta_softplus;
    return {out, state};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const SelectiveTensors call{saved[0],
                                saved[1],
                                saved[2],
                                saved[3],
                                saved[4],
                                OptionalTensor(saved[5]),
                                OptionalTensor(saved[6]),
                                OptionalTensor(saved[7]),
                                OptionalTensor(saved[8]),
                                saved_bounds(ctx),
                                ctx->saved_data["complex"].toBool(),
                                ctx->saved_data["delta_softplus"].toBool()};
    const auto d_out = scan_gradient(grads[0], call.x.scalar_type()),
               d_state = scan_gradient(grads[1], call.a.scalar_type());
    kernels::SelectiveScanGrads g;
    g.d_out = scan_view(d_out), g.d_final_state = scan_view(d_state);
    variable_list result(12);
    size_t edge = 0;  // absent inputs have no edge in the graph
    const auto into = [&](size_t index, kernels::AnyView& view) {
      if (!saved[index].defined() || !ctx->needs_input_grad(edge++)) return;
      result[index] = torch::empty(saved[index].sizes(), saved[index].options());
      view = scan_view(result[index]);
    };
    into(0, g.d_x), into(1, g.d_delta), into(2, g.d_a), into(3, g.d_b), into(4, g.d_c);
    into(5, g.d_skip), into(6, g.d_z), into(7, g.d_delta_bias), into(8, g.d_initial_state);
    if (!call.x.is_meta()) kernels::selective_scan_backward(call.params(), g);
    return once_differentiable(std::move(result), kSelectiveScan);
  }
};

OptionalTensor channels(const OptionalTensor& tensor, const char* name, torch::ScalarType side) {
  if (!tensor) return {};
  return scan_input(*tensor, kSelectiveScan, name, 1, "[channels]").to(side).view({1, 1, 1, tensor->size(0)});
}

/// [B, T, D] as [B, 1, T, D].
Tensor tokens(const Tensor& tensor, const char* name) {
  return scan_input(tensor, kSelectiveScan, name, 3, "[batch, tokens, channels]").unsqueeze(1);
}

/// [B, T, G, N] or its complex form as [B, G, T, N].
Tensor coefficients(const Tensor& tensor, const char* name, bool complex) {
  const auto input = complex ? scan_input(tensor, kSelectiveScan, name, 5, "[batch, tokens, groups, states, 2]")
                             : scan_input(tensor, kSelectiveScan, name, 4, "[batch, tokens, groups, states]");
  return (complex ? input.flatten(3) : input).transpose(1, 2);
}

/// As selective_scan, over autograd: gradients flow through the changes of shape and type too.
SelectiveScanOutput run(const Tensor& x, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                        const OptionalTensor& D, const OptionalTensor& z, const OptionalTensor& delta_bias,
                        const OptionalTensor& initial_state, bool delta_softplus, const OptionalTensor& cu_seqlens) {
  require(A.defined() && (A.dim() == 2 || A.dim() == 3),
          "{}: A has {} dimensions; [channels, states], or [channels, states, 2] if complex, is accepted",
          kSelectiveScan, A.defined() ? A.dim() : 0);
  const bool complex = A.dim() == 3;
  require(!complex || A.size(2) == 2, "{}: A of three dimensions is complex and ends in {}; 2 is accepted",
          kSelectiveScan, A.size(A.dim() - 1));
  SelectiveTensors call;
  call.x = tokens(x, "x"), call.delta = tokens(delta, "delta");
  const auto side = side_dtype(x);
  const auto a = scan_input(A, kSelectiveScan, "A", A.dim(), "").to(side);
  call.a = (complex ? a.flatten(1) : a).unsqueeze(0).unsqueeze(0);
  call.b = coefficients(B, "B", complex), call.c = coefficients(C, "C", complex);
  call.skip = channels(D, "D", side), call.delta_bias = channels(delta_bias, "delta_bias", side);
  if (z) call.z = tokens(*z, "z");
  if (initial_state) {
    const auto state =
        complex ? scan_input(*initial_state, kSelectiveScan, "initial_state", 4, "[batch, channels, states, 2]")
                : scan_input(*initial_state, kSelectiveScan, "initial_state", 3, "[batch, channels, states]");
    call.initial_state = (complex ? state.flatten(2) : state).unsqueeze(1).to(side);
  }
  call.cu_seqlens = scan_bounds(cu_seqlens, kSelectiveScan);
  call.complex = complex, call.delta_softplus = delta_softplus;

  bool grad = false;
  for (const auto& input :
       {OptionalTensor(call.x), OptionalTensor(call.delta), OptionalTensor(call.a), OptionalTensor(call.b),
        OptionalTensor(call.c), call.skip, call.z, call.delta_bias, call.initial_state})
    grad |= torch::GradMode::is_enabled() && input && input->requires_grad();
  Tensor out, state;
  if (grad) {
    const auto result =
        SelectiveFunction::apply(call.x, call.delta, call.a, call.b, call.c, call.skip, call.z, call.delta_bias,
                                 call.initial_state, if_defined(call.cu_seqlens), complex, delta_softplus);
    out = result[0], state = result[1];
  } else {
    std::tie(out, state) = call.forward();
  }
  state = state.squeeze(1);
  return {out.squeeze(1), complex ? state.unflatten(2, {state.size(2) / 2, 2}) : state};
}

std::tuple<Tensor, Tensor> library_selective_scan(const Tensor& x, const Tensor& delta, const Tensor& A,
                                                  const Tensor& B, const Tensor& C, const OptionalTensor& D,
                                                  const OptionalTensor& z, const OptionalTensor& delta_bias,
                                                  const OptionalTensor& initial_state, bool delta_softplus,
                                                  const OptionalTensor& cu_seqlens) {
  const auto result = run(x, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, cu_seqlens);
  return {result.out, result.state};
}

}  // namespace

SelectiveScanOutput selective_scan(const Tensor& x, const Tensor& delta, const Tensor& A, const Tensor& B,
                                   const Tensor& C, const std::optional<Tensor>& D, const std::optional<Tensor>& z,
                                   const std::optional<Tensor>& delta_bias, const std::optional<Tensor>& initial_state,
                                   const SelectiveScanOptions& options) {
  return run(x, delta, A, B, C, present(D), present(z), present(delta_bias), present(initial_state),
             options.delta_softplus, present(options.cu_seqlens));
}

}  // namespace heed::ops

TORCH_LIBRARY_FRAGMENT(heed, library) {
  library.def(
      "selective_scan(Tensor x, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D=None, Tensor? z=None, "
      "Tensor? delta_bias=None, Tensor? initial_state=None, bool delta_softplus=False, Tensor? cu_seqlens=None) -> "
      "(Tensor out, Tensor state)");
}
TORCH_LIBRARY_IMPL(heed, Autograd, library) { library.impl("selective_scan", &heed::ops::library_selective_scan); }
TORCH_LIBRARY_IMPL(heed, CPU, library) { library.impl("selective_scan", &heed::ops::library_selective_scan); }
TORCH_LIBRARY_IMPL(heed, Meta, library) { library.impl("selective_scan", &heed::ops::library_selective_scan); }
