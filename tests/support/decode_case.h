// A decode call that owns its tensors: set up field by field or drawn from a seed, run by any implementation.
#pragma once

#include <numeric>
#include <ostream>
#include <string>

#include "heed/kernels/decode.h"
#include "support/tensor.h"

namespace heed::testing {

/// Along what an int8 scale varies.
enum class ScaleAxis { one, slot, channel, slot_and_channel, groups };
enum class MaskKind { causal, everything, window, streaming, dilation, by_head };

struct DecodeSetup {
  int64_t batch = 1, kv_heads = 1, group = 1, rows = 1, d = 16, dv = 16, capacity = 33, synthetic = 0;
  DType q = DType::f32, k = DType::f32, v = DType::f32;
  bool float_out = true;
  int64_t k_page = 0, v_page = 0;  ///< 0: contiguous
  ScaleAxis k_axis = ScaleAxis::slot, v_axis = ScaleAxis::slot;
  bool k_zero = false, v_zero = false;
  int k_bits = 0, v_bits = 0;  ///< of packed codes; for int8 pages
  bool exact_groups = false;   ///< some groups of packed slots are exact
  Layout layout = Layout::dense;
  bool lengths = false, head_lengths = false, slot_bias = false, sink = false, alibi = false, slot_positions = false;
  bool rotation = false, interleaved = false, rotation_positions = false;
  double softcap = 0, scale = 0;
  MaskKind mask = MaskKind::causal;
  bool lse = true, arg_max = false;
  int column_sum = 0;  ///< 0: none, 1: per KV head, 2: per query head
};

inline std::ostream& operator<<(std::ostream& out, const DecodeSetup& s) {
  return out << "B " << s.batch << " Hkv " << s.kv_heads << " group " << s.group << " N " << s.rows << " D " << s.d
             << " Dv " << s.dv << " capacity " << s.capacity << " synthetic " << s.synthetic << " q "
             << kernels::name_of(s.q) << " k " << kernels::name_of(s.k) << " v " << kernels::name_of(s.v) << " pages "
             << s.k_page << "/" << s.v_page << " axes " << static_cast<int>(s.k_axis) << "/"
             << static_cast<int>(s.v_axis) << " zeros " << s.k_zero << "/" << s.v_zero << " bits " << s.k_bits << "/"
             << s.v_bits << " exact " << s.exact_groups << " layout " << static_cast<int>(s.layout) << " lengths "
             << s.lengths << s.head_lengths << " bias " << s.slot_bias << " sink " << s.sink << " alibi " << s.alibi
             << " positions " << s.slot_positions << " rotation " << s.rotation << s.interleaved << s.rotation_positions
             << " softcap " << s.softcap << " mask " << static_cast<int>(s.mask) << " column_sum " << s.column_sum;
}

inline DecodeSetup random_setup(std::mt19937_64& random) {
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  const auto pick = [&](std::vector<int64_t> values) { return values[below(static_cast<int64_t>(values.size()))]; };
  const auto chance = [&](int64_t of) { return below(of) == 0; };
  const DType storage[] = {DType::f32, DType::f16, DType::bf16, DType::i8};
  DecodeSetup s;
  s.batch = 1 + below(3), s.kv_heads = 1 + below(3), s.group = pick({1, 1, 2, 3, 4, 5, 8}),
  s.rows = pick({1, 1, 1, 2, 3, 5});
  s.d = pick({1, 2, 16, 32, 40, 64, 72, 100}), s.dv = pick({1, 3, 16, 32, 40, 72, 80, 100});
  s.capacity = pick({1, 7, 64, 129, 300});
  s.synthetic = chance(4) ? pick({1, 5, 130}) : 0;
  s.q = storage[below(3)], s.k = storage[below(4)], s.v = storage[below(4)];
  s.float_out = chance(2);
  s.k_page = chance(2) ? pick({1, 4, 16}) : 0, s.v_page = chance(2) ? pick({1, 3, 16}) : 0;
  s.k_axis = static_cast<ScaleAxis>(below(5)), s.v_axis = static_cast<ScaleAxis>(below(5));
  s.k_zero = chance(3), s.v_zero = chance(3);
  s.layout = chance(3) ? Layout::heads_last : chance(3) ? Layout::sliced : chance(5) ? Layout::reversed : Layout::dense;
  s.lengths = chance(2), s.head_lengths = chance(2), s.slot_bias = chance(4), s.sink = chance(4), s.alibi = chance(4);
  s.slot_positions = chance(6);
  s.rotation = chance(4), s.interleaved = chance(3), s.rotation_positions = chance(2);
  s.softcap = chance(4) ? 3 : 0, s.scale = chance(4) ? 0.3 : 0;
  s.mask = chance(2) ? MaskKind::causal : static_cast<MaskKind>(below(6));
  s.arg_max = chance(3), s.column_sum = chance(3) ? 1 + static_cast<int>(below(2)) : 0;
  const auto bits = [&](DType type, int64_t page, int64_t width) {
    return type == DType::i8 && page > 0 && width % 4 == 0 && chance(2) ? static_cast<int>(pick({2, 4})) : 0;
  };
  s.k_bits = bits(s.k, s.k_page, s.d), s.v_bits = bits(s.v, s.v_page, s.dv), s.exact_groups = chance(2);
  return s;
}

/// Keys or values in storage: contiguous, or pages in random order with pages nobody uses between them.
struct CacheCase {
  CacheCase() = default;
  CacheCase(const DecodeSetup& s, DType dtype, int64_t width, int64_t page, ScaleAxis axis, bool has_zero, int bits,
            std::mt19937_64& random)
      : paged(page > 0) {
    view_.page_size = page;
    const int64_t rows = s.batch * s.kv_heads;
    std::array<int64_t, 4> size{s.batch, s.kv_heads, s.capacity, width};
    if (paged) {
      const int64_t per_row = (s.capacity + page - 1) / page, pages = rows * per_row + 2;
      view_.table_stride = per_row + 1;
      std::vector<int32_t> order(pages);
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random);
      table_.assign(rows * view_.table_stride, -1);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < per_row; ++i) table_[r * view_.table_stride + i] = order[r * per_row + i];
      }
      size = {pages, page, 1, width};
    }
    if (bits > 0 && dtype == DType::i8 && paged) {
      size[3] = width * bits / 8;
      data = Tensor(dtype, size, Layout::dense);
      data.fill([&] { return static_cast<double>(random() % 256) - 128; });
      draw_packed(s, width, bits, random);
      return;
    }
    data = Tensor(dtype, size, paged ? Layout::dense : s.layout);
    if (dtype != DType::i8) {
      data.normal(random);
      return;
    }
    data.fill([&] { return static_cast<double>(random() % 255) - 127; });
    const int slots = paged ? 1 : 2;
    if (axis == ScaleAxis::groups) view_.slot_group = 2, view_.channel_group = 3;
    std::array<int64_t, 4> scale_size{1, 1, 1, 1};
    if (axis == ScaleAxis::slot || axis == ScaleAxis::slot_and_channel) scale_size = {size[0], size[1], size[2], 1};
    if (axis == ScaleAxis::channel || axis == ScaleAxis::slot_and_channel) scale_size[3] = width;
    if (axis == ScaleAxis::channel && !paged) scale_size[1] = size[1];
    if (axis == ScaleAxis::groups) {
      scale_size = {size[0], size[1], size[2], (width + 2) / 3};
      scale_size[slots] = (size[slots] + 1) / 2;
    }
    scale = Tensor(DType::f32, scale_size);
    scale.fill([&] { return 0.004 + 0.00002 * static_cast<double>(random() % 1000); });
    if (!has_zero) return;
    zero = Tensor(DType::f32, scale_size);
    zero.normal(random, 0.3);
  }

  kernels::CacheView view() const {
    kernels::CacheView v = view_;
    v.data = data;
    v.table = paged ? table_.data() : nullptr;
    if (scale) v.scale = scale.view().as<const float>();
    if (zero) v.zero = zero.view().as<const float>();
    if (v.packed.bits == 0) return v;
    v.scale = v.zero = {};
    v.packed.scale = static_cast<const kernels::Half*>(scale.view().data);
    v.packed.zero = static_cast<const kernels::Half*>(zero.view().data);
    if (exact) v.packed.exact_of = exact_of_.data(), v.packed.exact = exact.view();
    return v;
  }

  Tensor data, scale, zero, exact;
  bool paged = false;

 private:
  /// Scales, zero points and some exact groups for packed codes.
  void draw_packed(const DecodeSetup& s, int64_t width, int bits, std::mt19937_64& random) {
    auto& packed = view_.packed;
    packed.bits = bits;
    packed.slot_group = random() % 2 == 0 ? 1 : 5, packed.channel_group = std::array{1, 16, 32, 3}[random() % 4];
    const int64_t slots = data.view().size[0] * view_.page_size;
    const auto groups = [](int64_t count, int64_t group) { return (count + group - 1) / group; };
    const std::array<int64_t, 4> size{groups(slots, packed.slot_group), groups(width, packed.channel_group), 1, 1};
    scale = Tensor(DType::f16, size), zero = Tensor(DType::f16, size);
    scale.fill([&] { return 0.1 + 0.001 * static_cast<double>(random() % 100); });
    zero.normal(random, 0.5);
    if (!s.exact_groups) return;
    packed.exact_group = 6;
    int32_t held = 0;
    for (int64_t group = 0; group < groups(slots, 6); ++group) exact_of_.push_back(random() % 3 == 0 ? held++ : -1);
    exact = Tensor(s.q, {std::max<int64_t>(held, 1), 6, 1, width});
    exact.normal(random);
  }

  kernels::CacheView view_;
  std::vector<int32_t> table_, exact_of_;
};

class DecodeCase {
 public:
  DecodeCase(const DecodeSetup& setup, uint64_t seed) : s(setup) {
    std::mt19937_64 random(seed);
    const int64_t heads = s.kv_heads * s.group, table_rows = s.batch * s.kv_heads;
    q = Tensor(s.q, {s.batch, heads, s.rows, s.d}, s.layout == Layout::reversed ? Layout::dense : s.layout);
    q.normal(random);
    k = CacheCase(s, s.k, s.d, s.k_page, s.k_axis, s.k_zero, s.k_bits, random);
    v = CacheCase(s, s.v, s.dv, s.v_page, s.v_axis, s.v_zero, s.v_bits, random);
    clear_outputs();
    for (int64_t r = 0; r < table_rows; ++r) {
      const auto length = static_cast<int64_t>(random() % static_cast<uint64_t>(s.capacity + 1));
      lengths.push_back(!s.lengths ? s.capacity : s.head_lengths || r % s.kv_heads == 0 ? length : lengths.back());
    }
    for (int64_t r = 0; r < table_rows; ++r) {
      // Ascending positions with gaps, as an eviction leaves them; the rotation's own are free.
      int64_t at = static_cast<int64_t>(random() % 3);
      for (int64_t i = 0; i < s.capacity; ++i) {
        positions.push_back(at);
        at += 1 + static_cast<int64_t>(random() % 3 == 0 ? random() % 5 : 0);
        rotations.push_back(static_cast<int64_t>(random() % 100000));
      }
    }
    for (int64_t b = 0; b < s.batch; ++b) contexts.push_back(s.capacity * 2 + static_cast<int64_t>(random() % 10));
    for (int64_t i = 0; i < s.d / 2; ++i) frequencies.push_back(static_cast<float>(std::pow(10000.0, -2.0 * i / s.d)));
    for (int64_t h = 0; h < heads; ++h) slopes.push_back(0.3f / static_cast<float>(h + 1));
    if (s.slot_bias) draw(slot_bias, {1 + (s.batch - 1) * (seed % 2 == 0), heads, 1, s.capacity}, random);
    if (s.sink) draw(sink, {1, heads, 1, 1}, random);
    if (s.synthetic > 0) {
      draw(synthetic_k, {s.batch, s.kv_heads, s.synthetic, s.d}, random);
      draw(synthetic_v, {1, s.kv_heads, s.synthetic, s.dv}, random);
      if (seed % 2 == 0) draw(synthetic_bias, {1, heads, 1, s.synthetic}, random);
    }
  }

  /// Fresh outputs, poisoned.
  void clear_outputs() {
    const int64_t heads = s.kv_heads * s.group;
    out = Tensor(s.float_out ? DType::f32 : s.q, {s.batch, heads, s.rows, s.dv}, s.layout);
    lse = Tensor(DType::f32, {s.batch, heads, s.rows, 1});
    if (s.column_sum != 0)
      column_sum = Tensor(DType::f32, {s.batch, s.column_sum == 1 ? s.kv_heads : heads, 1, s.capacity});
    arg_max.assign(s.batch * heads * s.rows, -7);
  }

  kernels::DecodeParams params() {
    kernels::DecodeParams p;
    const int64_t heads = s.kv_heads * s.group;
    p.q = q, p.k = k.view(), p.v = v.view(), p.out = out, p.num_kv_heads = s.kv_heads;
    if (s.lse) p.lse = lse;
    p.lengths = lengths.data(), p.lengths_stride_b = s.kv_heads, p.lengths_stride_h = 1;
    p.scale = s.scale, p.softcap = s.softcap;
    if (s.mask == MaskKind::everything) p.mask = {};
    if (s.mask == MaskKind::window) p.mask = kernels::Window{5};
    if (s.mask == MaskKind::streaming) p.mask = kernels::Causal{} & (kernels::Window{40} | kernels::SinkTokens{3});
    if (s.mask == MaskKind::dilation) p.mask = kernels::Causal{} & kernels::Dilation{3};
    if (s.mask == MaskKind::by_head) {
      p.mask = kernels::Causal{} & kernels::Predicate{[](const void*, int64_t b, int64_t h, int64_t i, int64_t j) {
                 return (j * 7 + h * 3 + b + i) % 4 != 0;
               }};
    }
    if (s.alibi) p.alibi_slopes = slopes.data();
    p.slot_bias = floats(slot_bias), p.sink_logit = floats(sink);
    if (s.rotation && s.d >= 2) {
      p.rotation.inverse_frequencies = frequencies.data();
      p.rotation.rotated = s.d >= 8 ? s.d / 4 * 2 : 2;
      p.rotation.interleaved = s.interleaved;
      if (s.rotation_positions) p.rotation.positions = rotations.data(), p.rotation.positions_stride = s.capacity;
    }
    if (s.slot_positions) {
      p.slot_positions = positions.data(), p.slot_positions_stride = s.capacity, p.context_lengths = contexts.data();
    }
    p.synthetic_k = floats(synthetic_k), p.synthetic_v = floats(synthetic_v), p.synthetic_bias = floats(synthetic_bias);
    if (s.column_sum != 0) p.column_sum = column_sum.view().as<float>();
    if (s.arg_max) {
      const std::array<int64_t, 4> size{s.batch, heads, s.rows, 1};
      p.arg_max = {arg_max.data(), size, kernels::dense_strides(size)};
    }
    return p;
  }

  void check_guards() {
    out.check_guards("out"), lse.check_guards("lse");
    if (column_sum) column_sum.check_guards("column_sum");
  }

  DecodeSetup s;
  Tensor q, out, lse, column_sum, slot_bias, sink, synthetic_k, synthetic_v, synthetic_bias;
  CacheCase k, v;
  std::vector<int64_t> lengths, positions, rotations, contexts, arg_max;
  std::vector<float> frequencies, slopes;

 private:
  static void draw(Tensor& t, const std::array<int64_t, 4>& size, std::mt19937_64& random) {
    t = Tensor(DType::f32, size);
    t.normal(random);
  }
  static kernels::View<const float> floats(const Tensor& t) {
    return t ? t.view().as<const float>() : kernels::View<const float>();
  }
};

/// Half of the last place of a result that is rounded once.
inline double rounding_of(DType type) {
  return type == DType::f16 ? std::ldexp(1, -11) : type == DType::bf16 ? std::ldexp(1, -8) : 0.0;
}

}  // namespace heed::testing
