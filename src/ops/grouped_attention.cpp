#include "heed/ops/grouped_attention.h"

#include <torch/library.h>

#include "heed/kernels/grouped_attention.h"
#include "ops/once_differentiable.h"
#include "ops/plain_rows.h"

namespace heed::ops {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr char kGroupedOp[] = "grouped_attention";

kernels::GroupedParams grouped_params(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& hidden,
                                      const Tensor& out, const Tensor& lse, int64_t block, double scale,
                                      double softcap) {
  kernels::GroupedParams p;
  p.q = view_of(q), p.k = view_of(k), p.v = view_of(v), p.out = view_of(out), p.lse = view_of(lse);
  p.block = block, p.scale = scale, p.softcap = softcap;
  if (hidden.defined()) p.hidden = hidden.data_ptr<uint8_t>(), p.hidden_stride = hidden.size(1);
  return p;
}

struct GroupedFunction : torch::autograd::Function<GroupedFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const c10::optional<Tensor>& given, int64_t block, double scale, double softcap) {
    const auto hidden = given.value_or(Tensor());
    const auto out = torch::empty({q.size(0), q.size(1), q.size(2), v.size(3)}, q.options());
    const auto lse = torch::empty({q.size(0), q.size(1), q.size(2), 1}, q.options().dtype(plain_type(q)));
    if (!q.is_meta()) kernels::grouped_attention(grouped_params(q, k, v, hidden, out, lse, block, scale, softcap));
    ctx->save_for_backward({q, k, v, out, lse, hidden});
    ctx->saved_data["block"] = block, ctx->saved_data["scale"] = scale, ctx->saved_data["softcap"] = softcap;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto d_out = grads[0].to(saved[0].scalar_type()).contiguous();
    variable_list result(7);
    kernels::GroupedGrads g;
    g.d_out = view_of(d_out);
    kernels::AnyView* const targets[] = {&g.d_q, &g.d_k, &g.d_v};
    for (size_t i = 0; i < 3; ++i) {
      if (!ctx->needs_input_grad(i)) continue;
      result[i] = torch::empty(saved[i].sizes(), saved[i].options());
      *targets[i] = view_of(result[i]);
    }
    if (!saved[0].is_meta())
      kernels::grouped_attention_backward(
          grouped_params(saved[0], saved[1], saved[2], saved[5], saved[3], saved[4], ctx->saved_data["block"].toInt(),
                         ctx->saved_data["scale"].toDouble(), ctx->saved_data["softcap"].toDouble()),
          g);
    return once_differentiable(std::move(result), kGroupedOp);
  }
};

Tensor grouped_attention_op(const Tensor& q, const Tensor& k, const Tensor& v, int64_t block, double scale,
                            double softcap, const c10::optional<Tensor>& hidden) {
  return grouped_attention(q, k, v, block, scale, softcap, hidden.value_or(Tensor()));
}

}  // namespace

Tensor grouped_attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t block, double scale, double softcap,
                         const Tensor& hidden) {
  require(q.defined() && k.defined() && v.defined() && q.scalar_type() == k.scalar_type() &&
              q.scalar_type() == v.scalar_type(),
          "grouped_attention: q, k and v of one type are accepted");
  const auto rows = plain_rows(q, q.scalar_type(), kGroupedOp, "q"),
             keys = plain_rows(k, k.scalar_type(), kGroupedOp, "k"),
             values = plain_rows(v, v.scalar_type(), kGroupedOp, "v");
  const auto unseen = hidden_keys(hidden, k, kGroupedOp);
  return GroupedFunction::apply(rows, keys, values, unseen.defined() ? c10::optional<Tensor>(unseen) : c10::nullopt,
                                block, scale, softcap);
}

}  // namespace heed::ops

TORCH_LIBRARY_FRAGMENT(heed, library) {
  library.def(
      "grouped_attention(Tensor q, Tensor k, Tensor v, int block, float scale=0., float softcap=0., Tensor? "
      "hidden=None) -> Tensor");
}
TORCH_LIBRARY_IMPL(heed, Autograd, library) { library.impl("grouped_attention", &heed::ops::grouped_attention_op); }
TORCH_LIBRARY_IMPL(heed, CPU, library) { library.impl("grouped_attention", &heed::ops::grouped_attention_op); }
TORCH_LIBRARY_IMPL(heed, Meta, library) { library.impl("grouped_attention", &heed::ops::grouped_attention_op); }
