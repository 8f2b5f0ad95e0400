#include "checkpoint/run_inputs.h"
#include "heed/kernels/linear_chunk.h"
#include "heed/nn/config.h"
#include "heed/ops/delta_chunk.h"
#include "heed/ops/linear_chunk.h"
#include "heed/ops/selective_scan.h"
#include "heed/ops/softmax_scan.h"
#include "heed/ops/toeplitz_fft.h"

namespace heed::checkpoint {
namespace {

using torch::Tensor;

/// Rates of forgetting are logarithms: numbers above 0 would grow without end, and NaN would be every later output.
void require_fading(const std::string& op, const char* name, const Tensor& rates) {
  if (!rates.defined() || rates.numel() == 0) return;
  const double largest = rates.detach().max().item<double>();
  require(largest <= 0, "op:{}: {} holds {}: at most 0 is accepted", op, name, largest);
}

TensorMap run_chunks(const std::string& name, const RunRequest& request, Inputs& inputs) {
  const auto q = inputs.required("q"), k = inputs.required("k"), v = inputs.required("v");
  ConfigReader reader("op:" + name, request.settings);
  ops::LinearChunkOptions o;
  o.scale = reader.get("scale", 1.0);
  o.chunk = reader.integer("chunk", 64, 1, kernels::kMostChunk);
  if (name == "delta_chunk") {
    const auto beta = inputs.required("beta"), g = inputs.optional("log_decay").value_or(Tensor());
    const auto state = inputs.optional("initial_state");
    o.cu_seqlens = inputs.optional("cu_seqlens");
    reader.finish();
    inputs.finish();
    require_fading(name, "log_decay", g);
    const auto result = ops::delta_chunk(q, k, v, beta, g, state, {o.scale, o.chunk, o.cu_seqlens});
    return {{"out", result.out}, {"state", result.state}};
  }
  o.normalize = reader.get("normalize", false);
  o.eps = reader.get("eps", 1e-6);
  if (!reader.get("causal", true)) {
    const auto padding = inputs.optional("key_padding");
    reader.finish();
    inputs.finish();
    return {{"out", ops::linear_noncausal(o.scale == 1 ? q : q * o.scale, k, v, padding, o.normalize, o.eps)}};
  }
  const auto g = inputs.optional("log_decay"), state = inputs.optional("initial_state");
  o.cu_seqlens = inputs.optional("cu_seqlens");
  reader.finish();
  inputs.finish();
  require_fading(name, "log_decay", g.value_or(Tensor()));
  const auto result = ops::linear_chunk(q, k, v, g, state, o);
  return {{"out", result.out}, {"state", result.state}};
}

}  // namespace

std::optional<TensorMap> run_recurrence(const std::string& name, const RunRequest& request, Inputs& inputs) {
  if (name == "linear_chunk" || name == "delta_chunk") return run_chunks(name, request, inputs);
  ConfigReader reader("op:" + name, request.settings);
  if (name == "selective_scan") {
    const auto x = inputs.required("x"), delta = inputs.required("delta"), a = inputs.required("A"),
               b = inputs.required("B"), c = inputs.required("C");
    const auto skip = inputs.optional("D"), z = inputs.optional("z"), bias = inputs.optional("delta_bias"),
               state = inputs.optional("initial_state");
    const ops::SelectiveScanOptions options{reader.get("delta_softplus", false), inputs.optional("cu_seqlens")};
    reader.finish(), inputs.finish();
    require_fading(name, "A", a.dim() == 3 ? a.select(2, 0) : a);  // of complex ones the real part
    const auto result = ops::selective_scan(x, delta, a, b, c, skip, z, bias, state, options);
    return TensorMap{{"out", result.out}, {"state", result.state}};
  }
  if (name == "softmax_scan") {
    const auto scores = inputs.required("scores"), v = inputs.required("v");
    const auto state = inputs.optional("initial_state");
    const ops::SoftmaxScanOptions options{inputs.optional("cu_seqlens")};
    reader.finish(), inputs.finish();
    const auto result = ops::softmax_scan(scores, v, state, options);
    return TensorMap{{"out", result.out}, {"lse", result.lse}, {"state", result.state}};
  }
  if (name == "toeplitz_fft") {
    const auto c = inputs.required("c"), x = inputs.required("x");
    const bool causal = reader.get("causal", true);
    reader.finish(), inputs.finish();
    return TensorMap{{"out", ops::toeplitz_fft(c, x, causal)}};
  }
  return std::nullopt;
}

}  // namespace heed::checkpoint
