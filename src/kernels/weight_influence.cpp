#include "heed/kernels/weight_influence.h"

#include <cmath>

#include <omp.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "kernels/cpu/influence_task.h"
#include "kernels/cpu/scratch.h"
#include "kernels/reference/element.h"

namespace heed::kernels {

namespace {

/// The call with a stand-in for the output, which nobody reads.
FlashParams influence_problem(const FlashParams& params, const WeightInfluence& influence) {
  FlashParams p = params;
  p.out = influence.d_out;
  return p;
}

}  // namespace

void check(const FlashParams& p, const WeightInfluence& influence) {
  require(p.normalizer.kind == Normalizer::Kind::softmax, "weight_influence: only the softmax normaliser is accepted");
  require(!p.scores.multiplier && p.dropout.probability == 0,
          "weight_influence: weights with a multiplier or dropout are not accepted");
  require(p.cu_q == nullptr, "weight_influence: packed sequences are not accepted; a batch with lengths is");
  const auto &q = p.q.size, &d_out = influence.d_out.size;
  require(p.lse || is_empty(p.q), "weight_influence: the forward's lse is missing");
  require(influence.d_out.dtype == p.q.dtype, "weight_influence: d_out is {}; {} is accepted",
          name_of(influence.d_out.dtype), name_of(p.q.dtype));
  require(d_out == std::array<int64_t, 4>{q[0], q[1], q[2], p.v.size[3]},
          "weight_influence: d_out is [{}, {}, {}, {}]; [{}, {}, {}, {}] is accepted", d_out[0], d_out[1], d_out[2],
          d_out[3], q[0], q[1], q[2], p.v.size[3]);
  require(d_out[3] <= 1 || influence.d_out.stride[3] == 1,
          "weight_influence: the last dimension of d_out has stride {}; 1 is accepted", influence.d_out.stride[3]);
  check(influence_problem(p, influence));
  require(influence.query_block >= 1 && influence.key_block >= 1,
          "weight_influence: blocks of {} x {}; at least 1 x 1 is accepted", influence.query_block,
          influence.key_block);
  require(std::isfinite(influence.epsilon) && influence.epsilon >= 0,
          "weight_influence: epsilon is {}; a number of at least 0 is accepted", influence.epsilon);
  const DType type = p.q.dtype == DType::f64 ? DType::f64 : DType::f32;
  require(influence.influence.dtype == type, "weight_influence: the influence is {}; {} is accepted",
          name_of(influence.influence.dtype), name_of(type));
  const std::array<int64_t, 4> want{q[0], q[1], (q[2] + influence.query_block - 1) / influence.query_block,
                                    (p.k.size[2] + influence.key_block - 1) / influence.key_block};
  const auto& have = influence.influence.size;
  require(influence.influence || have[0] * have[1] * have[2] * have[3] == 0,
          "weight_influence: the influence has no data");
  require(have == want, "weight_influence: the influence is [{}, {}, {}, {}]; [{}, {}, {}, {}] is accepted", have[0],
          have[1], have[2], have[3], want[0], want[1], want[2], want[3]);
}

void weight_influence(const FlashParams& params, const WeightInfluence& influence) {
  if (use_reference() || params.q.dtype == DType::f64) return reference::weight_influence(params, influence);
  check(params, influence);
  const FlashParams p = influence_problem(params, influence);
  fill(influence.influence, 0);
  if (is_empty(p.q) || p.k.size[2] == 0) return;
  const FlashTask task(p);
  const auto& size = influence.influence.size;
  const int64_t items = size[0] * size[1] * size[2];
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), items));
  const int64_t bytes = influence_scratch_bytes(task, influence);
  const Block scratch = allocate(bytes * threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t t = 0; t < items; ++t) {
    const InfluenceItem item{t / (size[1] * size[2]), t / size[2] % size[1], t % size[2]};
    run_influence_item(task, influence, item, static_cast<char*>(scratch.get()) + bytes * omp_get_thread_num());
  }
}

}  // namespace heed::kernels
