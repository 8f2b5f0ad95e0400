#include "heed/error.h"
#include "heed/kernels/attn_stats.h"
#include "heed/ops/flash.h"
#include "ops/once_differentiable.h"

namespace heed {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// The call whose weights are asked for; v is not read, k stands in for its shape.
ops::FlashCall weights_call(const Tensor& q, const Tensor& k, const Tensor& lse, const AttentionOptions& options) {
  require(options.normalizer == NormalizerKind::softmax,
          "attention_weights: softmax weights are rebuilt from lse; other normalisers are not accepted");
  ops::FlashCall call(q, k, k, options);
  require(lse.dim() == 3 && lse.size(0) == q.size(0) && lse.size(1) == q.size(1) && lse.size(2) == q.size(2),
          "attention_weights: lse does not fit: [{}, {}, {}] is accepted", q.size(0), q.size(1), q.size(2));
  call.lse = lse.to(call.side_dtype()).contiguous();
  return call;
}

struct OptionsHolder : torch::CustomClassHolder {
  explicit OptionsHolder(AttentionOptions options) : options(std::move(options)) {}
  AttentionOptions options;
};

struct WeightsFunction : torch::autograd::Function<WeightsFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& lse, const Tensor& rows,
                        const std::shared_ptr<AttentionOptions>& options) {
    const auto call = weights_call(q, k, lse, *options);
    kernels::BlockList blocks;
    auto weights = torch::empty({q.size(0), q.size(1), rows.numel(), k.size(2)}, q.options().dtype(call.side_dtype()));
    kernels::attention_weights(call.params(blocks), rows.data_ptr<int64_t>(), rows.numel(), ops::view_of(weights));
    ctx->save_for_backward({q, k, lse, rows, weights});
    ctx->saved_data["options"] = c10::IValue::make_capsule(c10::make_intrusive<OptionsHolder>(*options));
    return weights;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto& options = static_cast<OptionsHolder&>(*ctx->saved_data["options"].toCapsule()).options;
    const auto call = weights_call(saved[0], saved[1], saved[2], options);
    kernels::BlockList blocks;
    const auto d_weights = grads[0].to(call.side_dtype()).contiguous();
    variable_list result{torch::empty(saved[0].sizes(), saved[0].options()),
                         torch::empty(saved[1].sizes(), saved[1].options()),
                         torch::empty(saved[2].sizes(), call.lse.options()), Tensor(), Tensor()};
    kernels::attention_weights_backward(call.params(blocks), saved[3].data_ptr<int64_t>(), saved[3].numel(),
                                        ops::view_of(saved[4]), ops::view_of(d_weights), ops::view_of(result[0]),
                                        ops::view_of(result[1]), ops::view_of(result[2]));
    return ops::once_differentiable(std::move(result), "attention_weights");
  }
};

}  // namespace

Tensor attention_weights(const Tensor& q, const Tensor& k, const Tensor& lse, const Tensor& rows,
                         const AttentionOptions& options) {
  const auto index = rows.to(torch::kInt64).contiguous().flatten();
  if (index.numel())
    require(index.min().item<int64_t>() >= 0 && index.max().item<int64_t>() < q.size(2),
            "attention_weights: a row lies outside the {} queries", q.size(2));
  return WeightsFunction::apply(q, k, lse, index, std::make_shared<AttentionOptions>(options));
}

}  // namespace heed
