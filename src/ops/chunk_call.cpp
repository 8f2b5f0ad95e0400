#include "ops/chunk_call.h"

#include <sstream>

#include "heed/error.h"
#include "heed/ops/dispatch.h"
#include "heed/ops/flash.h"
#include "ops/once_differentiable.h"
#include "ops/optional_tensor.h"

namespace heed::ops {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class Shaped>
std::string shape_of(const Shaped& tensor) {
  std::ostringstream text;
  text << tensor.sizes();
  return text.str();
}

Tensor dense(const Tensor& tensor) {
  return tensor.size(-1) <= 1 || tensor.stride(-1) == 1 ? tensor : tensor.contiguous();
}

/// A view whose data a check may ask for: those of meta tensors are never read.
kernels::AnyView checked_view(const Tensor& tensor) {
  static char placeholder[64];
  auto view = view_of(tensor);
  if (tensor.is_meta()) view.data = placeholder;
  return view;
}

template <class Forward>
void forward(ChunkCall& call, const Forward& kernel) {
  call.allocate_outputs();
  show_dispatch(call.is_delta() ? "delta_chunk" : "linear_chunk", call.q);
  if (call.is_delta()) {
    const auto p = call.delta();
    kernels::check(p);
    if (!call.q.is_meta()) kernel(p);
  } else {
    const auto p = call.linear();
    kernels::check(p);
    if (!call.q.is_meta()) kernel(p);
  }
}

struct RunForward {
  void operator()(const kernels::LinearChunkParams& p) const { kernels::linear_chunk(p); }
  void operator()(const kernels::DeltaChunkParams& p) const { kernels::delta_chunk(p); }
};

struct ChunkFunction : torch::autograd::Function<ChunkFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                               const OptionalTensor& beta, const OptionalTensor& log_decay,
                               const OptionalTensor& initial_state, const OptionalTensor& pairs,
                               const OptionalTensor& reads, const OptionalTensor& writes, const OptionalTensor& carries,
                               const std::shared_ptr<ChunkCall>& call) {
    ops::forward(*call, RunForward());
    variable_list saved{q, k, v};
    for (const auto* input : {&beta, &log_decay, &initial_state, &pairs, &reads, &writes, &carries})
      saved.push_back(input->value_or(Tensor()));
    saved.push_back(call->cu_seqlens);
    ctx->save_for_backward(saved);
    ctx->saved_data["scale"] = call->scale;
    ctx->saved_data["chunk"] = call->chunk;
    ctx->saved_data["segment"] = call->segment;
    ctx->saved_data["heads"] = call->heads();
    return {call->out, call->state};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    ChunkCall call;
    call.q = saved[0], call.k = saved[1], call.v = saved[2];
    call.beta = saved[3], call.log_decay = saved[4], call.initial_state = saved[5];
    call.pairs = saved[6], call.reads = saved[7], call.writes = saved[8], call.carries = saved[9];
    call.cu_seqlens = saved[10];
    call.scale = ctx->saved_data["scale"].toDouble();
    call.chunk = ctx->saved_data["chunk"].toInt();
    call.segment = ctx->saved_data["segment"].toInt();

    const auto side = call.q.options().dtype(side_dtype(call.q));
    const auto d_out = grads[0].defined()
                           ? dense(grads[0])
                           : torch::zeros({call.q.size(0), call.heads(), call.q.size(2), call.v.size(3)}, side);
    const auto d_state = grads[1].defined() ? dense(grads[1]) : Tensor();

    variable_list result(11);
    size_t edge = 0;  // absent inputs have no edge in the graph
    const auto into = [&](int index, kernels::AnyView& view) {
      if (!saved[index].defined() || !ctx->needs_input_grad(edge++)) return;
      result[index] = torch::empty(saved[index].sizes(), saved[index].options());
      view = checked_view(result[index]);
    };
    const auto run = [&](auto p, auto g, const auto& between) {
      p.out.data = nullptr, p.final_state = {};
      g.d_out = checked_view(d_out);
      if (d_state.defined()) g.d_final_state = checked_view(d_state);
      into(0, g.d_q);
      into(1, g.d_k);
      into(2, g.d_v);
      between(g);
      into(4, g.d_log_decay);
      into(5, g.d_initial_state);
      return std::pair{p, g};
    };
    if (call.is_delta()) {
      const auto [p, g] = run(call.delta(), kernels::DeltaChunkGrads(),
                              [&](kernels::DeltaChunkGrads& grads) { into(3, grads.d_beta); });
      kernels::check(p, g);
      if (!call.q.is_meta()) kernels::delta_chunk_backward(p, g);
    } else {
      auto [p, g] = run(call.linear(), kernels::LinearChunkGrads(), [](auto&) {});
      auto& [pairs, reads, writes, carries] = g.d_coefficients;
      into(6, pairs), into(7, reads), into(8, writes), into(9, carries);
      kernels::check(p, g);
      if (!call.q.is_meta()) kernels::linear_chunk_backward(p, g);
    }
    return once_differentiable(std::move(result), call.name());
  }
};

}  // namespace

torch::ScalarType side_dtype(const Tensor& tensor) {
  return tensor.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
}

Tensor expand_heads(const Tensor& x, int64_t heads) {
  if (x.size(1) == heads) return x;
  require(x.size(1) >= 1 && heads % x.size(1) == 0, "{} heads beside {}: a divisor is accepted", x.size(1), heads);
  return x.repeat_interleave(heads / x.size(1), 1);
}

int64_t ChunkCall::heads() const {
  int64_t most = std::max({q.size(1), k.size(1), v.size(1)});
  for (const auto* side : {&beta, &log_decay, &initial_state, &pairs})
    if (side->defined()) most = std::max(most, side->size(1));
  return most;
}

void ChunkCall::allocate_outputs() {
  const auto side = q.options().dtype(side_dtype(q));
  const int64_t sequences = cu_seqlens.defined() ? cu_seqlens.numel() - 1 : q.size(0);
  out = torch::empty({q.size(0), heads(), q.size(2), v.size(3)}, wide_out ? side : q.options());
  state = torch::empty({sequences, heads(), q.size(3), v.size(3)}, side);
}

template <class Params>
void ChunkCall::fill(Params& p) const {
  p.q = checked_view(q), p.k = checked_view(k), p.v = checked_view(v);
  if (log_decay.defined()) p.log_decay = checked_view(log_decay);
  if (initial_state.defined()) p.initial_state = checked_view(initial_state);
  if constexpr (std::is_same_v<Params, kernels::LinearChunkParams>) {
    p.segment = segment;
    if (pairs.defined())
      p.coefficients = {checked_view(pairs), checked_view(reads), checked_view(writes), checked_view(carries)};
  }
  p.out.size = {q.size(0), heads(), q.size(2), v.size(3)};
  if (out.defined()) p.out = checked_view(out);
  if (state.defined()) p.final_state = checked_view(state);
  p.scale = scale;
  p.chunk = chunk;
  if (cu_seqlens.defined()) {
    p.cu_seqlens = cu_seqlens.data_ptr<int64_t>();
    p.num_sequences = cu_seqlens.numel() - 1;
  }
}

kernels::LinearChunkParams ChunkCall::linear() const {
  kernels::LinearChunkParams p;
  fill(p);
  return p;
}

kernels::DeltaChunkParams ChunkCall::delta() const {
  kernels::DeltaChunkParams p;
  fill(p);
  p.beta = checked_view(beta);
  return p;
}

ChunkCall make_call(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& beta,
                    const std::optional<Tensor>& log_decay, const std::optional<Tensor>& initial_state,
                    const std::optional<Tensor>& cu_seqlens) {
  for (const auto& [tensor, name] : {std::pair{&q, "q"}, {&k, "k"}, {&v, "v"}}) {
    require(tensor->defined(), "{}: {} is missing", op, name);
    require(tensor->dim() == 4, "{}: {} has shape {}: [batch, heads, tokens, head size] is accepted", op, name,
            shape_of(*tensor));
    require(tensor->device().is_cpu() || tensor->is_meta(), "{}: {} is on {}: the CPU is accepted", op, name,
            tensor->device().str());
  }
  const auto side = [&](const Tensor& tensor, const char* name, std::initializer_list<int64_t> dimensions) {
    require(tensor.is_floating_point(), "{}: {} has type {}: floating point is accepted", op, name,
            toString(tensor.scalar_type()));
    require(std::find(dimensions.begin(), dimensions.end(), tensor.dim()) != dimensions.end(),
            "{}: {} has shape {}: {} dimensions are accepted", op, name, shape_of(tensor),
            fmt::join(dimensions, " or "));
    return tensor.to(side_dtype(q));
  };
  ChunkCall call;
  call.q = dense(q), call.k = dense(k), call.v = dense(v);
  if (log_decay && log_decay->defined()) {
    call.log_decay = beta.defined() ? side(*log_decay, "log_decay", {1, 3}) : side(*log_decay, "log_decay", {1, 3, 4});
    if (call.log_decay.dim() == 1) call.log_decay = call.log_decay.view({1, -1, 1, 1});
    if (call.log_decay.dim() == 3) call.log_decay = call.log_decay.unsqueeze(3);
    call.log_decay = dense(call.log_decay);
  }
  if (beta.defined()) call.beta = dense(side(beta, "beta", {3}).unsqueeze(3));
  if (initial_state && initial_state->defined()) call.initial_state = dense(side(*initial_state, "initial_state", {4}));
  if (cu_seqlens && cu_seqlens->defined()) {
    require(cu_seqlens->dim() == 1 && cu_seqlens->numel() >= 2 && !cu_seqlens->is_floating_point(),
            "{}: cu_seqlens has shape {} and type {}: at least 2 integers are accepted", op, shape_of(*cu_seqlens),
            toString(cu_seqlens->scalar_type()));
    call.cu_seqlens = cu_seqlens->to(torch::kCPU, torch::kInt64).contiguous();
  }
  return call;
}

void run(ChunkCall& call) {
  bool grad = false;
  for (const auto* input : {&call.q, &call.k, &call.v, &call.beta, &call.log_decay, &call.initial_state, &call.pairs,
                            &call.reads, &call.writes, &call.carries})
    grad |= input->defined() && input->requires_grad();
  if (!grad || !torch::GradMode::is_enabled()) {
    torch::NoGradGuard no_grad;
    forward(call, RunForward());
    return;
  }
  const auto results =
      ChunkFunction::apply(call.q, call.k, call.v, if_defined(call.beta), if_defined(call.log_decay),
                           if_defined(call.initial_state), if_defined(call.pairs), if_defined(call.reads),
                           if_defined(call.writes), if_defined(call.carries), std::make_shared<ChunkCall>(call));
  call.out = results[0];
  call.state = results[1];
}

}  // namespace heed::ops
