// The query rows that share a KV head, ready for the product with keys as they are stored.
#if defined(HEED_KERNELS_CPU_DECODE_QUERIES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_DECODE_QUERIES_INL_H_
#undef HEED_KERNELS_CPU_DECODE_QUERIES_INL_H_
#else
#define HEED_KERNELS_CPU_DECODE_QUERIES_INL_H_
#endif

#include <algorithm>
#include <type_traits>

#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/decode_call.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

/// Whether keys cannot be multiplied as they are stored.
inline bool stages_keys(const DecodeCall& call, const SlotSource& keys, bool real) {
  const bool rotates = real && call.p.rotation.inverse_frequencies != nullptr;
  return call.d % kLanes != 0 || rotates || keys.scale_use == ScaleUse::general;
}

/// `q` [query_rows + RowState::kRowPadding][q_stride]: queries times the call's scale and, where keys have one scale a
/// channel, times that; zero beyond d and beyond the rows. `shift` [query_rows]: what zero points add to every product,
/// or, with one zero point a slot, what it is multiplied by.
inline void pack_queries(const DecodeCall& call, const SlotSource& keys, int64_t b, int64_t h, float* q,
                         int64_t q_stride, float* shift) {
  const DecodeParams& p = call.p;
  const float scale = static_cast<float>(call.scale);
  const bool folds = keys.scale_use == ScaleUse::per_channel;
  const CacheView& cache = keys.cache;
  std::fill_n(q + call.query_rows * q_stride, RowState::kRowPadding * q_stride, 0.0f);
  for (int64_t r = 0; r < call.query_rows; ++r) {
    float* to = q + r * q_stride;
    with_float_type(p.q, [&](auto* data) {
      const auto view = p.q.as<std::remove_pointer_t<decltype(data)>>();
      read_row(view.row(b, h * call.group + r / call.rows, r % call.rows), call.d, to, true);
    });
    for (int64_t c = 0; c < call.d; ++c) to[c] *= scale;
    double sum = 0;
    if (folds) {
      const float* factors = keys.channels(cache.scale, {b, h, 0});
      const auto at = [&](const View<const float>& view, int64_t c) {
        return view.size[3] == 1 ? 0 : c / cache.channel_group * view.stride[3];
      };
      const float* zeros = cache.zero ? keys.channels(cache.zero, {b, h, 0}) : nullptr;
      for (int64_t c = 0; c < call.d; ++c) {
        if (zeros != nullptr) sum += static_cast<double>(to[c]) * zeros[at(cache.zero, c)];
        to[c] *= factors[at(cache.scale, c)];
      }
    } else {
      for (int64_t c = 0; c < call.d; ++c) sum += to[c];
    }
    shift[r] = static_cast<float>(sum);
  }
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
