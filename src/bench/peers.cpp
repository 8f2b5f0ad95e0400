// The same cases through what the linked libtorch offers.
#include <fmt/format.h>
#include <torch/torch.h>
#include <torch/version.h>

#include <functional>

#include "bench/kernel_problem.h"
#include "heed/bench/kernel_bench.h"
#include "heed/bench/measure.h"

namespace heed::bench {
namespace {

using kernels::DType;
using torch::Tensor;
using Call = KernelCase::Call;

/// Share of the free memory that a peer's N x M tensors may take.
constexpr double kMemoryShare = 0.6;
constexpr double kSeconds = 1.5;
constexpr int kLeastCalls = 3, kMostCalls = 50;

torch::ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return torch::kFloat16;
    case DType::bf16:
      return torch::kBFloat16;
    case DType::f64:
      return torch::kFloat64;
    case DType::i8:
      return torch::kInt8;
    default:
      return torch::kFloat32;
  }
}

Tensor wrap(const kernels::AnyView& view) {
  return torch::from_blob(view.data, {view.size[0], view.size[1], view.size[2], view.size[3]}, scalar_type(view.dtype));
}

/// Queries that share keys become rows of one product, so that the peer need not copy keys.
Tensor group_rows(const Tensor& q, int64_t kv_heads) {
  return q.reshape({q.size(0), kv_heads, q.size(1) / kv_heads * q.size(2), q.size(3)});
}

/// Keys or values once for every query head, as these peers want them.
Tensor for_every_head(const Tensor& x, int64_t q_heads) {
  return x.size(1) == q_heads ? x : x.repeat_interleave(q_heads / x.size(1), 1);
}

bool is_causal_only(const KernelCase& c) { return c.mask == "causal" && c.queries == c.keys; }

/// Bool [N, M], true where visible; undefined when everything is.
Tensor mask_of(const KernelCase& c, const kernels::Mask& mask) {
  if (c.mask.empty() || c.call == Call::decode) return {};
  const auto i = torch::arange(c.queries).unsqueeze(1) + (c.keys - c.queries), j = torch::arange(c.keys).unsqueeze(0);
  if (c.mask == "causal") return j <= i;
  auto visible = torch::empty({c.queries, c.keys}, torch::kBool);
  auto* to = visible.data_ptr<bool>();
  for (int64_t n = 0; n < c.queries; ++n)
    for (int64_t m = 0; m < c.keys; ++m) *to++ = mask.visible({0, 0, c.queries, c.keys}, n, m);
  return visible;
}

Tensor product_softmax_product(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& hidden) {
  auto logits = torch::matmul(q * (1 / std::sqrt(double(q.size(3)))), k.transpose(2, 3));
  if (hidden.defined()) logits = logits.masked_fill(hidden, -INFINITY);
  return torch::matmul(torch::softmax(logits, -1), v);
}

Tensor torch_sdpa(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& visible, bool causal) {
  const c10::optional<Tensor> mask = visible.defined() && !causal ? c10::optional<Tensor>(visible) : c10::nullopt;
#if TORCH_VERSION_MAJOR >= 2
  return at::scaled_dot_product_attention(q, k, v, mask, 0.0, causal);
#else
  return std::get<0>(at::_scaled_dot_product_attention(q, k, v, mask, 0.0, false, causal));
#endif
}

/// Bytes of the tensors of N x M that the plain formula holds at once.
double square_bytes(const KernelCase& c) {
  if (c.is_scan() || c.is_chunk()) return 0;
  const double copies = c.call == Call::backward ? 5 : 3;
  return copies * double(c.batch * c.q_heads) * double(c.queries) * double(c.keys) * double(size_of(c.dtype));
}

std::string reason_to_skip(const KernelCase& c) {
  if (!c.pattern.empty()) return "libtorch has no block-sparse attention";
  if (c.around) return "libtorch has no attention to neighbourhoods";
  if (c.call == Call::scores || c.call == Call::bounds) return "libtorch has no call that scores a cache";
  if (c.is_chunk()) return "libtorch has no recurrence";
  if (c.is_scan() && c.call != Call::selective_scan) return "libtorch has no scan";
  if (c.dtype == DType::i8) return "libtorch has no attention over int8 caches";
  const auto free = double(available_bytes());
  if (free > 0 && square_bytes(c) > kMemoryShare * free)
    return fmt::format("needs about {:.1f} GB for its N x M tensors; {:.1f} GB are free", square_bytes(c) * 1e-9,
                       free * 1e-9);
  return {};
}

struct Peer {
  std::string name;
  std::function<Tensor(const Tensor& q, const Tensor& k, const Tensor& v)> attention;
};

/// One call of a peer on the problem's tensors.
std::function<void(int64_t)> call_of(const Peer& peer, const KernelProblem& problem) {
  const auto& c = problem.shape();
  if (c.call == Call::decode) {
    std::vector<std::pair<Tensor, Tensor>> caches;
    for (size_t i = 0; i < problem.caches(); ++i) {
      const auto p = problem.decode(i);
      caches.emplace_back(wrap(p.k.data), wrap(p.v.data));
    }
    const auto q = group_rows(wrap(problem.decode(0).q), c.kv_heads);
    return [=](int64_t turn) {
      torch::NoGradGuard no_grad;
      const auto& [k, v] = caches[size_t(turn) % caches.size()];
      peer.attention(q, k, v);
    };
  }
  const auto p = problem.flash();
  const auto q = wrap(p.q), k = wrap(p.k), v = wrap(p.v);
  if (c.call == Call::forward)
    return [=](int64_t) {
      torch::NoGradGuard no_grad;
      peer.attention(q, for_every_head(k, c.q_heads), for_every_head(v, c.q_heads));
    };
  // Of the backward pass alone: the graph is built once and kept.
  std::vector<Tensor> inputs;
  for (const auto& x : {q, k, v}) inputs.push_back(x.detach().requires_grad_());
  const auto out =
      peer.attention(inputs[0], for_every_head(inputs[1], c.q_heads), for_every_head(inputs[2], c.q_heads));
  const auto d_out = wrap(problem.grads().d_out);
  return [=](int64_t) { torch::autograd::grad({out}, inputs, {d_out}, /*retain_graph=*/true); };
}

void measure(PeerResult& result, const std::function<void(int64_t)>& call, KernelProblem& problem) {
  call(0);
  problem.run();
  std::vector<double> theirs, ours;
  double spent = 0;
  for (int turn = 0; turn < kMostCalls && (turn < kLeastCalls || spent < kSeconds); ++turn) {
    const double start = now();
    call(turn);
    const double middle = now();
    problem.run();
    theirs.push_back(middle - start);
    ours.push_back(now() - middle);
    spent += theirs.back() + ours.back();
  }
  result.peer_ms = median(theirs) * 1e3;
  result.heed_ms = median(ours) * 1e3;
}

/// The selective scan as a loop over time, vectorised over batch, channels and states.
void loop_over_time(const kernels::SelectiveScanParams& p) {
  torch::NoGradGuard no_grad;
  const auto x = wrap(p.x).squeeze(1), delta = wrap(p.delta).squeeze(1), a = wrap(p.a)[0][0];
  const auto b = wrap(p.b).squeeze(1), c = wrap(p.c).squeeze(1);
  auto h = torch::zeros({x.size(0), x.size(2), a.size(1)});
  auto y = torch::empty_like(x);
  for (int64_t t = 0; t < x.size(1); ++t) {
    const auto step = delta.select(1, t).unsqueeze(2);
    h = torch::exp(step * a) * h + step * x.select(1, t).unsqueeze(2) * b.select(1, t).unsqueeze(1);
    y.select(1, t) = torch::matmul(h, c.select(1, t).unsqueeze(2)).squeeze(2);
  }
}

std::vector<PeerResult> measure_scan_peer(const KernelCase& c) {
  PeerResult result{.shape = c, .peer = "a loop over time"};
  if (result.skipped = reason_to_skip(c); !result.skipped.empty()) return {result};
  KernelProblem problem(c);
  if (!problem.check().passed()) throw Refused(fmt::format("{}: wrong against the double reference", c.id()));
  measure(
      result, [&](int64_t) { loop_over_time(problem.scan()->selective()); }, problem);
  return {result};
}

}  // namespace

std::vector<PeerResult> measure_peers(const KernelCase& c) {
  if (c.is_scan()) return measure_scan_peer(c);
  std::vector<PeerResult> results;
  for (const char* name : {"libtorch scaled_dot_product_attention", "matmul, softmax, matmul"}) {
    PeerResult result;
    result.shape = c;
    result.peer = name;
    result.skipped = reason_to_skip(c);
    results.push_back(result);
  }
  if (!results[0].skipped.empty()) return results;

  KernelProblem problem(c);
  const auto checked = problem.check();
  if (!checked.passed())
    throw Refused(fmt::format("{}: error {:.2e} against the double reference", c.id(), checked.error));
  const auto visible = mask_of(c, problem.flash().mask);
  const auto hidden = visible.defined() ? visible.logical_not() : Tensor();
  const bool causal = is_causal_only(c);
  const Peer peers[] = {
      {results[0].peer, [&](auto& q, auto& k, auto& v) { return torch_sdpa(q, k, v, visible, causal); }},
      {results[1].peer, [&](auto& q, auto& k, auto& v) { return product_softmax_product(q, k, v, hidden); }}};
  for (size_t i = 0; i < results.size(); ++i) {
    try {
      measure(results[i], call_of(peers[i], problem), problem);
    } catch (const c10::Error& error) {
      const std::string text = error.what_without_backtrace();
      results[i].skipped = text.substr(0, text.find('\n'));
    }
  }
  return results;
}

}  // namespace heed::bench
