#include "heed/ops/span_attention.h"

#include <torch/library.h>

#include "heed/kernels/span_attention.h"
#include "ops/once_differentiable.h"
#include "ops/plain_rows.h"

namespace heed::ops {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr char kOp[] = "span_attention";

kernels::SpanParams params_of(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& begins,
                              const Tensor& ends, const Tensor& hidden, const Tensor& out, const Tensor& lse,
                              double scale) {
  kernels::SpanParams p;
  p.q = view_of(q), p.k = view_of(k), p.v = view_of(v);
  p.begins = dense_view<const int32_t>(begins), p.ends = dense_view<const int32_t>(ends);
  p.out = view_of(out), p.lse = view_of(lse);
  p.scale = scale;
  if (hidden.defined()) p.hidden = hidden.data_ptr<uint8_t>(), p.hidden_stride = hidden.size(1);
  return p;
}

struct SpanFunction : torch::autograd::Function<SpanFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                               const Tensor& begins, const Tensor& ends, const c10::optional<Tensor>& given,
                               double scale) {
    const auto hidden = given.value_or(Tensor());
    const int64_t runs = begins.size(3);
    const auto out = torch::empty({q.size(0), q.size(1), q.size(2), runs * v.size(3)}, q.options());
    const auto lse = torch::empty({q.size(0), q.size(1), q.size(2), runs}, q.options());
    if (!q.is_meta()) kernels::span_attention(params_of(q, k, v, begins, ends, hidden, out, lse, scale));
    ctx->save_for_backward({q, k, v, begins, ends, out, lse, hidden});
    ctx->saved_data["scale"] = scale;
    return {out, lse};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto grad = [&](size_t index) {
      const auto& of = saved[5 + index];
      return grads[index].defined() ? grads[index].to(of.scalar_type()).contiguous() : torch::zeros_like(of);
    };
    const auto d_out = grad(0), d_lse = grad(1);
    variable_list result;
    for (size_t i = 0; i < 3; ++i) result.push_back(torch::empty(saved[i].sizes(), saved[i].options()));
    if (saved[0].is_meta()) return once_differentiable({result[0], result[1], result[2], {}, {}, {}, {}}, kOp);
    kernels::SpanGrads g{view_of(d_out), view_of(d_lse), view_of(result[0]), view_of(result[1]), view_of(result[2])};
    kernels::span_attention_backward(params_of(saved[0], saved[1], saved[2], saved[3], saved[4], saved[7], saved[5],
                                               saved[6], ctx->saved_data["scale"].toDouble()),
                                     g);
    result.resize(7);
    return once_differentiable(std::move(result), kOp);
  }
};

std::tuple<Tensor, Tensor> span_attention_op(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& begins,
                                             const Tensor& ends, double scale, const c10::optional<Tensor>& hidden) {
  const auto result = span_attention(q, k, v, begins, ends, scale, hidden.value_or(Tensor()));
  return {result.out, result.lse};
}

}  // namespace

SpanResult span_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& begins, const Tensor& ends,
                          double scale, const Tensor& hidden) {
  const auto type = plain_type(q);
  const auto rows = plain_rows(q, type, kOp, "q"), keys = plain_rows(k, type, kOp, "k"),
             values = plain_rows(v, type, kOp, "v");
  const auto runs = [&](const Tensor& x, const char* name) {
    require(x.defined() && x.dim() == 4, "span_attention: {}: [batch, heads, tokens, runs] is accepted", name);
    return x.to(torch::kInt32).contiguous();
  };
  const auto seen = hidden_keys(hidden, k, kOp);
  const auto result = SpanFunction::apply(rows, keys, values, runs(begins, "begins"), runs(ends, "ends"),
                                          seen.defined() ? c10::optional<Tensor>(seen) : c10::nullopt, scale);
  return {result[0].unflatten(3, {begins.size(3), v.size(3)}).to(q.scalar_type()), result[1]};
}

}  // namespace heed::ops

TORCH_LIBRARY_FRAGMENT(heed, library) {
  library.def(
      "span_attention(Tensor q, Tensor k, Tensor v, Tensor begins, Tensor ends, float scale=0., Tensor? hidden=None) "
      "-> (Tensor out, Tensor lse)");
}
TORCH_LIBRARY_IMPL(heed, Autograd, library) { library.impl("span_attention", &heed::ops::span_attention_op); }
TORCH_LIBRARY_IMPL(heed, CPU, library) { library.impl("span_attention", &heed::ops::span_attention_op); }
TORCH_LIBRARY_IMPL(heed, Meta, library) { library.impl("span_attention", &heed::ops::span_attention_op); }
