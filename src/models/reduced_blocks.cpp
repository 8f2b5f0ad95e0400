#include "heed/models/reduced_blocks.h"

#include "heed/error.h"
#include "heed/mixers/taps.h"
#include "heed/nn/keys.h"
#include "heed/ops/attn_stats.h"

namespace heed {
namespace {

using torch::Tensor;

/// Keeps what a layer's core got, and lets another observer see it, too.
class CoreTap : public Taps {
 public:
  explicit CoreTap(Taps* other) : other_(other) {}

  CoreInput seen;  ///< q is undefined where the mixer has no such core

  void block_input(const LayerContext& l, Tensor& x) override {
    if (other_) other_->block_input(l, x);
  }
  void core_input(const LayerContext& l, CoreInput& core) override {
    if (other_) other_->core_input(l, core);
    seen = core;
  }
  void core_output(const LayerContext& l, Tensor& heads) override {
    if (other_) other_->core_output(l, heads);
  }
  void mlp_input(const LayerContext& l, Tensor& x) override {
    if (other_) other_->mlp_input(l, x);
  }
  void mlp_output(const LayerContext& l, Tensor& added) override {
    if (other_) other_->mlp_output(l, added);
  }
  void block_output(const LayerContext& l, Tensor& x) override {
    if (other_) other_->block_output(l, x);
  }

 private:
  Taps* other_;
};

AttentionOptions shown(const CoreInput& core) {
  AttentionOptions options;
  if (core.key_padding) nn::hide_keys(options, *core.key_padding, core.q.size(2));
  return options;
}

/// float [B, N]: attention that each token got, mean over heads.
Tensor scores_of(const CoreInput& core, const std::string& wanted) {
  if (wanted == "none") return {};
  require(core.q.defined(), "token reduction: scores of kind {} from a mixer without queries and keys", wanted);
  torch::NoGradGuard no_grad;
  const auto options = shown(core);
  const auto lse = attention_with_lse(core.q, core.k, core.v, options).lse;
  const auto rows = wanted == "class" ? torch::zeros({1}, torch::kInt64) : torch::arange(core.q.size(2));
  Tensor sum;
  for (const auto& part : rows.split(64)) {
    auto weights = attention_weights(core.q, core.k, lse, part, options);
    if (wanted == "received" && core.key_padding)
      weights = weights.masked_fill(core.key_padding->index_select(1, part).unsqueeze(1).unsqueeze(3), 0);
    const auto got = weights.sum(2).mean(1);
    sum = sum.defined() ? sum + got : got;
  }
  return sum / double(rows.size(0));
}

}  // namespace

ReducedRun run_reduced_blocks(std::vector<TransformerBlock>& blocks, MixerInput input,
                              const std::vector<std::shared_ptr<nn::TokenReducer>>& reducers, int64_t leading,
                              uint64_t seed, bool proportional) {
  require(reducers.size() == blocks.size(), "token reduction: {} reducers for {} blocks: one a block is accepted",
          reducers.size(), blocks.size());
  require(!input.cu_seqlens && !input.memory, "token reduction: packed sequences and memory are not accepted");
  ReducedRun run;
  run.map = nn::every_token(input.x.size(0), input.x.size(1), input.sizes.value_or(Tensor()),
                            input.key_padding.value_or(Tensor()));
  bool reduced = false;
  const auto take = [&](nn::TokenReducer& reducer, nn::ReductionInput wanted) {
    wanted.sizes = run.map.sizes;
    wanted.padding = run.map.hidden;
    wanted.leading = leading;
    wanted.layer = input.layer.index;
    wanted.layers = input.layer.count;
    wanted.seed = input.seed;
    const auto map = reducer.map(wanted);
    run.map = run.map.then(map);
    reduced = true;
    return map.reduce(wanted.x);
  };
  Taps* const observer = input.taps;
  input.layer.count = int64_t(blocks.size());
  for (size_t l = 0; l < blocks.size(); ++l) {
    input.layer.index = int64_t(l);
    input.seed = seed * 0x9E3779B97F4A7C15ull + l;
    auto* reducer = reducers[l].get();
    if (reducer && reducer->before_layer()) input.x = take(*reducer, {.x = input.x});
    if (reduced) {
      input.grid.reset();
      input.positions.reset();
      input.sizes.reset();
      input.key_padding.reset();
      // Padding has size 0, which no logarithm takes; it is hidden anyway.
      if (proportional) input.sizes = run.map.sizes.clamp_min(1);
      if (run.map.hidden.defined()) input.key_padding = run.map.hidden;
    }
    CoreTap tap(observer);
    const bool between = reducer && !reducer->before_layer();
    input.taps = between ? &tap : observer;
    auto y = blocks[l]->token_half(input);
    if (between) {
      nn::ReductionInput wanted;
      wanted.x = y;
      if (tap.seen.k.defined()) wanted.metric = tap.seen.k.mean(1);
      wanted.scores = scores_of(tap.seen, reducer->wanted_scores());
      y = take(*reducer, wanted);
      input.grid.reset();
    }
    run.tokens.push_back(y.size(1));
    input.x = blocks[l]->channel_half(input, y);
  }
  run.x = input.x;
  return run;
}

}  // namespace heed
