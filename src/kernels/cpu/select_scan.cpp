#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/select_scan.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/lanes-inl.h"
#include "kernels/cpu/select_scan.h"
#include "kernels/select_problem.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

static_assert(kLanes <= kScanPadding);

void OrderScores(const float* HWY_RESTRICT row, int64_t count, bool weights, uint32_t* HWY_RESTRICT order) {
  const Lanes d;
  const Words du;
  const auto sign = hn::Set(du, 0x80000000u);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    // Adding 0 makes both zeros one.
    Vector score = hn::Add(hn::LoadU(d, row + i), hn::Zero(d));
    if (weights) score = hn::IfThenElseZero(hn::Gt(score, hn::Zero(d)), score);
    const auto bits = hn::BitCast(du, score);
    const auto negative = hn::BitCast(du, hn::BroadcastSignBit(hn::BitCast(Integers(), bits)));
    const auto ordered = hn::Xor(bits, hn::Or(negative, sign));
    hn::StoreU(hn::IfThenZeroElse(hn::RebindMask(du, hn::IsNaN(score)), ordered), du, order + i);
  }
  for (; i < count; ++i) order[i] = order_of(weights ? weight_in_mass(row[i]) : row[i]);
}

int64_t KeepBucket(const uint32_t* from, int64_t count, int shift, uint32_t mask, uint32_t bucket, uint32_t* to) {
  const Words du;
  const auto digit = hn::Set(du, mask << shift), wanted = hn::Set(du, bucket << shift);
  int64_t kept = 0, i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const auto order = hn::LoadU(du, from + i);
    kept += static_cast<int64_t>(hn::CompressStore(order, hn::Eq(hn::And(order, digit), wanted), du, to + kept));
  }
  for (; i < count; ++i) {
    const uint32_t order = from[i];
    if ((order >> shift & mask) == bucket) to[kept++] = order;
  }
  return kept;
}

int64_t ListAbove(const uint32_t* order, int64_t count, uint32_t threshold, int64_t ties, int64_t begin,
                  int32_t* list) {
  const Words du;
  const Integers di;
  const auto limit = hn::Set(du, threshold);
  int64_t taken = 0, i = 0;
  const auto scan = [&](int64_t end) {
    for (; i < end; ++i) {
      const bool tie = order[i] == threshold && ties > 0;
      ties -= tie ? 1 : 0;
      if (order[i] > threshold || tie) list[taken++] = static_cast<int32_t>(begin + i);
    }
  };
  while (i + kLanes <= count) {
    const auto orders = hn::LoadU(du, order + i);
    const auto equal = hn::Eq(orders, limit);
    const auto ties_here = static_cast<int64_t>(hn::CountTrue(du, equal));
    if (ties_here > ties && ties > 0) {
      scan(i + kLanes);
      continue;
    }
    const auto above = hn::Gt(orders, limit);
    const auto take = ties_here > 0 && ties > 0 ? hn::Or(above, equal) : above;
    if (ties > 0) ties -= ties_here;
    taken += static_cast<int64_t>(hn::CompressStore(count_from(begin + i), hn::RebindMask(di, take), di, list + taken));
    i += kLanes;
  }
  scan(count);
  return taken;
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(OrderScores);
HWY_EXPORT(KeepBucket);
HWY_EXPORT(ListAbove);

void order_scores(const float* row, int64_t count, bool weights, uint32_t* order) {
  HEED_DISPATCH(OrderScores)(row, count, weights, order);
}
int64_t keep_bucket(const uint32_t* from, int64_t count, int shift, uint32_t mask, uint32_t bucket, uint32_t* to) {
  return HEED_DISPATCH(KeepBucket)(from, count, shift, mask, bucket, to);
}
int64_t list_above(const uint32_t* order, int64_t count, uint32_t threshold, int64_t ties, int64_t begin,
                   int32_t* list) {
  return HEED_DISPATCH(ListAbove)(order, count, threshold, ties, begin, list);
}

}  // namespace heed::kernels
#endif  // HWY_ONCE
