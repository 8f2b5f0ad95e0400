#include "heed/ops/panel_attention.h"

#include <torch/library.h>

#include <cstring>

#include "heed/error.h"
#include "heed/ops/flash.h"
#include "ops/once_differentiable.h"

namespace heed::ops {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// One call, checked; keeps its tensors alive.
struct PanelCall {
  FlashCall flash;
  KeyPanels panels;

  PanelCall(const Tensor& q, const Tensor& k, const Tensor& v, const KeyPanels& chosen, double scale, double softcap)
      : flash(q, k, v, terms_of(scale, softcap)), panels(chosen) {}

  static AttentionOptions terms_of(double scale, double softcap) {
    AttentionOptions options;
    options.scale = scale, options.softcap = softcap;
    return options;
  }
  kernels::PanelParams params() const {
    kernels::BlockList none;
    return {flash.params(none), panels.view()};
  }
  void forward() {
    flash.allocate_outputs();
    if (!flash.q.is_meta()) kernels::panel_attention(params());
  }
};

struct PanelFunction : torch::autograd::Function<PanelFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                               const KeyPanels& panels, double scale, double softcap) {
    PanelCall call(q, k, v, panels, scale, softcap);
    call.forward();
    ctx->save_for_backward({q, k, v, call.flash.out, call.flash.lse, panels.offsets, panels.keys, panels.seen});
    ctx->saved_data["sizes"] = std::vector<int64_t>{panels.batch, panels.choosers, panels.queries, panels.block};
    ctx->saved_data["scale"] = scale, ctx->saved_data["softcap"] = softcap;
    return {call.flash.out, call.flash.lse};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto sizes = ctx->saved_data["sizes"].toIntVector();
    const KeyPanels panels{saved[5], saved[6], saved[7], sizes[0], sizes[1], sizes[2], sizes[3]};
    PanelCall call(saved[0], saved[1], saved[2], panels, ctx->saved_data["scale"].toDouble(),
                   ctx->saved_data["softcap"].toDouble());
    call.flash.out = saved[3], call.flash.lse = saved[4];
    auto d_out = grads[0].defined() ? grads[0].to(call.flash.q.scalar_type()) : torch::zeros_like(saved[3]);
    if (d_out.size(3) > 1 && d_out.stride(3) != 1) d_out = d_out.contiguous();
    Tensor d_lse;
    kernels::FlashGrads g;
    g.d_out = view_of(d_out);
    if (grads[1].defined()) {
      d_lse = grads[1].to(call.flash.side_dtype()).contiguous();
      g.d_lse = view_of(d_lse);
    }
    variable_list result(6);
    kernels::AnyView* const targets[] = {&g.d_q, &g.d_k, &g.d_v};
    for (size_t i = 0; i < 3; ++i) {
      if (!ctx->needs_input_grad(i)) continue;
      result[i] = torch::empty(saved[i].sizes(), saved[i].options());
      *targets[i] = view_of(result[i]);
    }
    if (!call.flash.q.is_meta()) kernels::panel_attention_backward(call.params(), g);
    return once_differentiable(std::move(result), "panel_attention");
  }
};

std::tuple<Tensor, Tensor> panel_attention_op(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& offsets,
                                              const Tensor& keys, const Tensor& seen, int64_t choosers, int64_t block,
                                              double scale, double softcap) {
  const KeyPanels panels{offsets, keys, seen, q.size(0), choosers, q.size(2), block};
  const auto result = panel_attention(q, k, v, panels, scale, softcap);
  return {result.out, result.lse};
}

Tensor dense_of(const Tensor& x, torch::ScalarType type, const char* name) {
  require(x.defined() && x.dim() == 1 && x.scalar_type() == type, "key panels: {}: one dimension of {} is accepted",
          name, toString(type));
  return x.contiguous();
}

/// The kernel trusts its pointers.
void check_sizes(const KeyPanels& panels) {
  require(panels.block >= 1, "key panels of {} queries a block: 1 or more are accepted", panels.block);
  const auto view = panels.view();
  require(panels.offsets.numel() == view.list_rows() + 1, "key panels: {} offsets: {} are accepted",
          panels.offsets.numel(), view.list_rows() + 1);
  int64_t words = 0;
  for (int64_t r = 0; r < view.list_rows(); ++r)
    words += view.block * ((std::max<int64_t>(0, view.offsets[r + 1] - view.offsets[r]) + 63) / 64);
  require(panels.keys.numel() == view.offsets[view.list_rows()], "key panels: {} keys: {} are accepted",
          panels.keys.numel(), view.offsets[view.list_rows()]);
  require(panels.seen.numel() == words, "key panels: {} words of bits: {} are accepted", panels.seen.numel(), words);
}

}  // namespace

kernels::KeyPanels KeyPanels::view() const {
  return {offsets.data_ptr<int64_t>(),
          keys.data_ptr<int32_t>(),
          reinterpret_cast<const uint64_t*>(seen.data_ptr()),
          batch,
          choosers,
          queries,
          block};
}

KeyPanel::KeyPanel(int64_t rows, std::vector<int32_t> keys)
    : keys_(std::move(keys)), words_((int64_t(keys_.size()) + 63) / 64), seen_(size_t(rows * words_), 0) {}

void KeyPanel::see(int64_t query, int64_t begin, int64_t end) {
  uint64_t* const words = row(query);
  for (int64_t at = begin; at < end;) {
    const int64_t next = std::min(end, at / 64 * 64 + 64), count = next - at;
    words[at / 64] |= (count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1) << (at % 64);
    at = next;
  }
}

KeyPanels key_panels(int64_t batch, int64_t choosers, int64_t queries, int64_t block, const PanelChoice& choose) {
  const int64_t blocks = (queries + block - 1) / block, count = batch * choosers * blocks;
  std::vector<KeyPanel> chosen(size_t(count), KeyPanel(0, {}));
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t first = r % blocks * block;
      chosen[size_t(r)] = choose(r / blocks / choosers, r / blocks % choosers, first, std::min(block, queries - first));
    }
  });
  KeyPanels panels;
  panels.batch = batch, panels.choosers = choosers, panels.queries = queries, panels.block = block;
  panels.offsets = torch::zeros({count + 1}, torch::kInt64);
  auto* const offsets = panels.offsets.data_ptr<int64_t>();
  std::vector<int64_t> words{0};
  for (int64_t r = 0; r < count; ++r) {
    offsets[r + 1] = offsets[r] + int64_t(chosen[size_t(r)].keys().size());
    words.push_back(words.back() + int64_t(chosen[size_t(r)].seen().size()));
  }
  panels.keys = torch::empty({offsets[count]}, torch::kInt32);
  panels.seen = torch::empty({words.back()}, torch::kInt64);
  for (int64_t r = 0; r < count; ++r) {
    const auto& [keys, seen] = std::pair{chosen[size_t(r)].keys(), chosen[size_t(r)].seen()};
    std::copy(keys.begin(), keys.end(), panels.keys.data_ptr<int32_t>() + offsets[r]);
    std::memcpy(panels.seen.data_ptr<int64_t>() + words[size_t(r)], seen.data(), seen.size() * sizeof(uint64_t));
  }
  return panels;
}

PanelResult panel_attention(const Tensor& q, const Tensor& k, const Tensor& v, const KeyPanels& panels, double scale,
                            double softcap) {
  auto own = panels;
  own.offsets = dense_of(panels.offsets, torch::kInt64, "offsets");
  own.keys = dense_of(panels.keys, torch::kInt32, "keys");
  own.seen = dense_of(panels.seen, torch::kInt64, "seen");
  check_sizes(own);
  if (torch::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad())) {
    const auto result = PanelFunction::apply(q, k, v, own, scale, softcap);
    return {result[0], result[1]};
  }
  torch::NoGradGuard no_grad;
  PanelCall call(q, k, v, own, scale, softcap);
  call.forward();
  return {call.flash.out, call.flash.lse};
}

}  // namespace heed::ops

TORCH_LIBRARY_FRAGMENT(heed, library) {
  library.def(
      "panel_attention(Tensor q, Tensor k, Tensor v, Tensor offsets, Tensor keys, Tensor seen, int choosers, int "
      "block, float scale=0., float softcap=0.) -> (Tensor out, Tensor lse)");
}
TORCH_LIBRARY_IMPL(heed, Autograd, library) { library.impl("panel_attention", &heed::ops::panel_attention_op); }
TORCH_LIBRARY_IMPL(heed, CPU, library) { library.impl("panel_attention", &heed::ops::panel_attention_op); }
TORCH_LIBRARY_IMPL(heed, Meta, library) { library.impl("panel_attention", &heed::ops::panel_attention_op); }
