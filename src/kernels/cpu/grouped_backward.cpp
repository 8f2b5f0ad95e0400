// The backward of grouped attention: every tile's weights again, from the log-sum over landmarks that the forward kept.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/grouped_backward.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/grouped_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

class GroupedBackwardBlock {
 public:
  using Panel = GroupedBlock::Panel;
  using Tile = GroupedBlock::Tile;

  GroupedBackwardBlock(const GroupedParams& p, const GroupedGrads& g, const GroupedItem& item,
                       const GroupedScratch& scratch, float* d_keys, float* d_values)
      : p_(p),
        g_(g),
        item_(item),
        s_(scratch),
        block_(p, item, scratch),
        d_keys_(d_keys),
        d_values_(d_values),
        d_(p.q.size[3]),
        dv_(p.v.size[3]) {}

  void run() {
    const int64_t b = item_.batch, h = item_.head;
    query_rows_ = {s_.query_rows, round_up(d_, kLanes)}, d_output_rows_ = {s_.d_output_rows, round_up(dv_, kLanes)};
    read_rows(p_.q, b, h, item_.begin, block_.count(), s_.query_rows, query_rows_.stride);
    read_rows(g_.d_out, b, h, item_.begin, block_.count(), s_.d_output_rows, d_output_rows_.stride);
    block_.panels([&](const Panel& panel) { prepare(panel); });
    block_.tiles(true, [&](const Tile& tile) {
      block_.panels([&](const Panel& panel) {
        const int64_t width = panel.width();
        block_.logits(panel, tile);
        gemm_nn(tile.value_rows.data, tile.value_rows.stride, s_.d_outputs + panel.first * dv_, width, s_.gradients,
                width, tile.keys, panel.vectors, dv_, store::Overwrite());
        for (int64_t v = 0; v < panel.vectors; ++v) {
          if (tile.blocks == 0) own(panel, tile, v);
          for (int64_t g = 0; g < tile.blocks; ++g) before(panel, tile, g, v);
        }
        products(panel, tile);
      });
    });
    if (g_.d_q) block_.panels([&](const Panel& panel) { write(panel); });
  }

 private:
  void prepare(const Panel& panel) const {
    block_.pack_queries(panel);
    block_.pack(g_.d_out, panel, 1, s_.d_outputs + panel.first * dv_);
    block_.pack(p_.out, panel, 1, s_.outputs);
    const Lanes d;
    const int64_t width = panel.width();
    for (int64_t v = 0; v < panel.vectors; ++v) {
      Vector sum = hn::Zero(d);
      for (int64_t r = 0; r < dv_; ++r)
        sum = hn::MulAdd(hn::LoadU(d, s_.outputs + r * width + v * kLanes),
                         hn::LoadU(d, s_.d_outputs + panel.first * dv_ + r * width + v * kLanes), sum);
      hn::StoreU(sum, d, s_.delta + panel.first + v * kLanes);
    }
    std::fill_n(s_.maximum + panel.first, width, std::numeric_limits<float>::infinity());  // weights are 0
    for (int64_t r = 0; r < panel.rows; ++r) {
      const float lse = *p_.lse.as<float>().row(item_.batch, item_.head, item_.begin + panel.first + r);
      if (lse != -std::numeric_limits<float>::infinity()) s_.maximum[panel.first + r] = lse * kLog2E;
    }
    std::fill_n(s_.d_queries + panel.first * d_, d_ * width, 0.0f);
  }

  void own(const Panel& panel, const Tile& tile, int64_t v) const {
    const Lanes d;
    const int64_t width = panel.width();
    const Vector log_sum = hn::LoadU(d, s_.maximum + panel.first + v * kLanes),
                 delta = hn::LoadU(d, s_.delta + panel.first + v * kLanes);
    for (int64_t c = 0; c < tile.keys; ++c) {
      float *const weight = s_.tile + c * width + v * kLanes, *const gradient = s_.gradients + c * width + v * kLanes;
      const auto seen = block_.seen(panel, v, c);
      const Vector p = hn::IfThenElseZero(seen, exp2_of(hn::Sub(hn::LoadU(d, weight), log_sum)));
      hn::StoreU(p, d, weight);
      hn::StoreU(hn::IfThenElseZero(seen, hn::Mul(p, hn::Sub(hn::LoadU(d, gradient), delta))), d, gradient);
    }
  }

  // p = w a of the landmark's weight w and the shares a: d logit = p (dp - m), m the mean of dp by a; of the landmark
  // w (m - delta).
  void before(const Panel& panel, const Tile& tile, int64_t g, int64_t v) const {
    const Lanes d;
    const int64_t width = panel.width(), regular = p_.block - 1;
    const auto [total, landmark] = block_.share_out(panel, tile, g, v);
    const auto dead = hn::Eq(total, hn::Zero(d));
    const Vector inverse = hn::IfThenZeroElse(dead, hn::Div(hn::Set(d, 1.0f), total));
    const Vector weight = exp2_of(hn::Sub(landmark, hn::LoadU(d, s_.maximum + panel.first + v * kLanes)));
    float *const shares = s_.tile + g * p_.block * width + v * kLanes, *const gradients = s_.gradients +
                                                                                          g * p_.block * width +
                                                                                          v * kLanes;
    Vector mean = hn::Zero(d);
    for (int64_t c = 0; c < regular; ++c)
      mean = hn::MulAdd(hn::LoadU(d, shares + c * width), hn::LoadU(d, gradients + c * width), mean);
    mean = hn::Mul(mean, inverse);
    const Vector factor = hn::Mul(weight, inverse);
    for (int64_t c = 0; c < regular; ++c) {
      const Vector p = hn::Mul(factor, hn::LoadU(d, shares + c * width));
      hn::StoreU(p, d, shares + c * width);
      hn::StoreU(hn::Mul(p, hn::Sub(hn::LoadU(d, gradients + c * width), mean)), d, gradients + c * width);
    }
    const Vector delta = hn::LoadU(d, s_.delta + panel.first + v * kLanes);
    hn::StoreU(hn::Zero(d), d, shares + regular * width);
    hn::StoreU(hn::Mul(weight, hn::Sub(mean, delta)), d, gradients + regular * width);
  }

  void products(const Panel& panel, const Tile& tile) const {
    const Lanes d;
    const int64_t width = panel.width(), d_padded = round_up(d_, 16), dv_padded = round_up(dv_, 16);
    if (p_.softcap > 0)
      for (int64_t at = 0; at < tile.keys * width; at += kLanes)
        hn::StoreU(hn::Mul(hn::LoadU(d, s_.gradients + at), hn::LoadU(d, s_.slopes + at)), d, s_.gradients + at);
    const auto add_rows = [&](const float* weights, const FloatRows& rows, int64_t columns, float* to, int64_t padded) {
      gemm_nn(weights, width, rows.data + panel.first * rows.stride, rows.stride, to + tile.begin * padded, padded,
              tile.keys, (columns + kLanes - 1) / kLanes, panel.rows, store::Add());
    };
    if (g_.d_v) add_rows(s_.tile, d_output_rows_, dv_, d_values_, dv_padded);
    if (g_.d_k) add_rows(s_.gradients, query_rows_, d_, d_keys_, d_padded);
    if (!g_.d_q) return;
    gemm_tn(tile.key_rows.data, tile.key_rows.stride, s_.gradients, width, s_.d_queries + panel.first * d_, width, d_,
            panel.vectors, tile.keys, store::Add());
  }

  void write(const Panel& panel) const {
    const int64_t stride = round_up(d_, kLanes);
    std::fill_n(s_.factor, panel.width(), static_cast<float>(block_.scale()));
    unpack_rows(s_.d_queries + panel.first * d_, panel.width(), panel.rows, d_, s_.factor, s_.row, stride);
    with_float_type(g_.d_q, [&](auto* data) {
      const auto typed = g_.d_q.as<std::remove_pointer_t<decltype(data)>>();
      for (int64_t r = 0; r < panel.rows; ++r)
        write_row(s_.row + r * stride, 1.0f, d_, typed.row(item_.batch, item_.head, item_.begin + panel.first + r));
    });
  }

  const GroupedParams& p_;
  const GroupedGrads& g_;
  const GroupedItem& item_;
  const GroupedScratch& s_;
  const GroupedBlock block_;
  float *const d_keys_, *const d_values_;
  const int64_t d_, dv_;
  FloatRows query_rows_{}, d_output_rows_{};
};

void GroupedBackward(const GroupedParams& p, const GroupedGrads& grads, const GroupedItem& item, float* d_keys,
                     float* d_values, void* block) {
  Arena arena(block);
  const GroupedScratch scratch(arena, p);
  GroupedBackwardBlock(p, grads, item, scratch, d_keys, d_values).run();
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(GroupedBackward);

void run_grouped_backward(const GroupedParams& p, const GroupedGrads& grads, const GroupedItem& item, float* d_keys,
                          float* d_values, void* block) {
  HEED_DISPATCH(GroupedBackward)(p, grads, item, d_keys, d_values, block);
}

}  // namespace heed::kernels
#endif  // HWY_ONCE
