#include "heed/kernels/panel_attention.h"

#include <bit>
#include <vector>

#include <omp.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "kernels/cpu/flash_engine.h"
#include "kernels/panel_order.h"
#include "kernels/reference/element.h"

namespace heed::kernels {
namespace {

bool takes_reference(const FlashParams& p) { return use_reference() || p.q.dtype == DType::f64; }

void check_divides(int64_t a, int64_t b, const char* what) {
  require(a > 0 && (a % b == 0 || b % a == 0),
          "key panels of {} choosers for {} {} heads; a divisor or a multiple is accepted", b, a, what);
}

/// One chooser of one batch item: its list row, and its heads in the call's tensors.
struct Choice {
  int64_t batch, list_row, q_head, q_heads, k_head, k_heads, v_head, v_heads;
  bool last;  ///< of its batch item
};

AnyView part_of(AnyView view, int64_t batch, int64_t head, int64_t heads) {
  if (!view) return view;
  view.data = static_cast<char*>(view.data) +
              (batch * view.stride[0] + head * view.stride[1]) * static_cast<int64_t>(size_of(view.dtype));
  view.size[0] = 1, view.size[1] = heads;
  return view;
}

/// Calls visit(choice, seen), `seen` being the first word of its bits.
template <class Visit>
void each_choice(const PanelParams& p, const Visit& visit) {
  const FlashParams& a = p.attention;
  const KeyPanels& panels = p.panels;
  const uint64_t* seen = panels.seen;
  for (int64_t b = 0; b < panels.batch; ++b) {
    for (int64_t c = 0; c < panels.choosers; ++c) {
      const auto of = [&](int64_t heads) {
        const int64_t first = c * heads / panels.choosers;
        return std::pair{first, std::max<int64_t>(1, heads / panels.choosers)};
      };
      const auto [q_head, q_heads] = of(a.q.size[1]);
      const auto [k_head, k_heads] = of(a.k.size[1]);
      const auto [v_head, v_heads] = of(a.v.size[1]);
      const int64_t list_row = (b * panels.choosers + c) * panels.blocks();
      visit(Choice{b, list_row, q_head, q_heads, k_head, k_heads, v_head, v_heads, c + 1 == panels.choosers}, seen);
      for (int64_t t = list_row; t < list_row + panels.blocks(); ++t)
        seen += words_of_block(panels, panels.offsets[t + 1] - panels.offsets[t]);
    }
  }
}

/// The call of a choice as the engine takes it: queries and keys are counted in slots of the order.
FlashParams in_slots(const PanelParams& p, const Choice& c, const PanelOrder& order) {
  FlashParams a = p.attention;
  a.q = part_of(a.q, c.batch, c.q_head, c.q_heads), a.out = part_of(a.out, c.batch, c.q_head, c.q_heads);
  a.lse = part_of(a.lse, c.batch, c.q_head, c.q_heads);
  a.k = part_of(a.k, c.batch, c.k_head, c.k_heads), a.v = part_of(a.v, c.batch, c.v_head, c.v_heads);
  a.q.size[2] = a.out.size[2] = order.query_slots();
  if (a.lse) a.lse.size[2] = order.query_slots();
  a.k.size[2] = a.v.size[2] = order.key_slots();
  return a;
}

/// Gradients of the keys, or the values, of a batch item, summed over what every slot of a row gets.
class RowGradients {
 public:
  explicit RowGradients(const AnyView& to) : to_(to), rows_(to ? to.size[1] * to.size[2] * to.size[3] : 0) {}

  /// Room for `slots` rows of `heads` heads, as a view [1, heads, slots, size].
  AnyView slots(int64_t heads, int64_t slots) {
    if (!to_) return {};
    slots_.resize(heads * slots * to_.size[3]);
    AnyView view = to_;
    view.data = slots_.data(), view.dtype = DType::f32;
    view.size = {1, heads, slots, to_.size[3]};
    view.stride = dense_strides(view.size);
    return view;
  }

  /// Adds what lies in the slots to the rows of heads `head` on.
  void add(int64_t head, int64_t heads, const int32_t* rows, int64_t slots) {
    if (!to_) return;
    const int64_t size = to_.size[3];
#pragma omp parallel for num_threads(static_cast <int>(std::min <int64_t>(heads, num_threads()))) schedule(static)
    for (int64_t h = 0; h < heads; ++h) {
      const float* from = slots_.data() + h * slots * size;
      float* const sums = rows_.data() + (head + h) * to_.size[2] * size;
      for (int64_t s = 0; s < slots; ++s, from += size) {
        float* const row = sums + rows[s] * size;
        for (int64_t d = 0; d < size; ++d) row[d] += from[d];
      }
    }
  }

  void write(int64_t batch) {
    if (!to_) return;
    const float* from = rows_.data();
    for (int64_t h = 0; h < to_.size[1]; ++h)
      for (int64_t j = 0; j < to_.size[2]; ++j)
        for (int64_t d = 0; d < to_.size[3]; ++d) store_element(to_, batch, h, j, d, *from++);
    std::fill(rows_.begin(), rows_.end(), 0.0f);
  }

 private:
  const AnyView to_;
  std::vector<float> rows_, slots_;
};

/// Blocks [first, ...) of a chooser of at most so many keys together, one at least: what is buffered does not grow with
/// the sequence.
int64_t last_block(const KeyPanels& panels, int64_t list_row, int64_t first) {
  constexpr int64_t kMostSlots = int64_t{1} << 16;
  const int64_t* const offsets = panels.offsets + list_row;
  int64_t last = first + 1;
  while (last < panels.blocks() && offsets[last + 1] - offsets[first] <= kMostSlots) ++last;
  return last;
}

}  // namespace

void check(const PanelParams& params) {
  const FlashParams& p = params.attention;
  const KeyPanels& panels = params.panels;
  require(p.q_lengths == nullptr && p.k_lengths == nullptr && p.cu_q == nullptr && p.cu_k == nullptr,
          "key panels with lengths or packed sequences; the bits say who sees whom");
  require(p.mask.everything() && p.blocks == nullptr, "key panels together with a mask or a block list");
  require(p.q_to_k_head == nullptr && p.q_to_v_head == nullptr, "key panels with a head map; none is accepted");
  const Scores& s = p.scores;
  require(s.alibi_slopes == nullptr && !s.bias && !s.temperature && !s.multiplier && p.dropout.probability == 0,
          "key panels with ALiBi, bias, temperature, multiplier or dropout; the soft cap alone is accepted");
  require(p.normalizer.kind == Normalizer::Kind::softmax && !p.normalizer.sink_logit,
          "key panels with another normaliser or a sink; softmax is accepted");
  check(p);
  require(panels.batch == p.q.size[0], "key panels of {} batch items; {} are accepted", panels.batch, p.q.size[0]);
  require(panels.queries == p.q.size[2], "key panels of {} queries; {} are accepted", panels.queries, p.q.size[2]);
  require(panels.block >= 1, "key panels of {} queries a block; 1 or more are accepted", panels.block);
  require(panels.choosers >= 1 && p.q.size[1] % panels.choosers == 0,
          "key panels of {} choosers for {} query heads; a divisor is accepted", panels.choosers, p.q.size[1]);
  check_divides(p.k.size[1], panels.choosers, "key");
  check_divides(p.v.size[1], panels.choosers, "value");
  require(panels.offsets != nullptr && panels.offsets[0] == 0, "key panels without offsets from 0 on");
  for (int64_t r = 0; r < panels.list_rows(); ++r) {
    const int64_t begin = panels.offsets[r], end = panels.offsets[r + 1];
    require(begin <= end, "offset {} of key panels is {}, below the {} before it", r + 1, end, begin);
    for (int64_t c = begin; c < end; ++c)
      require(
          panels.keys[c] >= 0 && panels.keys[c] < p.k.size[2] && (c == begin || panels.keys[c - 1] < panels.keys[c]),
          "key {} of list row {} of key panels; ascending ones of 0 to {} are accepted", panels.keys[c], r,
          p.k.size[2] - 1);
  }
}

void panel_attention(const PanelParams& p) {
  if (takes_reference(p.attention)) return reference::panel_attention(p);
  check(p);
  each_choice(p, [&](const Choice& choice, const uint64_t* seen) {
    const PanelOrder order(p.panels, choice.list_row, 0, p.panels.blocks(), seen);
    const FlashParams slots = in_slots(p, choice, order);
    run_forward(FlashTask(slots, {}, &order));
  });
}

void panel_attention_backward(const PanelParams& p, const FlashGrads& grads) {
  if (takes_reference(p.attention)) return reference::panel_attention_backward(p, grads);
  check(p);
  check(p.attention, grads);
  RowGradients keys(grads.d_k), values(grads.d_v);
  const int64_t blocks = p.panels.blocks();
  each_choice(p, [&](const Choice& c, const uint64_t* seen) {
    const int64_t* const offsets = p.panels.offsets + c.list_row;
    for (int64_t first = 0; first < blocks;) {
      const int64_t last = last_block(p.panels, c.list_row, first);
      const PanelOrder order(p.panels, c.list_row, first, last, seen);
      const FlashParams slots = in_slots(p, c, order);
      FlashGrads g;
      g.d_out = part_of(grads.d_out, c.batch, c.q_head, c.q_heads);
      g.d_lse = part_of(grads.d_lse, c.batch, c.q_head, c.q_heads);
      g.d_q = part_of(grads.d_q, c.batch, c.q_head, c.q_heads);
      g.d_k = keys.slots(c.k_heads, order.key_slots()), g.d_v = values.slots(c.v_heads, order.key_slots());
      run_backward(FlashTask(slots, {}, &order), g);
      keys.add(c.k_head, c.k_heads, order.key_rows(), order.key_slots());
      values.add(c.v_head, c.v_heads, order.key_rows(), order.key_slots());
      for (; first < last; ++first) seen += words_of_block(p.panels, offsets[first + 1] - offsets[first]);
    }
    if (c.last) keys.write(c.batch), values.write(c.batch);
  });
}

int64_t visible_pairs(const KeyPanels& panels) {
  const uint64_t* seen = panels.seen;
  int64_t pairs = 0;
  for (int64_t r = 0; r < panels.list_rows(); ++r) {
    const int64_t words = words_of_block(panels, panels.offsets[r + 1] - panels.offsets[r]),
                  rows = std::min(panels.block, panels.queries - r % panels.blocks() * panels.block);
    for (int64_t w = 0; w < words / panels.block * rows; ++w) pairs += std::popcount(seen[w]);
    seen += words;
  }
  return pairs;
}

}  // namespace heed::kernels
