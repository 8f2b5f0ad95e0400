#include "heed/ops/span_attention.h"

#include "heed/kernels/span_attention.h"
#include "heed/ops/flash.h"
#include "ops/once_differentiable.h"

namespace heed::ops {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor plain(const Tensor& x, torch::ScalarType type) {
  const auto wide = x.to(type);
  return wide.size(-1) > 1 && wide.stride(-1) != 1 ? wide.contiguous() : wide;
}

kernels::View<const int32_t> list_view(const Tensor& x) {
  const std::array<int64_t, 4> size{x.size(0), x.size(1), x.size(2), x.size(3)};
  return {x.data_ptr<int32_t>(), size, kernels::dense_strides(size)};
}

kernels::SpanParams params_of(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& begins,
                              const Tensor& ends, const Tensor& hidden, const Tensor& out, const Tensor& lse,
                              double scale) {
  kernels::SpanParams p;
  p.q = view_of(q), p.k = view_of(k), p.v = view_of(v);
  p.begins = list_view(begins), p.ends = list_view(ends);
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
    kernels::span_attention(params_of(q, k, v, begins, ends, hidden, out, lse, scale));
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
    kernels::SpanGrads g{view_of(d_out), view_of(d_lse), view_of(result[0]), view_of(result[1]), view_of(result[2])};
    kernels::span_attention_backward(params_of(saved[0], saved[1], saved[2], saved[3], saved[4], saved[7], saved[5],
                                               saved[6], ctx->saved_data["scale"].toDouble()),
                                     g);
    result.resize(7);
    return once_differentiable(std::move(result), "span_attention");
  }
};

}  // namespace

SpanResult span_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& begins, const Tensor& ends,
                          double scale, const Tensor& hidden) {
  const auto type = q.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
  const auto lists = [](const Tensor& x) { return x.to(torch::kInt32).contiguous(); };
  const auto result = SpanFunction::apply(
      plain(q, type), plain(k, type), plain(v, type), lists(begins), lists(ends),
      hidden.defined() ? c10::optional<Tensor>(hidden.to(torch::kUInt8).contiguous()) : c10::nullopt, scale);
  return {result[0].unflatten(3, {begins.size(3), v.size(3)}).to(q.scalar_type()), result[1]};
}

}  // namespace heed::ops
