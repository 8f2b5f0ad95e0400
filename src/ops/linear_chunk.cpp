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
                                           int64_t chunk, int64_t segment) {
  const auto result = linear_chunk(q, k, v, present(log_decay), present(initial_state),
                                   {scale, normalize, eps, chunk, present(cu_seqlens), segment});
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
  call.segment = options.segment;
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
  require(pairs.dim() == 4 && reads.dim() == 3 && writes.dim() == 3 && carries.dim() == 3,
          "linear_coefficients: pairs, reads, writes, carries have {}, {}, {}, {} dimensions: 4, 3, 3, 3 are accepted",
          pairs.dim(), reads.dim(), writes.dim(), carries.dim());
  auto call = make_call("linear_coefficients", q, k, v, {}, {}, initial_state, {});
  call.chunk = pairs.size(3);
  const auto expanded = [&](const Tensor& x, int64_t rows) {
    auto sizes = x.sizes().vec();
    if (sizes[0] == 1) sizes[0] = q.size(0);
    if (sizes[2] == 1) sizes[2] = rows;
    return x.to(side_dtype(q)).expand(sizes).contiguous();
  };
  const int64_t tokens = q.size(2), chunks = (tokens + call.chunk - 1) / std::max<int64_t>(call.chunk, 1);
  call.pairs = expanded(pairs, tokens);
  call.reads = expanded(reads, tokens).unsqueeze(3);
  call.writes = expanded(writes, tokens).unsqueeze(3);
  call.carries = expanded(carries, chunks).unsqueeze(3);
  run(call);
  return {call.out, call.state};
}

}  // namespace heed::ops

TORCH_LIBRARY_FRAGMENT(heed, library) {
  library.def(
      "linear_chunk(Tensor q, Tensor k, Tensor v, Tensor? log_decay=None, Tensor? initial_state=None, Tensor? "
      "cu_seqlens=None, float scale=1., bool normalize=False, float eps=1e-06, int chunk=64, int segment=0) -> (Tensor "
      "out, Tensor state)");
}
TORCH_LIBRARY_IMPL(heed, Autograd, library) { library.impl("linear_chunk", &heed::ops::linear_chunk_op); }
TORCH_LIBRARY_IMPL(heed, CPU, library) { library.impl("linear_chunk", &heed::ops::linear_chunk_op); }
TORCH_LIBRARY_IMPL(heed, Meta, library) { library.impl("linear_chunk", &heed::ops::linear_chunk_op); }
