// The forward of grouped attention: one pass over the blocks before, with one running maximum over landmarks.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/grouped_forward.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/grouped_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

class GroupedForwardBlock {
 public:
  using Panel = GroupedBlock::Panel;
  using Tile = GroupedBlock::Tile;

  GroupedForwardBlock(const GroupedParams& p, const GroupedItem& item, const GroupedScratch& scratch)
      : p_(p), item_(item), s_(scratch), block_(p, item, scratch), d_(p.q.size[3]), dv_(p.v.size[3]) {}

  void run() {
    block_.panels([&](const Panel& panel) { block_.pack_queries(panel); });
    block_.tiles(false, [&](const Tile& tile) {
      block_.panels([&](const Panel& panel) {
        block_.logits(panel, tile);
        tile.blocks == 0 ? own(panel, tile) : before(panel, tile);
      });
    });
    block_.panels([&](const Panel& panel) { write(panel); });
  }

 private:
  static Vector none() { return hn::Set(Lanes(), -std::numeric_limits<float>::infinity()); }
  static Vector finite(Vector maximum) { return hn::IfThenZeroElse(hn::Eq(maximum, none()), maximum); }

  void own(const Panel& panel, const Tile& tile) const {
    const Lanes d;
    const int64_t width = panel.width();
    for (int64_t v = 0; v < panel.vectors; ++v) {
      Vector top = none(), total = hn::Zero(d);
      float* const column = s_.tile + v * kLanes;
      for (int64_t c = 0; c < tile.keys; ++c) {
        const Vector s = hn::IfThenElse(block_.seen(panel, v, c), hn::LoadU(d, column + c * width), none());
        top = hn::Max(s, top);
        hn::StoreU(s, d, column + c * width);
      }
      for (int64_t c = 0; c < tile.keys; ++c) {
        const Vector e = exp2_of(hn::Sub(hn::LoadU(d, column + c * width), finite(top)));
        total = hn::Add(total, e);
        hn::StoreU(e, d, column + c * width);
      }
      hn::StoreU(top, d, s_.maximum + panel.first + v * kLanes);
      hn::StoreU(total, d, s_.sum + panel.first + v * kLanes);
    }
    // Key by key, so that a later value does not matter, be it NaN.
    float* const outputs = s_.outputs + panel.first * dv_;
    for (int64_t r = 0; r < dv_; ++r) {
      for (int64_t v = 0; v < panel.vectors; ++v) hn::StoreU(hn::Zero(d), d, outputs + r * width + v * kLanes);
    }
    for (int64_t c = 0; c < tile.keys; ++c) {
      const float* const value = tile.value_rows.data + c * tile.value_rows.stride;
      for (int64_t v = 0; v < panel.vectors; ++v) {
        const auto seen = block_.seen(panel, v, c);
        const Vector weight = hn::LoadU(d, s_.tile + c * width + v * kLanes);
        for (int64_t r = 0; r < dv_; ++r) {
          float* const at = outputs + r * width + v * kLanes;
          const Vector old = hn::LoadU(d, at);
          hn::StoreU(hn::IfThenElse(seen, hn::MulAdd(hn::Set(d, value[r]), weight, old), old), d, at);
        }
      }
    }
  }

  void before(const Panel& panel, const Tile& tile) const {
    const Lanes d;
    const int64_t width = panel.width();
    for (int64_t v = 0; v < panel.vectors; ++v) {
      float *const maximum = s_.maximum + panel.first + v * kLanes, *const sum = s_.sum + panel.first + v * kLanes;
      const Vector old = hn::LoadU(d, maximum);
      Vector top = old;
      for (int64_t g = 0; g < tile.blocks; ++g) {
        const auto [total, landmark] = block_.share_out(panel, tile, g, v);
        hn::StoreU(total, d, s_.totals + g * kLanes);
        hn::StoreU(landmark, d, s_.landmarks + g * kLanes);
        top = hn::Max(landmark, top);
      }
      const Vector shrink = exp2_of(hn::Sub(old, finite(top)));
      Vector all = hn::Mul(hn::LoadU(d, sum), shrink);
      for (int64_t g = 0; g < tile.blocks; ++g) {
        const Vector weight = exp2_of(hn::Sub(hn::LoadU(d, s_.landmarks + g * kLanes), finite(top))),
                     total = hn::LoadU(d, s_.totals + g * kLanes);
        all = hn::Add(all, weight);
        const Vector share = hn::IfThenZeroElse(hn::Eq(total, hn::Zero(d)), hn::Div(weight, total));
        float* const rows = s_.tile + g * p_.block * width + v * kLanes;
        for (int64_t c = 0; c < p_.block - 1; ++c)
          hn::StoreU(hn::Mul(share, hn::LoadU(d, rows + c * width)), d, rows + c * width);
        hn::StoreU(hn::Zero(d), d, rows + (p_.block - 1) * width);
      }
      hn::StoreU(top, d, maximum);
      hn::StoreU(all, d, sum);
      hn::StoreU(shrink, d, s_.factor + v * kLanes);
    }
    gemm_tn(tile.value_rows.data, tile.value_rows.stride, s_.tile, width, s_.outputs + panel.first * dv_, width, dv_,
            panel.vectors, tile.keys, store::RescaleAdd(s_.factor));
  }

  void write(const Panel& panel) const {
    const Lanes d;
    HWY_ALIGN float lse[kGroupedWidth];
    for (int64_t v = 0; v < panel.vectors; ++v) {
      const Vector sum = hn::LoadU(d, s_.sum + panel.first + v * kLanes),
                   top = hn::LoadU(d, s_.maximum + panel.first + v * kLanes);
      const auto nothing = hn::Eq(sum, hn::Zero(d));
      hn::StoreU(hn::IfThenZeroElse(nothing, hn::Div(hn::Set(d, 1.0f), sum)), d, s_.factor + v * kLanes);
      hn::StoreU(hn::IfThenElse(nothing, none(), hn::Mul(hn::Add(top, log2_of(sum)), hn::Set(d, kLn2))), d,
                 lse + v * kLanes);
    }
    const int64_t stride = round_up(dv_, kLanes), begin = item_.begin + panel.first;
    unpack_rows(s_.outputs + panel.first * dv_, panel.width(), panel.rows, dv_, s_.factor, s_.row, stride);
    with_float_type(p_.out, [&](auto* data) {
      const auto typed = p_.out.as<std::remove_pointer_t<decltype(data)>>();
      for (int64_t r = 0; r < panel.rows; ++r)
        write_row(s_.row + r * stride, 1.0f, dv_, typed.row(item_.batch, item_.head, begin + r));
    });
    for (int64_t r = 0; r < panel.rows; ++r) *p_.lse.as<float>().row(item_.batch, item_.head, begin + r) = lse[r];
  }

  const GroupedParams& p_;
  const GroupedItem& item_;
  const GroupedScratch& s_;
  const GroupedBlock block_;
  const int64_t d_, dv_;
};

void GroupedForward(const GroupedParams& p, const GroupedItem& item, void* block) {
  Arena arena(block);
  const GroupedScratch scratch(arena, p);
  GroupedForwardBlock(p, item, scratch).run();
}

int64_t GroupedBytes(const GroupedParams& p) {
  Arena arena;
  const GroupedScratch scratch(arena, p);
  return arena.used();
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(GroupedForward);
HWY_EXPORT(GroupedBytes);

void run_grouped_forward(const GroupedParams& p, const GroupedItem& item, void* block) {
  HEED_DISPATCH(GroupedForward)(p, item, block);
}
int64_t grouped_scratch_bytes(const GroupedParams& p) { return HEED_DISPATCH(GroupedBytes)(p); }

}  // namespace heed::kernels
#endif  // HWY_ONCE
