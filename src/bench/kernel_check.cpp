// Cases against the double reference, on as many query rows as take about a second.
#include <algorithm>
#include <cmath>
#include <random>

#include "bench/kernel_problem.h"
#include "kernels/reference/element.h"

namespace heed::bench {
namespace {

using kernels::AnyView;
using kernels::DType;
using Call = KernelCase::Call;

/// The logits' and weights' own rounding, and twice that of storing inputs' products in 16 bits: once for the weights a
/// plain formula would round, once for the output.
double tolerance_of(Call call, DType dtype) {
  const double accumulated = call == Call::backward ? 1e-4 : 2e-5;
  // Scores are written in float32.
  if (call == Call::scores || call == Call::bounds) return accumulated;
  if (dtype == DType::f16) return accumulated + 2 * std::ldexp(1, -11);
  if (dtype == DType::bf16) return accumulated + 2 * std::ldexp(1, -8);
  return accumulated;
}

/// Sorted rows, the first and the last among them.
std::vector<int64_t> sample_rows(int64_t queries, int64_t most) {
  std::vector<int64_t> rows(queries);
  for (int64_t i = 0; i < queries; ++i) rows[i] = i;
  if (queries <= most) return rows;
  std::mt19937_64 random(7);
  for (size_t i = 1; i + 1 < rows.size(); ++i) std::swap(rows[i], rows[i + random() % (rows.size() - 1 - i)]);
  std::swap(rows[1], rows.back());
  rows.resize(most);
  std::sort(rows.begin(), rows.end());
  return rows;
}

/// The mask and lists of a whole call, asked for some of its rows.
struct SampledMask {
  const kernels::Mask* mask;
  const kernels::BlockList* blocks;
  const kernels::Neighborhood* around;
  const std::vector<int64_t>* rows;
  int64_t num_queries, num_keys;

  static bool visible(const void* context, int64_t b, int64_t h, int64_t i, int64_t j) {
    const auto& self = *static_cast<const SampledMask*>(context);
    const int64_t row = (*self.rows)[i];
    if (self.around != nullptr) return kernels::sees(*self.around, row, j);
    if (self.blocks != nullptr) {
      const auto& list = *self.blocks;
      const auto* begin = list.columns + list.offsets[row / list.query_block];
      const auto* end = list.columns + list.offsets[row / list.query_block + 1];
      if (!std::binary_search(begin, end, static_cast<int32_t>(j / list.key_block))) return false;
    }
    return self.mask->visible({b, h, self.num_queries, self.num_keys}, row, j);
  }
};

/// The heads of a view that belong to one KV head.
AnyView of_head(AnyView view, int64_t head, int64_t heads) {
  view.data =
      static_cast<std::byte*>(view.data) + head * heads * view.stride[1] * static_cast<int64_t>(size_of(view.dtype));
  view.size[1] = heads;
  return view;
}

}  // namespace

CheckResult KernelProblem::check(double work) {
  if (scan_) return scan_->check(work / 16);
  if (chunk_) return chunk_->check(work);
  if (!case_.bound_by_reading()) return check_flash(work);
  return case_.call == Call::decode ? check_decode() : check_selection();
}

CheckResult KernelProblem::check_flash(double work) {
  const KernelCase& c = case_;
  const bool backward = c.call == Call::backward;
  double row_work =
      static_cast<double>(c.pairs()) / static_cast<double>(c.queries) * static_cast<double>(c.d) * (backward ? 5 : 2);
  // Who sees whom takes the reference as long as some products, for every key.
  if (c.around) row_work += 16.0 * static_cast<double>(c.batch * c.q_heads * c.keys);
  const auto most = std::max<int64_t>(8, static_cast<int64_t>(work / row_work));
  const auto rows = sample_rows(c.queries, most);
  const kernels::Mask whole = mask_;
  const SampledMask sampled{
      &whole, blocks_ ? &blocks_->list : nullptr, c.around ? &*c.around : nullptr, &rows, c.queries, c.keys};

  const Buffer q = in_double(q_.view(), &rows), k = in_double(k_.view()), v = in_double(v_.view());
  const Buffer out(DType::f64, q.view().size), lse(DType::f64, {c.batch, c.q_heads, q.view().size[2], 1});
  kernels::FlashParams p;
  p.q = q.view(), p.k = k.view(), p.v = v.view(), p.out = out.view(), p.lse = lse.view();
  p.mask = kernels::Predicate{SampledMask::visible, &sampled};
  kernels::reference::flash_forward(p);
  if (!backward) run();
  const double tolerance = tolerance_of(c.call, q_.view().dtype);
  CheckResult result{
      std::max(relative_error(in_double(out_.view(), &rows), out), relative_error(in_double(lse_.view(), &rows), lse)),
      tolerance};
  if (!backward) return result;

  // Rows without an output gradient contribute nothing, so the sampled rows account for every key's gradient.
  Buffer d_out(d_out_.view().dtype, d_out_.view().size);
  d_out.zero();
  for (int64_t b = 0; b < c.batch; ++b) {
    for (int64_t h = 0; h < c.q_heads; ++h) {
      for (const int64_t i : rows) {
        for (int64_t d = 0; d < c.d; ++d)
          store_element(d_out.view(), b, h, i, d, load_element(d_out_.view(), b, h, i, d));
      }
    }
  }
  auto g = grads();
  g.d_out = d_out.view();
  run_backward(g);

  const Buffer sampled_d_out = in_double(d_out.view(), &rows), d_q(DType::f64, q.view().size),
               d_k(DType::f64, k.view().size), d_v(DType::f64, v.view().size);
  kernels::FlashGrads want;
  want.d_out = sampled_d_out.view();
  want.d_q = d_q.view(), want.d_k = d_k.view(), want.d_v = d_v.view();
  kernels::reference::flash_backward(p, want);
  for (const auto& [got, wanted, sample] :
       {std::tuple{&d_q_, &d_q, &rows}, {&d_k_, &d_k, nullptr}, {&d_v_, &d_v, nullptr}})
    result.error = std::max(result.error, relative_error(in_double(got->view(), sample), *wanted));
  return result;
}

CheckResult KernelProblem::check_decode() {
  const KernelCase& c = case_;
  CheckResult result{0, tolerance_of(c.call, q_.view().dtype)};
  const int64_t group = c.q_heads / c.kv_heads;
  for (size_t cache = 0; cache < caches_.size(); cache += std::max<size_t>(1, caches_.size() - 1)) {
    auto p = decode(cache);
    kernels::decode(p);
    // One key and value head a cache is enough to tell; the reference takes a second for all.
    const int64_t head = cache == 0 ? 0 : c.kv_heads - 1;
    Buffer q(DType::f32, {c.batch, group, c.queries, c.d}), want(DType::f32, q.view().size);
    const Buffer of_group = in_double(of_head(p.q, head, group));
    for (int64_t i = 0; i < q.count(); ++i)
      static_cast<float*>(q.view().data)[i] = static_cast<float>(static_cast<const double*>(of_group.view().data)[i]);
    const Buffer have = in_double(of_head(p.out, head, group));
    p.q = q.view(), p.out = want.view();
    p.num_kv_heads = 1;
    p.k.data = of_head(p.k.data, head, 1), p.v.data = of_head(p.v.data, head, 1);
    if (p.k.scale) {
      p.k.scale = p.v.scale = of_head(caches_[cache].scale.view(), head, 1).as<const float>();
    }
    kernels::reference::decode(p);
    result.error = std::max(result.error, relative_error(have, in_double(want.view())));
  }
  return result;
}

CheckResult KernelProblem::check_selection() {
  const KernelCase& c = case_;
  CheckResult result{0, tolerance_of(c.call, q_.view().dtype)};
  const int64_t group = c.q_heads / c.kv_heads;
  for (size_t cache = 0; cache < caches_.size(); cache += std::max<size_t>(1, caches_.size() - 1)) {
    // As in check_decode, one head a cache.
    const int64_t head = cache == 0 ? 0 : c.kv_heads - 1;
    const Buffer want(DType::f32, {c.batch, 1, c.queries, scores_.view().size[3]});
    if (c.call == Call::scores) {
      auto p = scores(cache);
      kernels::slot_scores(p);
      p.q = of_head(p.q, head, group), p.k.data = of_head(p.k.data, head, 1), p.num_kv_heads = 1;
      p.scores = want.view().as<float>();
      kernels::reference::slot_scores(p);
    } else {
      auto p = bounds(cache);
      kernels::page_bounds(p);
      p.q = of_head(p.q, head, group), p.extremes = of_head(p.extremes, head, 1);
      p.bounds = want.view().as<float>();
      kernels::reference::page_bounds(p);
    }
    result.error =
        std::max(result.error, relative_error(in_double(of_head(scores_.view(), head, 1)), in_double(want.view())));
  }
  return result;
}

}  // namespace heed::bench
