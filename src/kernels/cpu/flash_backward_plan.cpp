#include "kernels/cpu/flash_backward_plan.h"

#include <numeric>

namespace heed::kernels {
namespace {

// Key heads are nodes 0 .. Hk-1, value heads follow; a query head joins the two it reads.
std::vector<int64_t> components(const FlashParams& p) {
  const int64_t key_heads = p.k.size[1], nodes = key_heads + p.v.size[1];
  std::vector<int64_t> root(nodes);
  std::iota(root.begin(), root.end(), 0);
  const auto find = [&](int64_t node) {
    while (root[node] != node) node = root[node];
    return node;
  };
  for (int64_t h = 0; h < p.q.size[1]; ++h) {
    const int64_t a = find(key_head(p, h)), b = find(key_heads + value_head(p, h));
    root[std::max(a, b)] = std::min(a, b);
  }
  for (int64_t node = 0; node < nodes; ++node) root[node] = find(node);
  return root;
}

/// Parts of neighbouring blocks, which reach few keys.
void cut_by_keys(const FlashTask& task, BackwardUnit& unit, int64_t index, std::vector<BackwardPart>& parts) {
  std::stable_sort(unit.blocks.begin(), unit.blocks.end(),
                   [](const BlockItem& a, const BlockItem& b) { return a.begin < b.begin; });
  const int64_t blocks = static_cast<int64_t>(unit.blocks.size());
  for (int64_t part = 0; part < unit.parts; ++part) {
    BackwardPart made{index, blocks * part / unit.parts, blocks * (part + 1) / unit.parts,
                      1,     task.order->key_slots(),    0};
    for (int64_t i = made.first; i < made.last; ++i) {
      const auto *first = task.order->begin_runs(unit.blocks[i].begin),
                 *last = task.order->end_runs(unit.blocks[i].begin);
      if (first == last) continue;
      made.key_begin = std::min(made.key_begin, first->begin), made.key_end = std::max(made.key_end, (last - 1)->end);
    }
    made.key_begin = std::min(made.key_begin, made.key_end);
    parts.push_back(made);
  }
}

}  // namespace

BackwardPlan plan_backward(const FlashTask& task) {
  const FlashParams& p = task.p;
  BackwardPlan plan;
  const std::vector<int64_t> component = components(p);
  const int64_t key_heads = p.k.size[1], nodes = static_cast<int64_t>(component.size());
  std::vector<int64_t> place(nodes, -1);  // of a component among its sequence's units
  std::vector<int64_t> roots;
  for (int64_t node = 0; node < nodes; ++node) {
    if (component[node] == node) place[node] = static_cast<int64_t>(roots.size()), roots.push_back(node);
  }
  const int64_t per_sequence = static_cast<int64_t>(roots.size());
  for (int64_t s = 0; s < count_sequences(p); ++s) {
    const int64_t first = static_cast<int64_t>(plan.units.size());
    for (int64_t u = 0; u < per_sequence; ++u) plan.units.push_back({s, {}, {}, {}});
    for (int64_t node = 0; node < nodes; ++node) {
      BackwardUnit& unit = plan.units[first + place[component[node]]];
      (node < key_heads ? unit.key_heads : unit.value_heads).push_back(node < key_heads ? node : node - key_heads);
    }
  }
  for (const BlockItem& block : cut_into_blocks(task)) {
    plan.units[block.sequence * per_sequence + place[component[key_head(p, block.head)]]].blocks.push_back(block);
  }
  // Few units are cut further, so that many threads find work; every part costs a buffer of gradients.
  constexpr int64_t kEnough = 16, kLeastBlocks = 4;
  const int64_t units = static_cast<int64_t>(plan.units.size());
  for (int64_t u = 0; u < units; ++u) {
    BackwardUnit& unit = plan.units[u];
    const int64_t blocks = static_cast<int64_t>(unit.blocks.size());
    unit.first_part = static_cast<int64_t>(plan.parts.size());
    unit.parts = std::max<int64_t>(1, std::min((kEnough + units - 1) / units, blocks / kLeastBlocks));
    plan.shared |= unit.parts > 1;
    if (task.order == nullptr) {
      // In turn, so that each part gets as much of a causal mask as the others.
      const int64_t keys = sequence_at(p, unit.sequence).num_keys;
      for (int64_t part = 0; part < unit.parts; ++part) plan.parts.push_back({u, part, blocks, unit.parts, 0, keys});
    } else {
      cut_by_keys(task, unit, u, plan.parts);
    }
  }
  return plan;
}

KeyGradients::KeyGradients(const FlashTask& task, const BackwardUnit& unit, const BackwardPart& part, float* data)
    : data(data),
      begin(part.key_begin),
      keys(part.key_end - part.key_begin),
      d_padded((task.d + 15) / 16 * 16),
      dv_padded((task.dv + 15) / 16 * 16),
      key_heads(static_cast<int64_t>(unit.key_heads.size())),
      value_heads(static_cast<int64_t>(unit.value_heads.size())) {}

}  // namespace heed::kernels
