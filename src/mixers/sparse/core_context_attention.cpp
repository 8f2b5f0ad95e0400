// Far tokens as one core token a group, near ones as they are, in one softmax.
#include <cmath>

#include "heed/error.h"
#include "heed/nn/keys.h"
#include "heed/nn/partial.h"
#include "mixers/sparse/sparse_mixer.h"

namespace heed {
namespace {

using torch::Tensor;

constexpr double kHidden = -3e4;  // a logit of no weight, in 16 bits, too

struct CoreContextConfig {
  int64_t group = 16, window = 1024;
  bool mean = false;  ///< a core is the plain mean of its group
};

/// Quotient towards minus infinity.
int64_t floor_quotient(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

/// Keys, values and which of them are padding: [B, Hkv, n, D], [B, Hkv, n, Dv], bool [B, n].
struct Segment {
  Tensor k, v, hidden;

  Segment from(int64_t first) const { return {k.slice(2, first), v.slice(2, first), hidden.slice(1, first)}; }
  static Segment joined(const Segment& a, const Segment& b) {
    if (!a.k.defined()) return b;
    return {torch::cat({a.k, b.k}, 2), torch::cat({a.v, b.v}, 2), torch::cat({a.hidden, b.hidden}, 1)};
  }
};

class CoreContextAttention final : public sparse::SparseMixer {
 public:
  CoreContextAttention(const AttentionConfig& config, CoreContextConfig own)
      : SparseMixer("core_context_attention", config), own_(own) {}

  std::unique_ptr<MixerState> make_state(int64_t) const override { return std::make_unique<sparse::SlotState>(); }

  /// Keys as they are given stand for their group, positions and all.
  Tensor mix(const CoreInput& in) override {
    require(!in.cu_seqlens && !in.key_sizes, "core_context_attention: no cu_seqlens and no sizes are accepted");
    require(in.q.size(2) == in.k.size(2), "core_context_attention: {} queries and {} keys: equal numbers are accepted",
            in.q.size(2), in.k.size(2));
    const Segment all{in.k, in.v, hidden_of(in.key_padding, in.k)};
    const auto cores = pool(in.q, all, 0);
    return attend(in.q, cores, all, 0, 0, in.seed);
  }

 protected:
  std::optional<Tensor> attend_own(const MixerInput& in, KvState* any, const Tensor& q, const Tensor& k,
                                   const Tensor& v, const Tensor& positions) override {
    require_plain_self(in);
    sparse::SlotState fresh;
    auto* state = any ? dynamic_cast<sparse::SlotState*>(any) : &fresh;
    require(state != nullptr, "core_context_attention: this state was made by another mixer");
    auto& slots = state->held.slots;
    slots.resize(kSlots);
    const int64_t seen = state->tokens, total = seen + k.size(2), g = own_.group;
    const auto held = [&](size_t slot) { return Segment{slots[slot], slots[slot + 1], slots[slot + 2]}; };
    const Segment given{k, v, hidden_of(in.key_padding, k)};

    // Groups that end in these tokens become cores, of keys before their positions.
    const auto open = Segment::joined(held(kOpen), given);
    auto made = pool(q, open, seen);
    const int64_t first_group = seen / g, groups = made.k.size(2);
    made.k = positions_->rotate(made.k, (torch::arange(first_group, first_group + groups) + 1) * g - 1);
    const auto cores = Segment::joined(held(kCores), made);
    const auto near = Segment::joined(held(kNear), {positions_->rotate(k, positions), v, given.hidden});
    const int64_t dropped = total - near.k.size(2);
    const auto out = attend(positions_->rotate(q, positions), cores, near, seen, dropped, in.seed);
    if (any == nullptr) return out;

    const auto keep = [&](size_t slot, const Segment& segment) {
      slots[slot] = segment.k.detach().clone();
      slots[slot + 1] = segment.v.detach().clone();
      slots[slot + 2] = segment.hidden.clone();
    };
    keep(kOpen, open.from(groups * g));
    keep(kCores, cores);
    keep(kNear, near.from(cores_seen(total) * g - dropped));
    state->tokens = total;
    return out;
  }

 private:
  /// Three tensors each: tokens of the group that is open, before their positions; cores; tokens seen as they are.
  enum : size_t { kOpen = 0, kCores = 3, kNear = 6, kSlots = 9 };

  static Tensor hidden_of(const std::optional<Tensor>& padding, const Tensor& k) {
    return padding ? *padding : torch::zeros({k.size(0), k.size(2)}, torch::kBool);
  }
  /// Core tokens that the query at place `at` sees: those whose group is older than the window.
  int64_t cores_seen(int64_t at) const {
    return std::max<int64_t>(0, floor_quotient(at + 1 - own_.window, own_.group));
  }
  double scale_of(const Tensor& q) const {
    return config_.scale > 0 ? config_.scale : 1 / std::sqrt(double(q.size(3)));
  }

  /// One core of each whole group of `tokens`, which begin at a group and end with the queries q, the first of which
  /// stands at `seen`: a mean weighed by the softmax of its last token's query over the group.
  Segment pool(const Tensor& q, const Segment& tokens, int64_t seen) const {
    const int64_t g = own_.group, groups = tokens.k.size(2) / g, first = seen / g, kv_heads = tokens.k.size(1);
    const auto grouped = [&](const Tensor& x) { return x.narrow(2, 0, groups * g).unflatten(2, {groups, g}); };
    const auto k = grouped(tokens.k), v = grouped(tokens.v);
    const auto hidden = tokens.hidden.narrow(1, 0, groups * g).unflatten(1, {groups, g});  // [B, c, g]
    const auto last = (torch::arange(first, first + groups) + 1) * g - 1 - seen;
    // A group that ends with padding is asked for its plain mean, too.
    const auto plain = own_.mean ? torch::ones_like(hidden.select(2, 0)) : hidden.select(2, g - 1);
    const auto asked = q.index_select(2, last).masked_fill(plain.unsqueeze(1).unsqueeze(3), 0);
    auto logits =
        torch::matmul(k.unsqueeze(2), asked.unflatten(1, {kv_heads, q.size(1) / kv_heads}).unsqueeze(5)).squeeze(5) *
        scale_of(q);
    logits = logits.masked_fill(hidden.unsqueeze(1).unsqueeze(1), kHidden);
    // Query heads that share keys share a core, by the mean of their weights.
    const auto weights = torch::softmax(logits, 4).mean(2).unsqueeze(3);  // [B, Hkv, c, 1, g]
    return {torch::matmul(weights, k).squeeze(3), torch::matmul(weights, v).squeeze(3), hidden.all(2)};
  }

  /// Queries from place `seen` on, over cores and over tokens from place `dropped` on.
  Tensor attend(const Tensor& q, const Segment& cores, const Segment& near, int64_t seen, int64_t dropped,
                uint64_t seed) const {
    const int64_t n = q.size(2), g = own_.group, most = cores_seen(seen + n - 1);
    if (n == 0) return q.new_empty({q.size(0), q.size(1), 0, near.v.size(3)});
    // Runs of g queries see the same cores; they are brought to the begin of a run.
    const int64_t run = floor_quotient(seen + 1 - own_.window, g), lead = seen + 1 - own_.window - run * g;
    const int64_t runs = (lead + n + g - 1) / g;
    if (most == 0) return attention(q, near.k, near.v, local_options(near, q.size(2), seed));
    if (n == 1) {  // a step
      auto far_options = plain_options(seed + 1);
      nn::hide_keys(far_options, cores.hidden.narrow(1, 0, most), 1);
      const auto far = attention_with_lse(q, cores.k.narrow(2, 0, most), cores.v.narrow(2, 0, most), far_options);
      const auto local = near.from(most * g - dropped);
      return nn::merge(far, attention_with_lse(q, local.k, local.v, local_options(local, 1, seed))).out;
    }
    const auto padded = torch::constant_pad_nd(q, {0, 0, lead, runs * g - lead - n});
    const auto far = attend_cores(padded, cores, run, seed);
    auto options = local_options(near, lead + n, seed);
    options.blocks = near_blocks(run, runs, near.k.size(2), dropped);
    const auto local = attention_with_lse(padded.narrow(2, 0, lead + n), near.k, near.v, options);
    const auto rows = [&](const AttentionResult& r) {
      return AttentionResult{r.out.narrow(2, lead, n), r.lse.narrow(2, lead, n)};
    };
    return nn::merge(rows(far), rows(local)).out;
  }

  AttentionOptions local_options(const Segment& near, int64_t queries, uint64_t seed) const {
    auto options = plain_options(seed);
    options.mask = Causal{};
    nn::hide_keys(options, near.hidden, queries);
    return options;
  }

  /// q [B, Hq, runs g, D]: the places of a run are heads, so that run r sees the cores below run + r.
  AttentionResult attend_cores(const Tensor& q, const Segment& cores, int64_t run, uint64_t seed) const {
    const int64_t g = own_.group, heads = q.size(1);
    auto options = plain_options(seed + 1);
    options.mask = Window(int64_t{1} << 40, run - 1, Alignment::top_left);
    const auto folded = q.unflatten(2, {-1, g}).transpose(2, 3).flatten(1, 2);  // [B, Hq g, runs, D]
    nn::hide_keys(options, cores.hidden, folded.size(2));
    const auto result = attention_with_lse(folded, cores.k, cores.v, options);
    const auto unfolded = [&](const Tensor& x) { return x.unflatten(1, {heads, g}).transpose(2, 3).flatten(2, 3); };
    return {unfolded(result.out), unfolded(result.lse)};
  }

  /// Blocks of g tokens that the runs see as they are: from the first whose core they do not see.
  BlockListTensors near_blocks(int64_t run, int64_t runs, int64_t keys, int64_t dropped) const {
    const int64_t g = own_.group, blocks = (keys + g - 1) / g;
    std::vector<int64_t> offsets{0};
    std::vector<int32_t> columns;
    for (int64_t r = 0; r < runs; ++r) {
      const int64_t first = std::max<int64_t>(0, run + r) - dropped / g;
      const int64_t last_query = (run + r + 1) * g + own_.window - 2 - dropped;
      for (int64_t b = first; b < std::min(blocks, last_query / g + 1); ++b) columns.push_back(int32_t(b));
      offsets.push_back(int64_t(columns.size()));
    }
    return {torch::tensor(offsets, torch::kInt64), torch::tensor(columns, torch::kInt32), 1, 1, g, g};
  }

  CoreContextConfig own_;
};

}  // namespace

RegistryRow rows::core_context_attention() {
  return {.name = "core_context_attention",
          .family = "sparse_and_vision",
          .paper = "Core Context Aware Attention for Long Context Language Modeling (arXiv 2412.12465)",
          .year = 2024,
          .patterns = {false, true, false, false},
          .step = true,
          .one_way = true,
          .core = true,
          .cost = "O(N (N / g + s))",
          .parameters = attention_parameters(
              {{"group", 16, "g: tokens that one core token stands for"},
               {"window", 1024, "s: tokens seen as they are at least, the own one included; at most s + g - 1"},
               {"pooling", "last",
                "a core is the mean of its group weighed by the attention of its last token, or the plain mean"}}),
          .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}, {"group", 4}, {"window", 6}},
          .make = attention_maker("core_context_attention", [](const AttentionConfig& config, ConfigReader& reader) {
            sparse::require_causal("core_context_attention", config);
            CoreContextConfig own;
            own.group = reader.integer("group", own.group, 1, 1 << 20);
            own.window = reader.integer("window", own.window, 1);
            own.mean = reader.choice("pooling", "last", {"last", "mean"}) == "mean";
            return std::make_shared<CoreContextAttention>(config, own);
          })};
}

}  // namespace heed
