// Autograd and dispatcher registration of exact attention.
#include "heed/ops/flash.h"

#include <torch/library.h>

#include "heed/error.h"
#include "ops/once_differentiable.h"
#include "ops/optional_tensor.h"

namespace heed {
namespace {

using ops::OptionalTensor;
using ops::present;
using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

bool wants_grad(const OptionalTensor& tensor) { return tensor && tensor->requires_grad(); }

struct FlashFunction : torch::autograd::Function<FlashFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                               const OptionalTensor& bias, const OptionalTensor& temperature,
                               const OptionalTensor& multiplier, const OptionalTensor& sink,
                               const OptionalTensor& sigmoid_bias, const std::shared_ptr<AttentionOptions>& options) {
    ops::FlashCall call(q, k, v, *options);
    call.forward();
    ctx->save_for_backward({q, k, v, bias.value_or(Tensor()), temperature.value_or(Tensor()),
                            multiplier.value_or(Tensor()), sink.value_or(Tensor()), sigmoid_bias.value_or(Tensor()),
                            call.out, call.lse});
    auto holder = c10::make_intrusive<OptionsHolder>(*options);
    auto& kept = holder->options;  // its differentiable tensors live among the saved variables
    kept.bias = kept.temperature = kept.multiplier = kept.sink_logit = kept.sigmoid_bias = std::nullopt;
    ctx->saved_data["options"] = c10::IValue::make_capsule(std::move(holder));
    if (!call.has_lse()) return {call.out};
    return {call.out, call.lse};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    auto options = static_cast<OptionsHolder&>(*ctx->saved_data["options"].toCapsule()).options;
    options.bias = saved[3];
    options.temperature = saved[4];
    options.multiplier = saved[5];
    options.sink_logit = saved[6];
    options.sigmoid_bias = saved[7];
    ops::FlashCall call(saved[0], saved[1], saved[2], options);
    call.out = saved[8];
    call.lse = saved[9];

    auto grad_out = grads[0].defined() ? grads[0].to(call.q.scalar_type()) : torch::zeros_like(call.out);
    if (grad_out.size(3) > 1 && grad_out.stride(3) != 1) grad_out = grad_out.contiguous();
    Tensor grad_lse;
    if (grads.size() > 1 && grads[1].defined()) grad_lse = grads[1].to(call.side_dtype()).contiguous();

    variable_list result(9);
    const auto side = call.q.options().dtype(call.side_dtype());
    kernels::FlashGrads g;
    g.d_out = ops::view_of(grad_out);
    if (grad_lse.defined()) g.d_lse = ops::view_of(grad_lse);
    size_t edge = 0;  // absent inputs have no edge in the graph
    auto into = [&](int index, kernels::AnyView& view, const torch::TensorOptions& type) {
      if (!saved[index].defined() || !ctx->needs_input_grad(edge++)) return;
      result[index] = torch::empty(saved[index].sizes(), type);
      view = ops::view_of(index < 6 ? result[index] : result[index].view({1, -1, 1, 1}));
    };
    into(0, g.d_q, call.q.options());
    into(1, g.d_k, call.q.options());
    into(2, g.d_v, call.q.options());
    into(3, g.d_bias, side);
    into(4, g.d_temperature, side);
    into(5, g.d_multiplier, side);
    into(6, g.d_sink, side);
    into(7, g.d_sigmoid_bias, side);
    if (!call.q.is_meta()) {
      kernels::BlockList blocks;
      kernels::flash_backward(call.params(blocks), g);
    }
    for (int i = 0; i < 8; ++i)
      if (result[i].defined() && result[i].scalar_type() != saved[i].scalar_type())
        result[i] = result[i].to(saved[i].scalar_type());
    return ops::once_differentiable(std::move(result), "flash");
  }

 private:
  struct OptionsHolder : torch::CustomClassHolder {
    explicit OptionsHolder(AttentionOptions options) : options(std::move(options)) {}
    AttentionOptions options;
  };
};

}  // namespace

AttentionResult attention_with_lse(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  const auto bias = present(options.bias), temperature = present(options.temperature),
             multiplier = present(options.multiplier), sink = present(options.sink_logit),
             sigmoid_bias = present(options.sigmoid_bias);
  bool grad = false;
  if (torch::GradMode::is_enabled())
    for (const auto& input :
         {OptionalTensor(q), OptionalTensor(k), OptionalTensor(v), bias, temperature, multiplier, sink, sigmoid_bias})
      grad |= wants_grad(input);
  if (!grad) {
    torch::NoGradGuard no_grad;
    ops::FlashCall call(q, k, v, options);
    call.forward();
    return {call.out, call.lse};
  }
  const auto result = FlashFunction::apply(q, k, v, bias, temperature, multiplier, sink, sigmoid_bias,
                                           std::make_shared<AttentionOptions>(options));
  return {result[0], result.size() > 1 ? result[1] : Tensor()};
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  return attention_with_lse(q, k, v, options).out;
}

}  // namespace heed
