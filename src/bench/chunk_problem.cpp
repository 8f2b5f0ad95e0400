#include "bench/chunk_problem.h"

#include <algorithm>
#include <cmath>

#include "kernels/reference/element.h"

namespace heed::bench {

using kernels::AnyView;
using kernels::DeltaChunkGrads;
using kernels::DeltaChunkParams;
using kernels::DType;
using kernels::LinearChunkGrads;
using kernels::LinearChunkParams;
using Call = KernelCase::Call;

namespace {

template <class Change>
void change_all(Buffer& buffer, const Change& change) {
  auto* data = static_cast<float*>(buffer.view().data);
  for (int64_t i = 0; i < buffer.count(); ++i) data[i] = change(data[i]);
}

void normalise_rows(Buffer& buffer) {
  auto* data = static_cast<float*>(buffer.view().data);
  const int64_t width = buffer.view().size[3];
  for (int64_t row = 0; row < buffer.count(); row += width) {
    float sum = 1e-12f;
    for (int64_t c = 0; c < width; ++c) sum += data[row + c] * data[row + c];
    for (int64_t c = 0; c < width; ++c) data[row + c] /= std::sqrt(sum);
  }
}

/// The first tokens of the first head; of a constant, its first head.
AnyView beginning(AnyView view, int64_t tokens) {
  if (view.size[1] > 0) view.size[1] = 1;
  view.size[2] = std::min(view.size[2], tokens);
  return view;
}

}  // namespace

/// Double copies of what the reference reads; what is absent stays so.
struct ChunkCopies {
  AnyView of(const AnyView& from) { return from ? AnyView(buffers.emplace_back(in_double(from)).view()) : AnyView(); }
  std::vector<Buffer> buffers;
};

ChunkProblem::ChunkProblem(const KernelCase& c) : case_(c) {
  const DType type = DType::f32;
  const std::array<int64_t, 4> rows{c.batch, c.q_heads, c.queries, c.d}, tokens{c.batch, c.q_heads, c.queries, 1};
  q_ = Buffer(type, rows), k_ = Buffer(type, rows), v_ = Buffer(type, rows), out_ = Buffer(type, rows);
  state_ = Buffer(type, {c.batch, c.q_heads, c.d, c.d});
  q_.randomize(1), k_.randomize(2), v_.randomize(3);
  normalise_rows(k_);
  if (is_delta()) {
    beta_ = Buffer(type, tokens);
    beta_.randomize(4);
    change_all(beta_, [](float e) { return 1 / (1 + std::exp(-e)); });
  }
  if (has_coefficients()) {
    const int64_t chunk = LinearChunkParams().chunk;
    pairs_ = Buffer(type, {c.batch, c.q_heads, c.queries, chunk});
    reads_ = Buffer(type, tokens), writes_ = Buffer(type, tokens);
    carries_ = Buffer(type, {c.batch, c.q_heads, (c.queries + chunk - 1) / chunk, 1});
    // Titans' are products of decays and sums of such.
    uint64_t seed = 7;
    for (Buffer* buffer : {&pairs_, &reads_, &writes_, &carries_}) {
      buffer->randomize(seed++);
      change_all(*buffer, [](float e) { return 1 / (1 + std::exp(-e)); });
    }
  } else if (!c.decay.empty()) {
    log_decay_ = Buffer(type, c.decay == "channel"    ? rows
                              : c.decay == "constant" ? std::array<int64_t, 4>{1, c.q_heads, 1, 1}
                                                      : tokens);
    // As trained gates have them: memories of some tens of tokens.
    log_decay_.randomize(5);
    change_all(log_decay_, [](float e) { return -0.05f * std::fabs(e); });
  }
  if (!is_backward()) return;
  d_out_ = Buffer(type, rows), d_q_ = Buffer(type, rows), d_k_ = Buffer(type, rows), d_v_ = Buffer(type, rows);
  d_out_.randomize(6);
  if (is_delta()) d_beta_ = Buffer(type, tokens);
  if (log_decay_.view()) d_log_decay_ = Buffer(type, log_decay_.view().size);
}

template <class Params>
Params ChunkProblem::params() const {
  Params p;
  p.q = q_.view(), p.k = k_.view(), p.v = v_.view(), p.out = out_.view(), p.final_state = state_.view();
  if (log_decay_.view()) p.log_decay = log_decay_.view();
  if constexpr (std::is_same_v<Params, DeltaChunkParams>) {
    p.beta = beta_.view();
  } else if (has_coefficients()) {
    p.coefficients = {pairs_.view(), reads_.view(), writes_.view(), carries_.view()};
  }
  return p;
}

template <class Grads>
Grads ChunkProblem::grads() const {
  Grads g;
  g.d_out = d_out_.view(), g.d_q = d_q_.view(), g.d_k = d_k_.view(), g.d_v = d_v_.view();
  if (d_log_decay_.view()) g.d_log_decay = d_log_decay_.view();
  if constexpr (std::is_same_v<Grads, DeltaChunkGrads>) g.d_beta = d_beta_.view();
  return g;
}

void ChunkProblem::run() {
  switch (case_.call) {
    case Call::linear_chunk:
      return kernels::linear_chunk(params<LinearChunkParams>());
    case Call::linear_chunk_backward:
      return kernels::linear_chunk_backward(params<LinearChunkParams>(), grads<LinearChunkGrads>());
    case Call::delta_chunk:
      return kernels::delta_chunk(params<DeltaChunkParams>());
    default:
      return kernels::delta_chunk_backward(params<DeltaChunkParams>(), grads<DeltaChunkGrads>());
  }
}

CheckResult ChunkProblem::check(double work) {
  return is_delta() ? check_as<DeltaChunkParams, DeltaChunkGrads>(work)
                    : check_as<LinearChunkParams, LinearChunkGrads>(work);
}

// Heads do not see each other and tokens do not see those after them, so the reference computes the first of one head.
// Gradients also come from later tokens: those have no output gradient while the check runs.
template <class Params, class Grads>
CheckResult ChunkProblem::check_as(double work) {
  const double token_work = static_cast<double>(case_.d * case_.d) * (is_backward() ? 8 : 2);
  const int64_t tokens = std::clamp<int64_t>(static_cast<int64_t>(work / token_work),
                                             std::min<int64_t>(case_.queries, 200), case_.queries);
  const auto p = params<Params>();
  ChunkCopies copies;
  const auto copy = [&](const AnyView& view) { return copies.of(beginning(view, tokens)); };
  Params want;
  want.q = copy(p.q), want.k = copy(p.k), want.v = copy(p.v), want.log_decay = copy(p.log_decay);
  if constexpr (std::is_same_v<Params, DeltaChunkParams>) {
    want.beta = copy(p.beta);
  } else if (has_coefficients()) {
    const auto& [pairs, reads, writes, carries] = p.coefficients;
    want.coefficients = {copy(pairs), copy(reads), copy(writes),
                         copies.of(beginning(carries, (tokens + p.chunk - 1) / p.chunk))};
  }
  CheckResult result{0, is_backward() ? 1e-4 : 2e-5};
  const auto compare = [&](const AnyView& got, const Buffer& wanted) {
    result.error = std::max(result.error, relative_error(in_double(beginning(got, tokens)), wanted));
  };
  constexpr bool kDelta = std::is_same_v<Params, DeltaChunkParams>;
  want.q.size[0] = want.k.size[0] = want.v.size[0] = case_.batch;
  const Buffer out(DType::f64, want.v.size);
  want.out = out.view();
  if (!is_backward()) {
    run();
    if constexpr (kDelta) {
      kernels::reference::delta_chunk(want);
    } else {
      kernels::reference::linear_chunk(want);
    }
    compare(p.out, out);
    return result;
  }
  auto* d_out = static_cast<float*>(d_out_.view().data);
  const int64_t row = case_.d, rows = d_out_.count() / row;
  for (int64_t r = 0; r < rows; ++r)
    if (r % case_.queries >= tokens) std::fill_n(d_out + r * row, row, 0.0f);
  run();
  const auto g = grads<Grads>();
  Grads wanted;
  wanted.d_out = copy(g.d_out);
  const Buffer d_q(DType::f64, want.q.size), d_k(DType::f64, want.k.size), d_v(DType::f64, want.v.size),
      d_log_decay(DType::f64, want.log_decay.size);
  wanted.d_q = d_q.view(), wanted.d_k = d_k.view(), wanted.d_v = d_v.view();
  // A constant's gradient is a sum over all tokens and batch items, of which the first head has its own.
  if (want.log_decay) wanted.d_log_decay = d_log_decay.view();
  Buffer d_beta;
  if constexpr (kDelta) {
    d_beta = Buffer(DType::f64, want.beta.size);
    wanted.d_beta = d_beta.view();
    kernels::reference::delta_chunk_backward(want, wanted);
    compare(g.d_beta, d_beta);
  } else {
    kernels::reference::linear_chunk_backward(want, wanted);
  }
  compare(g.d_q, d_q), compare(g.d_k, d_k), compare(g.d_v, d_v);
  if (want.log_decay) compare(g.d_log_decay, d_log_decay);
  d_out_.randomize(6);
  return result;
}

}  // namespace heed::bench
