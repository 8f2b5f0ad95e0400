#include "heed/ops/delta_chunk.h"

#include <torch/library.h>

#include "heed/error.h"
#include "ops/chunk_call.h"
#include "ops/optional_tensor.h"

namespace heed::ops {
namespace {

using torch::Tensor;

std::tuple<Tensor, Tensor> delta_chunk_op(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& beta,
                                          const OptionalTensor& log_decay, const OptionalTensor& initial_state,
                                          const OptionalTensor& cu_seqlens, double scale, int64_t chunk) {
  const auto result =
      delta_chunk(q, k, v, beta, present(log_decay), present(initial_state), {scale, chunk, present(cu_seqlens)});
  return {result.out, result.state};
}

}  // namespace

DeltaChunkOutput delta_chunk(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& beta,
                             const std::optional<Tensor>& log_decay, const std::optional<Tensor>& initial_state,
                             const DeltaChunkOptions& options) {
  require(beta.defined(), "delta_chunk: beta is missing");
  auto call = make_call("delta_chunk", q, k, v, beta, log_decay, initial_state, options.cu_seqlens);
  call.scale = options.scale;
  call.chunk = options.chunk;
  run(call);
  return {call.out, call.state};
}

}  // namespace heed::ops

TORCH_LIBRARY_FRAGMENT(heed, library) {
  library.def(
      "delta_chunk(Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? log_decay=None, Tensor? initial_state=None, "
      "Tensor? cu_seqlens=None, float scale=1., int chunk=64) -> (Tensor out, Tensor state)");
}
TORCH_LIBRARY_IMPL(heed, Autograd, library) { library.impl("delta_chunk", &heed::ops::delta_chunk_op); }
TORCH_LIBRARY_IMPL(heed, CPU, library) { library.impl("delta_chunk", &heed::ops::delta_chunk_op); }
TORCH_LIBRARY_IMPL(heed, Meta, library) { library.impl("delta_chunk", &heed::ops::delta_chunk_op); }
