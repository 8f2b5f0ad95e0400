#include "heed/nn/reversible.h"

#include <ATen/CPUGeneratorImpl.h>

#include "heed/error.h"

namespace heed::nn {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor random_state() {
  auto generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_random_state(const Tensor& state) {
  auto generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
}

struct Layers : torch::CustomClassHolder {
  std::vector<ReversibleLayer> layers;
  std::vector<Tensor> states;  ///< of the generator, before f and before g of each layer
};

struct ReversibleFunction : torch::autograd::Function<ReversibleFunction> {
  static variable_list forward(AutogradContext* ctx, Tensor x1, Tensor x2, const Tensor&,
                               const c10::intrusive_ptr<Layers>& layers) {
    for (const auto& layer : layers->layers) {
      layers->states.push_back(random_state());
      x1 = x1 + layer.f(x2);
      layers->states.push_back(random_state());
      x2 = x2 + layer.g(x1);
    }
    ctx->save_for_backward({x1, x2});
    ctx->saved_data["layers"] = c10::IValue::make_capsule(layers);
    return {x1, x2};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto& held = static_cast<Layers&>(*ctx->saved_data["layers"].toCapsule());
    auto y1 = saved[0].detach(), y2 = saved[1].detach();
    auto d1 = grads[0].defined() ? grads[0] : torch::zeros_like(y1);
    auto d2 = grads[1].defined() ? grads[1] : torch::zeros_like(y2);
    const auto now = random_state();
    // Adds to the gradients of the parameters, and gives what was added to the stream and the input's gradient.
    const auto replay = [](const auto& function, const Tensor& input, const Tensor& grad, const Tensor& state) {
      set_random_state(state);
      const torch::AutoGradMode enabled(true);
      auto x = input.detach().requires_grad_();
      const auto added = function(x);
      if (added.requires_grad()) torch::autograd::backward({added}, {grad});
      return TensorPair{added.detach(), x.grad().defined() ? x.grad() : torch::zeros_like(x)};
    };
    for (size_t i = held.layers.size(); i-- > 0;) {
      const auto [of_g, through_g] = replay(held.layers[i].g, y1, d2, held.states[2 * i + 1]);
      y2 = y2 - of_g;
      d1 = d1 + through_g;
      const auto [of_f, through_f] = replay(held.layers[i].f, y2, d1, held.states[2 * i]);
      y1 = y1 - of_f;
      d2 = d2 + through_f;
    }
    set_random_state(now);
    return {d1, d2, Tensor(), Tensor()};
  }
};

}  // namespace

TensorPair run_reversible(const std::vector<ReversibleLayer>& layers, const Tensor& x1, const Tensor& x2) {
  require(x1.sizes() == x2.sizes(), "reversible layers on {} and {}: one shape is accepted", c10::str(x1.sizes()),
          c10::str(x2.sizes()));
  auto held = c10::make_intrusive<Layers>();
  held->layers = layers;
  // Parameters are no inputs of the function, so that something must ask for its backward where x does not.
  const auto asks = torch::zeros({1}, torch::requires_grad(torch::GradMode::is_enabled()));
  const auto y = ReversibleFunction::apply(x1, x2, asks, held);
  return {y[0], y[1]};
}

TensorPair invert_reversible(const std::vector<ReversibleLayer>& layers, const Tensor& y1, const Tensor& y2) {
  torch::NoGradGuard no_grad;
  auto x1 = y1, x2 = y2;
  for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer) {
    x2 = x2 - layer->g(x1);
    x1 = x1 - layer->f(x2);
  }
  return {x1, x2};
}

}  // namespace heed::nn
