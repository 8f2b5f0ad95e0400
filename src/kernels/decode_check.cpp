#include <algorithm>
#include <cmath>

#include "heed/error.h"
#include "heed/kernels/decode.h"

namespace heed::kernels {
namespace {

std::string text_of(const std::array<int64_t, 4>& size) {
  return fmt::format("[{}, {}, {}, {}]", size[0], size[1], size[2], size[3]);
}

void require_size(const std::array<int64_t, 4>& size, const std::array<int64_t, 4>& want, const char* name) {
  require(size == want, "decode: {} is {}; {} is accepted", name, text_of(size), text_of(want));
}

// Each size is 1 or the wanted one.
void require_broadcast(const std::array<int64_t, 4>& size, const std::array<int64_t, 4>& want, const char* name) {
  for (int axis = 0; axis < 4; ++axis) {
    require(size[axis] == 1 || size[axis] == want[axis],
            "decode: {} is {}; {}, with 1 where it broadcasts, is accepted", name, text_of(size), text_of(want));
  }
}

bool is_float(DType type) { return type == DType::f32 || type == DType::f16 || type == DType::bf16; }

int64_t groups(int64_t size, int64_t group) { return (size + group - 1) / group; }

void check_dense(const std::array<int64_t, 4>& size, const std::array<int64_t, 4>& stride, const char* name) {
  require(size[3] <= 1 || stride[3] == 1, "decode: the last dimension of {} has stride {}; 1 is accepted", name,
          stride[3]);
}

void check_quantiser(const CacheView& cache, const View<const float>& view, const char* name, const char* which) {
  const auto& size = cache.data.size;
  const int64_t slot_axis = cache.table != nullptr ? 1 : 2;
  std::array<int64_t, 4> want = size;
  want[slot_axis] = groups(size[slot_axis], cache.slot_group);
  want[3] = groups(size[3], cache.channel_group);
  require_broadcast(view.size, want, fmt::format("{} of {}", which, name).c_str());
}

void check_packed(const CacheView& cache, const char* name) {
  const PackedCodes& packed = cache.packed;
  require(packed.bits == 2 || packed.bits == 4, "decode: {} has codes of {} bits; 2 and 4 are accepted", name,
          packed.bits);
  require(cache.table != nullptr && cache.data.dtype == DType::i8,
          "decode: packed codes of {} are {} {} a table; int8 pages are accepted", name, name_of(cache.data.dtype),
          cache.table != nullptr ? "with" : "without");
  require(!cache.scale && !cache.zero && packed.scale != nullptr && packed.zero != nullptr,
          "decode: packed codes of {} have their own scale and zero point; both and no other are accepted", name);
  require(packed.slot_group >= 1 && packed.channel_group >= 1 && packed.exact_group >= 1,
          "decode: groups of {} are {} slots by {} channels, {} slots exact; at least 1 is accepted", name,
          packed.slot_group, packed.channel_group, packed.exact_group);
  if (packed.exact_of == nullptr) return;
  const auto& size = packed.exact.size;
  require(is_float(packed.exact.dtype),
          "decode: the exact slots of {} are {}; float32, float16 and bfloat16 are accepted", name,
          name_of(packed.exact.dtype));
  require(size[1] == packed.exact_group && size[2] == 1 && size[3] == cache.channels(),
          "decode: the exact slots of {} are {}; [E, {}, 1, {}] is accepted", name, text_of(size), packed.exact_group,
          cache.channels());
  require(packed.exact.stride == dense_strides(size), "decode: the exact slots of {} are not dense", name);
  const int64_t groups_in_all = groups(cache.data.size[0] * cache.page_size, packed.exact_group);
  for (int64_t group = 0; group < groups_in_all; ++group) {
    require(packed.exact_of[group] < size[0], "decode: group {} of {} names exact slots {}; up to {} is accepted",
            group, name, packed.exact_of[group], size[0] - 1);
  }
}

void check_cache(const DecodeParams& p, const CacheView& cache, const char* name) {
  const auto& size = cache.data.size;
  require(is_float(cache.data.dtype) || cache.data.dtype == DType::i8 ||
              (cache.data.dtype == DType::f64 && p.q.dtype == DType::f64),
          "decode: {} is {}; float32, float16, bfloat16 and int8 are accepted", name, name_of(cache.data.dtype));
  check_dense(size, cache.data.stride, name);
  if (cache.table != nullptr) {
    require(cache.page_size >= 1, "decode: {} has a table and page size {}; at least 1 is accepted", name,
            cache.page_size);
    require(size[1] == cache.page_size && size[2] == 1, "decode: pages of {} are {}; [P, {}, 1, D] is accepted", name,
            text_of(size), cache.page_size);
  } else {
    require(size[0] == p.q.size[0] && size[1] == p.num_kv_heads, "decode: {} is {}; [{}, {}, capacity, D] is accepted",
            name, text_of(size), p.q.size[0], p.num_kv_heads);
  }
  require(cache.slot_group >= 1 && cache.channel_group >= 1,
          "decode: scale groups of {} are {} slots by {} channels; at "
          "least 1 by 1 is accepted",
          name, cache.slot_group, cache.channel_group);
  if (cache.packed.bits != 0) return check_packed(cache, name);
  require((cache.data.dtype == DType::i8) == static_cast<bool>(cache.scale),
          "decode: {} is {} {} a scale; int8 storage has "
          "one, other storage has none",
          name, name_of(cache.data.dtype), cache.scale ? "with" : "without");
  require(!cache.zero || cache.scale, "decode: {} has a zero point without a scale", name);
  if (cache.scale) check_quantiser(cache, cache.scale, name, "the scale");
  if (cache.zero) check_quantiser(cache, cache.zero, name, "the zero point");
}

// Lists of single slots are long, and a step checks them while all threads but one wait: no branch, so that the loop
// becomes vectors.
bool pages_exist(const int32_t* row, int64_t pages, int64_t held) {
  const auto last = static_cast<int32_t>(std::min<int64_t>(held - 1, INT32_MAX));
  int32_t wrong = 0;
  for (int64_t page = 0; page < pages; ++page) wrong |= row[page] | (row[page] > last ? -1 : 0);
  return wrong >= 0;
}

void check_lengths(const DecodeParams& p) {
  const int64_t batch = p.q.size[0], heads = p.num_kv_heads;
  if (p.lengths == nullptr) {
    require(p.k.table == nullptr && p.v.table == nullptr, "decode: paged storage needs lengths");
    require(p.k.data.size[2] == p.v.data.size[2],
            "decode: k holds {} slots and v {}; equal capacities or lengths are accepted", p.k.data.size[2],
            p.v.data.size[2]);
  }
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t length =
          p.lengths == nullptr ? p.k.data.size[2] : p.lengths[b * p.lengths_stride_b + h * p.lengths_stride_h];
      require(length >= 0, "decode: the length of sequence {}, head {} is {}; at least 0 is accepted", b, h, length);
      for (const CacheView* cache : {&p.k, &p.v}) {
        const char* name = cache == &p.k ? "k" : "v";
        if (cache->table == nullptr) {
          require(length <= cache->data.size[2], "decode: sequence {}, head {} has {} slots and {} holds {}", b, h,
                  length, name, cache->data.size[2]);
          continue;
        }
        const int64_t pages = groups(length, cache->page_size);
        require(pages <= cache->table_stride || batch * heads == 1,
                "decode: sequence {}, head {} needs {} pages and a table row "
                "of {} has {}",
                b, h, pages, name, cache->table_stride);
        const int32_t* row = cache->table + (b * heads + h) * cache->table_stride;
        const bool checked = cache == &p.v && p.k.table == p.v.table && p.k.table_stride == p.v.table_stride &&
                             p.k.page_size == p.v.page_size && p.k.data.size[0] <= p.v.data.size[0];
        const int64_t held = cache->data.size[0];
        if (checked || pages_exist(row, pages, held)) continue;
        const auto* const wrong =
            std::find_if(row, row + pages, [&](int32_t page) { return page < 0 || page >= held; });
        fail("decode: the table of {} names page {} for sequence {}, head {}; 0 to {} are accepted", name, *wrong, b, h,
             held - 1);
      }
      if (p.slot_bias) {
        require(length <= p.slot_bias.size[3], "decode: sequence {}, head {} has {} slots and slot_bias {}", b, h,
                length, p.slot_bias.size[3]);
      }
      if (p.column_sum) {
        require(length <= p.column_sum.size[3], "decode: sequence {}, head {} has {} slots and column_sum {}", b, h,
                length, p.column_sum.size[3]);
      }
    }
  }
}

}  // namespace

std::vector<int64_t> row_lengths(const DecodeParams& p) {
  std::vector<int64_t> lengths;
  lengths.reserve(p.q.size[0] * p.num_kv_heads);
  for (int64_t b = 0; b < p.q.size[0]; ++b) {
    for (int64_t h = 0; h < p.num_kv_heads; ++h) {
      lengths.push_back(p.lengths == nullptr ? p.k.data.size[2]
                                             : p.lengths[b * p.lengths_stride_b + h * p.lengths_stride_h]);
    }
  }
  return lengths;
}

void check(const DecodeParams& p) {
  const int64_t batch = p.q.size[0], heads = p.q.size[1], rows = p.q.size[2], d = p.q.size[3];
  const int64_t dv = p.v.channels();
  require(is_float(p.q.dtype) || p.q.dtype == DType::f64, "decode: q is {}; float32, float16 and bfloat16 are accepted",
          name_of(p.q.dtype));
  require(d >= 1 && dv >= 1, "decode: head sizes {} and {} are not accepted; at least 1 is", d, dv);
  check_dense(p.q.size, p.q.stride, "q");
  require(p.num_kv_heads >= 1 && heads % p.num_kv_heads == 0,
          "decode: {} query heads over {} KV heads; a multiple is accepted", heads, p.num_kv_heads);
  check_cache(p, p.k, "k");
  check_cache(p, p.v, "v");
  require(p.k.channels() == d, "decode: k has head size {} and q {}", p.k.channels(), d);
  require_size(p.out.size, {batch, heads, rows, dv}, "out");
  check_dense(p.out.size, p.out.stride, "out");
  require(p.out.dtype == p.q.dtype || p.out.dtype == DType::f32, "decode: out is {}; {} or float32 is accepted",
          name_of(p.out.dtype), name_of(p.q.dtype));
  if (p.lse) {
    require_size(p.lse.size, {batch, heads, rows, 1}, "lse");
    require(p.lse.dtype == DType::f32 || (p.lse.dtype == DType::f64 && p.q.dtype == DType::f64),
            "decode: lse is {}; float32 is accepted", name_of(p.lse.dtype));
  }
  require(std::isfinite(p.scale), "decode: the scale is {}; a finite number is accepted", p.scale);
  require(std::isfinite(p.softcap) && p.softcap >= 0,
          "decode: the soft cap is {}; 0 (none) or a positive number is accepted", p.softcap);
  if (p.slot_bias) require_broadcast(p.slot_bias.size, {batch, heads, 1, p.slot_bias.size[3]}, "slot_bias");
  if (p.sink_logit) require_size(p.sink_logit.size, {1, heads, 1, 1}, "sink_logit");
  if (p.rotation.inverse_frequencies != nullptr) {
    require(p.rotation.rotated >= 2 && p.rotation.rotated % 2 == 0 && p.rotation.rotated <= d,
            "decode: {} dimensions are rotated; an even number from 2 to {} is accepted", p.rotation.rotated, d);
  }
  require((p.slot_positions == nullptr) == (p.context_lengths == nullptr),
          "decode: slot_positions and context_lengths are given together or not at all");
  require(static_cast<bool>(p.synthetic_k) == static_cast<bool>(p.synthetic_v),
          "decode: synthetic_k and synthetic_v are given together or not at all");
  if (p.synthetic_k) {
    const int64_t slots = p.synthetic_k.size[2];
    require_broadcast(p.synthetic_k.size, {batch, p.num_kv_heads, slots, d}, "synthetic_k");
    require_broadcast(p.synthetic_v.size, {batch, p.num_kv_heads, slots, dv}, "synthetic_v");
    require(p.synthetic_k.size[3] == d && p.synthetic_v.size[3] == dv && p.synthetic_v.size[2] == slots,
            "decode: synthetic_k is {} and synthetic_v {}; S slots of head sizes {} and {} are accepted",
            text_of(p.synthetic_k.size), text_of(p.synthetic_v.size), d, dv);
    check_dense(p.synthetic_k.size, p.synthetic_k.stride, "synthetic_k");
    check_dense(p.synthetic_v.size, p.synthetic_v.stride, "synthetic_v");
    if (p.synthetic_bias) require_broadcast(p.synthetic_bias.size, {batch, heads, 1, slots}, "synthetic_bias");
  } else {
    require(!p.synthetic_bias, "decode: synthetic_bias without synthetic_k");
  }
  if (p.column_sum) {
    require(p.column_sum.size[1] == p.num_kv_heads || p.column_sum.size[1] == heads,
            "decode: column_sum has {} heads; {} or {} is accepted", p.column_sum.size[1], p.num_kv_heads, heads);
    require_size(p.column_sum.size, {batch, p.column_sum.size[1], 1, p.column_sum.size[3]}, "column_sum");
  }
  if (p.arg_max) require_size(p.arg_max.size, {batch, heads, rows, 1}, "arg_max");
  check_lengths(p);
}

}  // namespace heed::kernels
