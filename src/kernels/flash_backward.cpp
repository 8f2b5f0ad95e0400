// Schedules the backward: parts of units over threads, then the sums that parts and rows share, in a fixed order.
#include <cstring>

#include <omp.h>

#include "heed/kernels/flash.h"
#include "heed/kernels/runtime.h"
#include "kernels/cpu/flash_engine.h"
#include "kernels/cpu/scratch.h"
#include "kernels/reference/element.h"

namespace heed::kernels {
namespace {

int threads_for(int64_t items) { return static_cast<int>(std::clamp<int64_t>(items, 1, num_threads())); }

void clear_rows(const AnyView& view, int64_t b, int64_t begin, int64_t end) {
  for (int64_t h = 0; h < view.size[1]; ++h) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t d = 0; d < view.size[3]; ++d) store_element(view, b, h, i, d, 0);
    }
  }
}

/// Rows that belong to no sequence.
void clear_outside(const AnyView& grad, const int64_t* starts, int64_t sequences, const int64_t* lengths) {
  if (!grad) return;
  if (starts != nullptr) {
    clear_rows(grad, 0, 0, sequences > 0 ? starts[0] : grad.size[2]);
    if (sequences > 0) clear_rows(grad, 0, starts[sequences], grad.size[2]);
  } else if (lengths != nullptr) {
    for (int64_t b = 0; b < grad.size[0]; ++b) clear_rows(grad, b, lengths[b], grad.size[2]);
  }
}

/// Where the buffers of key and value gradients lie: one a part when parts are added later, else one a thread.
struct Buffers {
  std::vector<int64_t> offsets;  ///< of each part, in floats
  int64_t floats = 0;
};

Buffers lay_out(const FlashTask& task, const BackwardPlan& plan, int threads) {
  Buffers buffers;
  int64_t largest = 0;
  for (const BackwardPart& part : plan.parts) {
    const int64_t size = (KeyGradients(task, plan.units[part.unit], part, nullptr).floats() + 15) / 16 * 16;
    buffers.offsets.push_back(plan.shared ? buffers.floats : 0);
    buffers.floats += size;
    largest = std::max(largest, size);
  }
  if (!plan.shared) buffers.floats = largest * threads;
  return buffers;
}

/// Calls visit(begin, end) for the spans of keys between the ends of parts.
template <class Visit>
void each_span(int64_t keys, const std::vector<KeyGradients>& parts, const Visit& visit) {
  std::vector<int64_t> cuts{0, keys};
  for (const KeyGradients& part : parts) cuts.push_back(part.begin), cuts.push_back(part.begin + part.keys);
  std::sort(cuts.begin(), cuts.end());
  for (size_t c = 0; c + 1 < cuts.size(); ++c) {
    if (cuts[c] < cuts[c + 1]) visit(cuts[c], cuts[c + 1]);
  }
}

/// Adds a unit's parts and writes its gradients.
void write_unit(const FlashTask& task, const FlashGrads& g, const BackwardUnit& unit,
                const std::vector<KeyGradients>& parts) {
  const Sequence s = sequence_at(task.p, unit.sequence);
  const int32_t* const rows = task.order == nullptr ? nullptr : task.order->key_gradient_rows();
  const int64_t widest = std::max(parts[0].d_padded, parts[0].dv_padded);
  std::vector<float> row(widest);
  std::vector<const float*> sources;
  each_span(s.num_keys, parts, [&](int64_t begin, int64_t end) {
    for (const bool keys : {true, false}) {
      const AnyView& to = keys ? g.d_k : g.d_v;
      if (!to) continue;
      const auto& heads = keys ? unit.key_heads : unit.value_heads;
      const int64_t padded = keys ? parts[0].d_padded : parts[0].dv_padded;
      for (size_t place = 0; place < heads.size(); ++place) {
        sources.clear();
        for (const KeyGradients& part : parts) {
          if (part.begin <= begin && end <= part.begin + part.keys)
            sources.push_back(keys ? part.key_rows(place) : part.value_rows(place));
        }
        // Keys that no block visits: 0.
        const std::vector<float> nothing(sources.empty() ? (end - begin) * padded : 0);
        if (sources.empty()) sources.push_back(nothing.data() - begin * padded);
        sum_parts(sources.data(), static_cast<int64_t>(sources.size()), padded, begin, end,
                  keys ? static_cast<float>(task.scale) : 1.0f, to, s.tensor_batch, heads[place], s.k_begin, row.data(),
                  rows);
      }
    }
  });
}

void run_plan(const FlashTask& task, const FlashGrads& g, const BackwardPlan& plan, const RowSums& sums) {
  const int64_t count = static_cast<int64_t>(plan.parts.size());
  const int threads = threads_for(count);
  const Buffers layout = lay_out(task, plan, threads);
  const int64_t scratch_bytes = backward_scratch_bytes(task);
  const Block scratch = allocate(scratch_bytes * threads), gradients = allocate(layout.floats * sizeof(float));
  float* const buffers = static_cast<float*>(gradients.get());
  const int64_t per_thread = layout.floats / threads;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t t = 0; t < count; ++t) {
    const BackwardPart& part = plan.parts[t];
    const BackwardUnit& unit = plan.units[part.unit];
    float* const data = buffers + (plan.shared ? layout.offsets[t] : omp_get_thread_num() * per_thread);
    const KeyGradients buffer(task, unit, part, data);
    std::memset(data, 0, buffer.floats() * sizeof(float));
    for (int64_t i = part.first; i < part.last; i += part.step) {
      run_backward_item(task, g, unit, unit.blocks[i], buffer, sums,
                        static_cast<char*>(scratch.get()) + scratch_bytes * omp_get_thread_num());
    }
    if (!plan.shared) write_unit(task, g, unit, {buffer});
  }
  if (!plan.shared) return;
#pragma omp parallel for num_threads(threads_for(num_threads())) schedule(dynamic, 1)
  for (size_t u = 0; u < plan.units.size(); ++u) {
    const BackwardUnit& unit = plan.units[u];
    std::vector<KeyGradients> parts;
    for (int64_t part = unit.first_part; part < unit.first_part + unit.parts; ++part)
      parts.emplace_back(task, unit, plan.parts[part], buffers + layout.offsets[part]);
    write_unit(task, g, unit, parts);
  }
}

/// grad [1|B, 1|Hq, 1|N, 1] = the row sums, added over its dimensions of size 1.
void reduce_rows(const FlashParams& p, const float* rows, const AnyView& grad) {
  std::vector<double> sums(grad.size[0] * grad.size[1] * grad.size[2]);
  const auto place = [&](int axis, int64_t index) { return grad.size[axis] == 1 ? 0 : index; };
  for (int64_t s = 0; s < count_sequences(p); ++s) {
    const Sequence sequence = sequence_at(p, s);
    for (int64_t h = 0; h < p.q.size[1]; ++h) {
      const float* from = rows + (sequence.tensor_batch * p.q.size[1] + h) * p.q.size[2] + sequence.q_begin;
      for (int64_t i = 0; i < sequence.num_queries; ++i) {
        sums[(place(0, sequence.index) * grad.size[1] + place(1, h)) * grad.size[2] + place(2, i)] += from[i];
      }
    }
  }
  for (int64_t b = 0; b < grad.size[0]; ++b) {
    for (int64_t h = 0; h < grad.size[1]; ++h) {
      for (int64_t i = 0; i < grad.size[2]; ++i)
        store_element(grad, b, h, i, 0, sums[(b * grad.size[1] + h) * grad.size[2] + i]);
    }
  }
}

void run_terms(const FlashTask& task, const FlashGrads& g) {
  const std::vector<TermItem> items = cut_terms(g);
  const int64_t count = static_cast<int64_t>(items.size());
  if (count == 0) return;
  const int threads = threads_for(count);
  const int64_t bytes = term_scratch_bytes(task);
  const Block scratch = allocate(bytes * threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t t = 0; t < count; ++t) {
    run_term_item(task, g, items[t], static_cast<char*>(scratch.get()) + bytes * omp_get_thread_num());
  }
}

}  // namespace

void run_backward(const FlashTask& task, const FlashGrads& g) {
  const FlashParams& p = task.p;
  clear_outside(g.d_q, p.cu_q, p.num_sequences, p.q_lengths);
  clear_outside(g.d_k, p.cu_k, p.num_sequences, p.k_lengths);
  clear_outside(g.d_v, p.cu_k, p.num_sequences, p.k_lengths);
  const int64_t rows = p.q.size[0] * p.q.size[1] * p.q.size[2];
  std::vector<float> temperature(g.d_temperature ? rows : 0), sink(g.d_sink ? rows : 0),
      sigmoid_bias(g.d_sigmoid_bias ? rows : 0);
  const RowSums sums{g.d_temperature ? temperature.data() : nullptr, g.d_sink ? sink.data() : nullptr,
                     g.d_sigmoid_bias ? sigmoid_bias.data() : nullptr};
  if (p.q.size[1] > 0) run_plan(task, g, plan_backward(task), sums);
  if (g.d_temperature) reduce_rows(p, temperature.data(), g.d_temperature);
  if (g.d_sink) reduce_rows(p, sink.data(), g.d_sink);
  if (g.d_sigmoid_bias) reduce_rows(p, sigmoid_bias.data(), g.d_sigmoid_bias);
  run_terms(task, g);
}

void flash_backward(const FlashParams& p, const FlashGrads& g) {
  if (use_reference() || p.q.dtype == DType::f64) return reference::flash_backward(p, g);
  check(p, g);
  run_backward(FlashTask(p), g);
}

void flash_backward(const FlashParams& p, const Variant& variant, const FlashGrads& g) {
  check(p, variant, g);
  run_backward(FlashTask(p, variant), g);
}

int64_t flash_backward_bytes(const FlashParams& p) {
  check(p);
  const FlashTask task(p);
  const BackwardPlan plan = plan_backward(task);
  const int threads = threads_for(static_cast<int64_t>(plan.parts.size()));
  const int64_t rows = p.q.size[0] * p.q.size[1] * p.q.size[2];
  const bool terms = p.scores.bias || p.scores.multiplier;
  return threads * backward_scratch_bytes(task) +
         lay_out(task, plan, threads).floats * static_cast<int64_t>(sizeof(float)) +
         rows * static_cast<int64_t>(sizeof(float)) * ((p.scores.temperature ? 1 : 0) + 1) +
         (terms ? num_threads() * term_scratch_bytes(task) : 0);
}

}  // namespace heed::kernels
