#include "heed/nn/recompute.h"

#include <array>

#include "heed/error.h"
#include "ops/once_differentiable.h"

namespace heed::nn {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Work = std::function<Tensor(const std::vector<Tensor>&)>;

struct WorkHolder : torch::CustomClassHolder {
  explicit WorkHolder(Work work) : work(std::move(work)) {}
  Work work;
};

using Input = c10::optional<Tensor>;

/// As many as there are places, since libtorch sees tensors among the arguments and none in a list of them.
constexpr size_t kMost = 8;

struct Recomputed : torch::autograd::Function<Recomputed> {
  static Tensor forward(AutogradContext* ctx, const std::shared_ptr<Work>& work, size_t count, const Input& a,
                        const Input& b, const Input& c, const Input& d, const Input& e, const Input& f, const Input& g,
                        const Input& h) {
    variable_list inputs;
    for (const auto* input : {&a, &b, &c, &d, &e, &f, &g, &h}) inputs.push_back(input->value_or(Tensor()));
    inputs.resize(count);
    ctx->save_for_backward(inputs);
    ctx->saved_data["work"] = c10::IValue::make_capsule(c10::make_intrusive<WorkHolder>(*work));
    torch::NoGradGuard no_grad;
    return (*work)(inputs);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto& work = static_cast<WorkHolder&>(*ctx->saved_data["work"].toCapsule()).work;
    std::vector<Tensor> inputs, wanted;
    for (const auto& saved : ctx->get_saved_variables()) {
      inputs.push_back(saved.defined() ? saved.detach().requires_grad_(saved.requires_grad()) : saved);
      if (saved.defined() && saved.requires_grad()) wanted.push_back(inputs.back());
    }
    variable_list found;
    {
      torch::AutoGradMode enabled(true);
      found = torch::autograd::grad({work(inputs)}, wanted, {grads[0]}, c10::nullopt, false, true);
    }
    variable_list result(2 + kMost);  // the first two are of `work` and of the count
    for (size_t i = 0, next = 0; i < inputs.size(); ++i)
      if (inputs[i].defined() && inputs[i].requires_grad()) result[2 + i] = found[next++];
    return ops::once_differentiable(std::move(result), "recomputed");
  }
};

}  // namespace

Tensor recomputed(Work work, const std::vector<Tensor>& inputs) {
  bool grad = false;
  for (const auto& input : inputs) grad |= input.defined() && input.requires_grad();
  if (!grad || !torch::GradMode::is_enabled()) return work(inputs);
  require(inputs.size() <= kMost, "recomputed: {} inputs: at most {} are accepted", inputs.size(), kMost);
  std::array<Input, kMost> slots;
  for (size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].defined()) slots[i] = inputs[i];
  return Recomputed::apply(std::make_shared<Work>(std::move(work)), inputs.size(), slots[0], slots[1], slots[2],
                           slots[3], slots[4], slots[5], slots[6], slots[7]);
}

}  // namespace heed::nn
