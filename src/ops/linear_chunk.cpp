#include "heed/ops/linear_chunk.h"

#include <torch/library.h>

#include "heed/error.h"
#include "ops/chunk_call.h"
#include "ops/optional_tensor.h"

namespace heed::ops {
namespace {

using torch::Tensor;

Tensor with_ones(const Tensor& v) {
  auto ones = v.sizes().vec();
  ones.back() = 1;
  return torch::cat({v, torch::ones(ones, v.options())}, -1);
}

/// The last column is the others' denominator.
Tensor divided(const Tensor& sums, double eps) {
  const int64_t columns = sums.size(-1) - 1;
  return sums.narrow(-1, 0, columns) / sums.narrow(-1, columns, 1).clamp_min(eps);
}

std::tuple<Tensor, Tensor> linear_chunk_op(const Tensor& q, const Tensor& k, const Tensor& v,
                                           const OptionalTensor& log_decay, const OptionalTensor& initial_state,
                                           const OptionalTensor& cu_seqlens, double scale, bool normalize, double eps,
                                           int64_t chunk) {
  const auto result = linear_chunk(q, k, v, present(log_decay), present(initial_state),
                                   {scale, normalize, eps, chunk, present(cu_seqlens)});
  return {result.out, result.state};
}

}  // namespace

LinearChunkOutput linear_chunk(const Tensor& q, const Tensor& k, const Tensor& v,
                               const std::optional<Tensor>& log_decay, const std::optional<Tensor>& initial_state,
                               const LinearChunkOptions& options) {
  require(!options.normalize || options.eps >= 0, "linear_chunk: eps is {}: at least 0 is accepted", options.eps);
  auto call = make_call("linear_chunk", q, k, v, {}, log_decay, initial_state, options.cu_seqlens);
  call.scale = options.scale;
  call.chunk = options.chunk;
  if (options.normalize) {
    call.v = with_ones(call.v);
    call.wide_out = true;
  }
  run(call);
  if (options.normalize) call.out = divided(call.out, options.eps).to(q.scalar_type());
  return {call.out, call.state};
}

Tensor linear_noncausal(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& key_padding,
                        bool normalize, double eps) {
  for (const auto& [tensor, name] : {std::pair{&q, "q"}, {&k, "k"}, {&v, "v"}})
    require(tensor->defined() && tensor->dim() == 4,
            "linear_noncausal: {}: [batch, heads, tokens, head size] is accepted", name);
  require(k.size(2) == v.size(2) && q.size(3) == k.size(3) && q.size(0) == k.size(0) && q.size(0) == v.size(0),
          "linear_noncausal: q [{}], k [{}], v [{}] do not fit: [B, Hq, N, Dk], [B, Hk, M, Dk], [B, Hv, M, Dv] are "
          "accepted",
          fmt::join(q.sizes(), ", "), fmt::join(k.sizes(), ", "), fmt::join(v.sizes(), ", "));
  const int64_t heads = std::max({q.size(1), k.size(1), v.size(1)}), shared = std::max(k.size(1), v.size(1));
  auto keys = expand_heads(k.to(side_dtype(k)), shared), values = v.to(side_dtype(v));
  if (normalize) values = with_ones(values);
  if (key_padding && key_padding->defined()) {
    require(key_padding->dim() == 2 && key_padding->size(0) == k.size(0) && key_padding->size(1) == k.size(2),
            "linear_noncausal: key_padding [{}]: [{}, {}] is accepted", fmt::join(key_padding->sizes(), ", "),
            k.size(0), k.size(2));
    // What is padding may be anything, NaN too.
    const auto padding = key_padding->to(torch::kBool).view({k.size(0), 1, k.size(2), 1});
    keys = keys.masked_fill(padding, 0);
    values = values.masked_fill(padding, 0);
  }
  const auto sums = torch::matmul(keys.transpose(2, 3), expand_heads(values, shared));
  const auto out = torch::matmul(expand_heads(q.to(side_dtype(q)), heads), expand_heads(sums, heads));
  return (normalize ? divided(out, eps) : out).to(q.scalar_type());
}

LinearChunkOutput linear_coefficients(const Tensor& q, const Tensor& k, const Tensor& v,
                                      const LinearCoefficients& coefficients,
                                      const std::optional<Tensor>& initial_state) {
  const auto& [pairs, reads, writes, carries] = coefficients;
  require(q.dim() == 4 && k.dim() == 4 && v.dim() == 4,
          "linear_coefficients: q, k, v of [batch, heads, tokens, head size] are accepted");
  require(pairs.dim() == 5 && reads.dim() == 3 && writes.dim() == 3 && carries.dim() == 3,
          "linear_coefficients: pairs, reads, writes, carries have {}, {}, {}, {} dimensions: 5, 3, 3, 3 are accepted",
          pairs.dim(), reads.dim(), writes.dim(), carries.dim());
  const int64_t batch = q.size(0), heads = std::max({q.size(1), k.size(1), v.size(1)}), tokens = q.size(2),
                chunks = carries.size(2), length = pairs.size(4);
  require(chunks >= 1 && chunks * length == tokens && pairs.size(3) == length,
          "linear_coefficients: {} tokens, {} chunks and pairs [{}]: [B, H, {}, {}, {}] is accepted", tokens, chunks,
          fmt::join(pairs.sizes(), ", "), chunks, tokens / std::max<int64_t>(chunks, 1),
          tokens / std::max<int64_t>(chunks, 1));
  const auto cut = [&](const Tensor& x) { return expand_heads(x, heads).unflatten(2, {chunks, length}); };
  // A factor a token, over the channels; or one for all tokens.
  const auto cut_factor = [&](const Tensor& x, const char* name) {
    require(x.size(2) == tokens || x.size(2) == 1, "linear_coefficients: {} for {} tokens: {} is accepted", name,
            x.size(2), tokens);
    return x.size(2) == tokens ? x.unflatten(2, {chunks, length}).unsqueeze(4) : x.unsqueeze(3).unsqueeze(4);
  };
  const auto queries = cut(q), keys = cut(k), values = cut(v);
  const auto weights = (torch::matmul(queries, keys.transpose(3, 4)) * pairs).tril();
  const auto written = torch::matmul(keys.transpose(3, 4), values * cut_factor(writes, "writes"));
  Tensor state = initial_state && initial_state->defined()
                     ? *initial_state
                     : torch::zeros({batch, heads, q.size(3), v.size(3)}, q.options());
  require(state.dim() == 4 && state.size(0) == batch && state.size(1) == heads && state.size(2) == q.size(3) &&
              state.size(3) == v.size(3),
          "linear_coefficients: initial_state [{}]: [{}, {}, {}, {}] is accepted", fmt::join(state.sizes(), ", "),
          batch, heads, q.size(3), v.size(3));
  std::vector<Tensor> before;
  for (int64_t n = 0; n < chunks; ++n) {
    before.push_back(state);
    state = carries.select(2, n).unsqueeze(2).unsqueeze(3) * state + written.select(2, n);
  }
  const auto read = torch::matmul(queries, torch::stack(before, 2)) * cut_factor(reads, "reads");
  return {(read + torch::matmul(weights, values)).flatten(2, 3), state};
}

}  // namespace heed::ops

TORCH_LIBRARY_FRAGMENT(heed, library) {
  library.def(
      "linear_chunk(Tensor q, Tensor k, Tensor v, Tensor? log_decay=None, Tensor? initial_state=None, Tensor? "
      "cu_seqlens=None, float scale=1., bool normalize=False, float eps=1e-06, int chunk=64) -> (Tensor out, Tensor "
      "state)");
}
TORCH_LIBRARY_IMPL(heed, Autograd, library) { library.impl("linear_chunk", &heed::ops::linear_chunk_op); }
TORCH_LIBRARY_IMPL(heed, CPU, library) { library.impl("linear_chunk", &heed::ops::linear_chunk_op); }
TORCH_LIBRARY_IMPL(heed, Meta, library) { library.impl("linear_chunk", &heed::ops::linear_chunk_op); }
