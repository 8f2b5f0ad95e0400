// Keys of each block of queries found by halving runs of keys by their true scores (HiP, arXiv 2406.09827).
#include <algorithm>
#include <utility>

#include "heed/error.h"
#include "heed/ops/key_search.h"
#include "heed/ops/select_blocks.h"
#include "mixers/layer_numbers.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

struct HipConfig {
  ops::TreeSearchOptions search;
  int64_t budget = 512;
  int64_t sinks = 16, window = 128;
  int64_t reuse = 1;
  std::vector<int64_t> dense_layers;  ///< below 0: from the last
};

/// Keys and values, and what the last search found, which the core changes as it reads.
struct HipState final : KvState {
  mutable Tensor found;       ///< int32 [B, Hq, 1, blocks]; undefined: the next step searches
  mutable int64_t steps = 0;  ///< that have used it

  int64_t bytes() const override {
    return KvState::bytes() + (found.defined() ? static_cast<int64_t>(found.nbytes()) : 0);
  }
  std::unique_ptr<MixerState> clone() const override {
    auto copy = std::make_unique<HipState>(*this);
    copy->kv = kv.clone();
    if (padding.defined()) copy->padding = padding.clone();
    return copy;
  }
  void truncate(int64_t length) override {
    KvState::truncate(length);
    found = Tensor();
  }
};

class HipAttention final : public AttentionMixer {
 public:
  HipAttention(const AttentionConfig& config, const HipConfig& own)
      : AttentionMixer("hip_attention", config), own_(own) {
    require(config.causal, "hip_attention: causal = false: the search runs over the keys before a query");
    own_.search.blocks = std::max<int64_t>(1, own.budget / own.search.key_block);
  }

  Tensor forward(const MixerInput& in, MixerState* state) override {
    require(!in.cu_seqlens, "hip_attention: cu_seqlens is not accepted");
    return AttentionMixer::forward(in, state);
  }

  std::unique_ptr<MixerState> make_state(int64_t batch) const override {
    AttentionMixer::make_state(batch);  // refuses what has no step
    return std::make_unique<HipState>();
  }

  Tensor mix(const CoreInput& in) override {
    const bool dense = std::exchange(dense_, false);
    const auto* held = std::exchange(held_, nullptr);
    auto options = options_for(in);
    const ops::BlockGrid grid{in.q.size(2), in.k.size(2), own_.search.query_block, own_.search.key_block};
    if (!dense && grid.keys > own_.search.blocks * own_.search.key_block)
      options.blocks = ops::block_list_of_rows(lists(in, grid, held), grid);
    return nn::attention(in.q, in.k, in.v, options, in.report);
  }

 protected:
  void before_core(const MixerInput& in, const KvState* state, Tensor&, Tensor&, Tensor&) override {
    dense_ = among(own_.dense_layers, in.layer);
    held_ = dynamic_cast<const HipState*>(state);
  }

 private:
  /// Blocks that the search found, those of the first keys, and those with a key of the window of a query of the block.
  Tensor lists(const CoreInput& in, const ops::BlockGrid& grid, const HipState* held) const {
    torch::NoGradGuard no_grad;
    auto found = found_for(in, held);
    const int64_t batch = found.size(0), heads = found.size(1), rows = found.size(2), block = grid.key_block;
    const auto first = torch::arange(rows) * grid.query_block + (grid.keys - grid.queries);
    const auto last = (first + grid.query_block).clamp_max(grid.keys) - 1;
    // Queries that see no more keys than are searched for see all of them, whoever shares their block.
    const int64_t most = found.size(3);
    const auto all = torch::arange(most, torch::kInt32);
    const auto within = (first < most * block).view({rows, 1});
    found = torch::where(within & (all * block <= last.view({rows, 1})), all, found.masked_fill(within, -1));
    const auto begin = (first - (own_.window - 1)).clamp_min(0).div(block, "floor"), end = last.div(block, "floor");
    const int64_t widest = rows == 0 ? 0 : (end - begin).max().item<int64_t>() + 1;
    const auto near = begin.unsqueeze(1) + torch::arange(widest);
    const auto window = near.masked_fill((near > end.unsqueeze(1)) | (end < 0).unsqueeze(1), -1);
    const int64_t sink_blocks = std::min((own_.sinks + block - 1) / block, grid.key_blocks());
    const auto sinks = torch::arange(sink_blocks).expand({rows, sink_blocks});
    const auto always = torch::cat({sinks, window}, 1).to(torch::kInt32);
    return torch::cat({found, always.expand({batch, heads, rows, always.size(1)})}, 3).contiguous();
  }

  /// int32 [B, Hq, rows, blocks]: of a search, or, for a few steps, of the one before.
  Tensor found_for(const CoreInput& in, const HipState* held) const {
    const auto search = [&] { return ops::tree_search(in.q, in.k, own_.search, in.key_padding.value_or(Tensor())); };
    if (held == nullptr || own_.reuse == 1) return search();
    if (in.q.size(2) > 1) held->found = Tensor();
    if (held->found.defined() && held->steps < own_.reuse) return ++held->steps, held->found;
    const auto found = search();
    if (in.q.size(2) == 1) held->found = found, held->steps = 1;
    return found;
  }

  HipConfig own_;
  // Of the forward under way.
  bool dense_ = false;
  const HipState* held_ = nullptr;
};

}  // namespace

RegistryRow rows::hip_attention() {
  return {
      .name = "hip_attention",
      .family = "sparse_and_vision",
      .paper = "HiP Attention: Sparse Sub-Quadratic Attention with Hierarchical Attention Pruning (arXiv 2406.09827)",
      .year = 2024,
      .patterns = {false, true, false, false},
      .step = true,
      .core = true,
      .training_free = true,
      .cost = "O(N log N + N budget)",
      .parameters = attention_parameters(
          {{"budget", 512, "keys that the search finds; no longer sequences are dense"},
           {"query_block", 32,
            "queries that share what is found. Above 1 later queries of the block take part in the choice, and a step "
            "chooses by itself"},
           {"key_block", 2, "keys that are found together"},
           {"row_stride", 2, "every how many queries of a block its scores are taken from"},
           {"representative", "first",
            "block of a run of keys that is scored for it: first, center, or whole (all of them: exact, quadratic)"},
           {"sinks", 16, "first keys that stay visible"},
           {"window", 128, "last keys that stay visible, the own one included"},
           {"reuse", 1, "steps that read what one search found; at most window, for keys that are newer than it"},
           {"dense_layers", nlohmann::json::array(), "numbers of layers that see all; below 0: from the last"}}),
      .small = {{"dim", 24},
                {"heads", 4},
                {"kv_heads", 2},
                {"positions", "rope"},
                {"budget", 8},
                {"query_block", 1},
                {"key_block", 2},
                {"sinks", 1},
                {"window", 3}},
      .make = attention_maker("hip_attention", [](const AttentionConfig& config, ConfigReader& reader) {
        HipConfig own;
        own.budget = reader.integer("budget", own.budget, 1, 1 << 24);
        own.search.query_block = reader.integer("query_block", own.search.query_block, 1, 1 << 16);
        own.search.key_block = reader.integer("key_block", own.search.key_block, 1, 1 << 16);
        own.search.row_stride = reader.integer("row_stride", own.search.row_stride, 1, 1 << 16);
        const auto name = reader.choice("representative", "first", {"first", "center", "whole"});
        own.search.representative = name == "first"    ? kernels::Representative::first
                                    : name == "center" ? kernels::Representative::center
                                                       : kernels::Representative::whole;
        own.sinks = reader.integer("sinks", own.sinks, 0);
        own.window = reader.integer("window", own.window, 1);
        own.reuse = reader.integer("reuse", own.reuse, 1);
        require(own.reuse <= own.window, "hip_attention: reuse = {}: 1 to window = {} is accepted", own.reuse,
                own.window);
        own.dense_layers = reader.get("dense_layers", own.dense_layers);
        return std::make_shared<HipAttention>(config, own);
      })};
}

}  // namespace heed
