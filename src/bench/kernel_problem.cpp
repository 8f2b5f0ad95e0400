#include "bench/kernel_problem.h"

#include <cmath>

#include "heed/kernels/mask_text.h"
#include "kernels/reference/element.h"

namespace heed::bench {

using kernels::AnyView;
using kernels::DType;
using Call = KernelCase::Call;

namespace {

/// Rows of random numbers become a page's maxima, not below 0, and minima, not above: the sign is an element's top bit.
void make_extremes(const AnyView& view) {
  const auto width = static_cast<int64_t>(size_of(view.dtype)), row = view.size[3], half = row / 2;
  const int64_t elements = view.size[0] * view.stride[0];
  auto* top = static_cast<unsigned char*>(view.data) + width - 1;
  for (int64_t i = 0; i < elements; ++i, top += width)
    *top = static_cast<unsigned char>((*top & 0x7F) | (i % row < half ? 0 : 0x80));
}

}  // namespace

KernelProblem::KernelProblem(const KernelCase& c, int64_t rotated_bytes)
    : case_(c), mask_(kernels::parse_mask(c.mask)) {
  if (c.is_scan()) {
    scan_ = std::make_unique<ScanProblem>(c);
    return;
  }
  if (c.is_chunk()) {
    chunk_ = std::make_unique<ChunkProblem>(c);
    return;
  }
  // A call with an int8 cache has 16-bit queries.
  const DType type = c.dtype == DType::i8 ? DType::f16 : c.dtype;
  q_ = Buffer(type, {c.batch, c.q_heads, c.queries, c.d});
  out_ = Buffer(type, q_.view().size);
  q_.randomize(1);
  const std::array<int64_t, 4> keys{c.batch, c.kv_heads, c.keys, c.d};
  if (c.bound_by_reading()) {
    const bool bounds = c.call == Call::bounds;
    const int64_t slots = bounds ? (c.keys + c.block - 1) / c.block : c.keys;
    if (c.call != Call::decode) scores_ = Buffer(DType::f32, {c.batch, c.kv_heads, c.queries, slots});
    lengths_.assign(c.batch, c.keys);
    const auto count = static_cast<size_t>(std::max(1.0, std::ceil(static_cast<double>(rotated_bytes) / c.kv_bytes())));
    for (size_t i = 0; i < count; ++i) {
      auto& cache = caches_.emplace_back();
      cache.k = Buffer(c.dtype, bounds ? std::array<int64_t, 4>{c.batch, c.kv_heads, slots, 2 * c.d} : keys);
      cache.k.randomize(10 + i);
      if (bounds) make_extremes(cache.k.view());
      if (c.call != Call::decode) continue;
      cache.v = Buffer(c.dtype, keys);
      cache.v.randomize(1000 + i);
      if (c.dtype != DType::i8) continue;
      // A scale a slot brings the integers to deviation 1.
      cache.scale = Buffer(DType::f32, {c.batch, c.kv_heads, c.keys, 1});
      kernels::fill(cache.scale.view(), std::sqrt(3.0) / 127);
    }
    return;
  }
  if (!c.pattern.empty()) blocks_ = std::make_unique<OwnedBlockList>(c.pattern, c.queries, c.keys, c.block);
  k_ = Buffer(type, keys);
  v_ = Buffer(type, keys);
  k_.randomize(2);
  v_.randomize(3);
  lse_ = Buffer(DType::f32, {c.batch, c.q_heads, c.queries, 1});
  if (c.call != Call::backward) return;
  d_out_ = Buffer(type, out_.view().size);
  d_out_.randomize(4);
  d_q_ = Buffer(type, q_.view().size);
  d_k_ = Buffer(type, keys);
  d_v_ = Buffer(type, keys);
  c.around ? kernels::neighborhood_forward(near()) : kernels::flash_forward(flash());
}

kernels::FlashParams KernelProblem::flash() const {
  kernels::FlashParams p;
  p.q = q_.view(), p.k = k_.view(), p.v = v_.view(), p.out = out_.view(), p.lse = lse_.view();
  p.mask = mask_;
  if (blocks_) p.blocks = &blocks_->list;
  return p;
}

kernels::FlashGrads KernelProblem::grads() const {
  kernels::FlashGrads g;
  g.d_out = d_out_.view();
  g.d_q = d_q_.view(), g.d_k = d_k_.view(), g.d_v = d_v_.view();
  return g;
}

kernels::DecodeParams KernelProblem::decode(size_t cache) const {
  const Cache& from = caches_[cache];
  kernels::DecodeParams p;
  p.q = q_.view(), p.out = out_.view();
  p.k.data = from.k.view(), p.v.data = from.v.view();
  if (from.scale.view()) p.k.scale = p.v.scale = from.scale.view().as<const float>();
  p.num_kv_heads = case_.kv_heads;
  p.lengths = lengths_.data();
  p.mask = mask_;
  return p;
}

kernels::SlotScoresParams KernelProblem::scores(size_t cache) const {
  kernels::SlotScoresParams p;
  p.q = q_.view(), p.k.data = caches_[cache].k.view();
  p.num_kv_heads = case_.kv_heads, p.lengths = lengths_.data();
  p.heads = kernels::HeadReduction::max;
  p.scores = scores_.view().as<float>();
  return p;
}

kernels::PageBoundsParams KernelProblem::bounds(size_t cache) const {
  kernels::PageBoundsParams p;
  p.q = q_.view(), p.extremes = caches_[cache].k.view();
  p.page_slots = case_.block, p.lengths = lengths_.data();
  p.heads = kernels::HeadReduction::max;
  p.bounds = scores_.view().as<float>();
  return p;
}

void KernelProblem::run_backward(const kernels::FlashGrads& g) {
  case_.around ? kernels::neighborhood_backward(near(), g) : kernels::flash_backward(flash(), g);
}

void KernelProblem::run() {
  if (scan_) return scan_->run();
  if (chunk_) return chunk_->run();
  const size_t cache = turn_;
  if (case_.bound_by_reading()) turn_ = (turn_ + 1) % caches_.size();
  switch (case_.call) {
    case Call::forward:
      return case_.around ? kernels::neighborhood_forward(near()) : kernels::flash_forward(flash());
    case Call::backward:
      return run_backward(grads());
    case Call::decode:
      return kernels::decode(decode(cache));
    case Call::scores:
      return kernels::slot_scores(scores(cache));
    case Call::bounds:
      return kernels::page_bounds(bounds(cache));
    default:
      return;
  }
}

}  // namespace heed::bench
