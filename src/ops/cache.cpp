#include "heed/ops/cache.h"

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "heed/ops/flash.h"

namespace heed::ops {
namespace {

using torch::Tensor;

kernels::View<float> float_view(const Tensor& tensor) {
  return tensor.defined() ? view_of(tensor).as<float>() : kernels::View<float>{};
}
kernels::View<const float> const_float_view(const Tensor& tensor) {
  return tensor.defined() ? view_of(tensor).as<const float>() : kernels::View<const float>{};
}

kernels::AnyView bytes_view(const Tensor& x) {
  return {x.data_ptr(),
          kernels::DType::i8,
          {x.size(0), x.size(1), x.size(2), x.size(3)},
          {x.stride(0), x.stride(1), x.stride(2), x.stride(3)}};
}

void set_codes(kernels::CacheView& view, const CodeTensors& codes) {
  if (codes.bits == 8) {
    const int64_t page = view.data.size[1];
    view.scale = {codes.scale.data_ptr<float>(), {view.data.size[0], page, 1, 1}, {page, 1, 1, 1}};
    return;
  }
  auto& packed = view.packed;
  packed.bits = codes.bits;
  packed.scale = static_cast<const kernels::Half*>(codes.scale.data_ptr());
  packed.zero = static_cast<const kernels::Half*>(codes.zero.data_ptr());
  packed.slot_group = codes.slot_group;
  packed.channel_group = codes.channel_group;
  if (!codes.exact_of.defined()) return;
  packed.exact_of = codes.exact_of.data_ptr<int32_t>();
  packed.exact = view_of(codes.exact.unsqueeze(2));
  packed.exact_group = codes.exact.size(1);
}

kernels::CacheView cache_view(const Tensor& data, const CodeTensors& codes, const CacheTensors& cache) {
  kernels::CacheView view;
  view.data = codes.bits ? bytes_view(data) : view_of(data);
  if (codes.bits) set_codes(view, codes);
  if (cache.table) {
    view.table = cache.table->data_ptr<int32_t>();
    view.table_stride = cache.table->size(2);
    view.page_size = cache.page_size;
  }
  return view;
}

kernels::ReadRotation read_rotation(const KeyRotation& rotation) {
  kernels::ReadRotation read;
  read.inverse_frequencies = rotation.inverse_frequencies.data_ptr<float>();
  read.rotated = 2 * rotation.inverse_frequencies.numel();
  read.interleaved = rotation.interleaved;
  if (rotation.positions.defined()) {
    read.positions = rotation.positions.data_ptr<int64_t>();
    read.positions_stride = rotation.positions.size(2);
  }
  return read;
}

bool wants_reference(const Tensor& q) { return q.scalar_type() == torch::kFloat64 || kernels::use_reference(); }

int64_t most_slots(const CacheTensors& cache) {
  return cache.lengths.numel() ? cache.lengths.max().item<int64_t>() : 0;
}

template <class Params>
void set_lengths(Params& params, const CacheTensors& cache) {
  params.lengths = cache.lengths.data_ptr<int64_t>();
  params.lengths_stride_b = cache.lengths.stride(0);
  params.lengths_stride_h = cache.lengths.stride(1);
}

kernels::KeySummaryParams summary_params(const CacheTensors& cache, const Tensor& summarized, int64_t page_slots) {
  kernels::KeySummaryParams p;
  p.k = cache_view(cache.k, cache.k_codes, cache);
  p.num_kv_heads = cache.kv_heads();
  set_lengths(p, cache);
  p.summarized = summarized.data_ptr<int64_t>();
  p.page_slots = page_slots;
  return p;
}

}  // namespace

CacheTensors CacheTensors::sequence(int64_t b) const {
  CacheTensors part = *this;
  part.lengths = lengths.narrow(0, b, 1);
  if (table) {
    part.table = table->narrow(0, b, 1);
  } else {
    part.k = k.narrow(0, b, 1);
    part.v = v.defined() ? v.narrow(0, b, 1) : v;
  }
  return part;
}

DecodeResult decode(const Tensor& q, const CacheTensors& cache, const DecodeOptions& o) {
  DecodeResult result;
  const auto floats = q.options().dtype(q.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32);
  const int64_t channels = cache.v.size(3) * (cache.v_codes.bits ? 8 / cache.v_codes.bits : 1);
  result.out = torch::empty({q.size(0), q.size(1), q.size(2), channels}, q.options());
  result.lse = torch::empty({q.size(0), q.size(1), q.size(2), 1}, floats);
  kernels::DecodeParams p;
  const auto rows = q.stride(3) == 1 ? q : q.contiguous();
  p.q = view_of(rows);
  p.k = cache_view(cache.k, cache.k_codes, cache);
  p.v = cache_view(cache.v, cache.v_codes, cache);
  p.out = view_of(result.out);
  p.lse = view_of(result.lse);
  p.num_kv_heads = cache.kv_heads();
  set_lengths(p, cache);
  p.scale = o.scale;
  p.softcap = o.softcap;
  p.mask = o.mask;
  if (o.rotation) p.rotation = read_rotation(*o.rotation);
  p.synthetic_k = const_float_view(o.synthetic_k);
  p.synthetic_v = const_float_view(o.synthetic_v);
  p.synthetic_bias = const_float_view(o.synthetic_bias);
  if (o.column_sum) {
    result.column_sum = torch::empty({q.size(0), q.size(1), 1, most_slots(cache)}, torch::kFloat32);
    p.column_sum = float_view(result.column_sum);
  }
  if (o.arg_max) {
    result.arg_max = torch::empty({q.size(0), q.size(1), q.size(2), 1}, torch::kInt64);
    const auto& s = result.arg_max;
    p.arg_max = {s.data_ptr<int64_t>(), {s.size(0), s.size(1), s.size(2), 1}, {s.stride(0), s.stride(1), 1, 1}};
  }
  p.slots_read = &result.slots_read;
  wants_reference(q) ? kernels::reference::decode(p) : kernels::decode(p);
  if (o.column_sum) result.column_sum = result.column_sum.squeeze(2);
  if (o.arg_max) result.arg_max = result.arg_max.squeeze(3);
  return result;
}

Tensor slot_scores(const Tensor& q, const CacheTensors& cache, const SlotScoreOptions& o) {
  using kernels::HeadReduction;
  const int64_t heads = o.heads == HeadReduction::none ? q.size(1) : o.all_heads ? 1 : cache.kv_heads();
  auto scores = torch::empty({q.size(0), heads, q.size(2), most_slots(cache)}, torch::kFloat32);
  kernels::SlotScoresParams p;
  const auto rows = q.stride(3) == 1 ? q : q.contiguous();
  p.q = view_of(rows);
  p.k = cache_view(cache.k, cache.k_codes, cache);
  p.num_kv_heads = cache.kv_heads();
  set_lengths(p, cache);
  p.scale = o.scale;
  if (o.rotation) p.rotation = read_rotation(*o.rotation);
  p.begin = o.begin;
  p.exclude_last = o.exclude_last;
  p.softmax = o.softmax;
  p.heads = o.heads;
  p.scores = float_view(scores);
  wants_reference(q) ? kernels::reference::slot_scores(p) : kernels::slot_scores(p);
  return scores;
}

Tensor top_k(const Tensor& scores, int64_t k, int64_t first, int64_t last, const Tensor& lengths) {
  const int64_t most = std::min(scores.size(3), std::max(k, first + last));
  auto indices = torch::empty({scores.size(0), scores.size(1), scores.size(2), most}, torch::kInt32);
  kernels::TopKParams p;
  p.scores.values = const_float_view(scores);
  if (lengths.defined()) {
    p.scores.lengths = lengths.data_ptr<int64_t>();
    p.scores.stride_b = lengths.stride(0);
    p.scores.stride_h = lengths.stride(1);
  }
  p.k = k;
  p.first = first;
  p.last = last;
  p.lists.indices = {indices.data_ptr<int32_t>(),
                     {indices.size(0), indices.size(1), indices.size(2), most},
                     {indices.stride(0), indices.stride(1), indices.stride(2), 1}};
  kernels::top_k(p);
  return indices;
}

Tensor top_p(const Tensor& weights, double mass, int64_t first, int64_t last, int64_t least) {
  auto indices = torch::empty(weights.sizes(), torch::kInt32);
  kernels::TopPParams p;
  p.scores.values = const_float_view(weights);
  p.mass = mass;
  p.first = first;
  p.last = last;
  p.least = least;
  p.lists.indices = {indices.data_ptr<int32_t>(),
                     {indices.size(0), indices.size(1), indices.size(2), indices.size(3)},
                     {indices.stride(0), indices.stride(1), indices.stride(2), 1}};
  kernels::top_p(p);
  return indices;
}

Tensor pool(const Tensor& scores, int64_t width, kernels::PoolParams::Kind kind, const Tensor& lengths) {
  auto pooled = torch::empty_like(scores, torch::MemoryFormat::Contiguous);
  kernels::PoolParams p;
  p.in.values = const_float_view(scores);
  if (lengths.defined()) {
    p.in.lengths = lengths.data_ptr<int64_t>();
    p.in.stride_b = lengths.stride(0);
    p.in.stride_h = lengths.stride(1);
  }
  p.kind = kind;
  p.width = width;
  p.out = float_view(pooled);
  kernels::pool(p);
  return pooled;
}

void summarize_keys(const CacheTensors& cache, const Tensor& summarized, int64_t page_slots, Tensor& extremes) {
  auto p = summary_params(cache, summarized, page_slots);
  p.extremes = view_of(extremes);
  kernels::summarize_keys(p);
}

void average_keys(const CacheTensors& cache, const Tensor& summarized, int64_t page_slots, Tensor& means) {
  auto p = summary_params(cache, summarized, page_slots);
  p.means = view_of(means);
  kernels::summarize_keys(p);
}

Tensor page_bounds(const Tensor& q, const Tensor& extremes, const Tensor& lengths, int64_t page_slots, double scale,
                   kernels::HeadReduction heads) {
  const int64_t rows = heads == kernels::HeadReduction::none ? q.size(1) : extremes.size(1);
  auto bounds = torch::empty({q.size(0), rows, q.size(2), extremes.size(2)}, torch::kFloat32);
  kernels::PageBoundsParams p;
  const auto dense = q.stride(3) == 1 ? q : q.contiguous();
  p.q = view_of(dense);
  p.extremes = view_of(extremes);
  p.lengths = lengths.data_ptr<int64_t>();
  p.lengths_stride_b = lengths.stride(0);
  p.lengths_stride_h = lengths.stride(1);
  p.page_slots = page_slots;
  p.scale = scale;
  p.heads = heads;
  p.bounds = float_view(bounds);
  kernels::page_bounds(p);
  return bounds;
}

}  // namespace heed::ops
