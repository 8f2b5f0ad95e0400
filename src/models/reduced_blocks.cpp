#include "heed/models/reduced_blocks.h"

#include <numeric>

#include "heed/error.h"
#include "heed/mixers/attention_mixer.h"
#include "heed/mixers/taps.h"
#include "heed/nn/config.h"
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

/// The softmax of the core: merged tokens count as often as they are.
AttentionOptions shown(const CoreInput& core, const TokenMixer& mixer) {
  AttentionOptions options;
  if (const auto* attention = dynamic_cast<const AttentionMixer*>(&mixer)) {
    const auto& config = attention->config();
    options.scale = config.scale, options.softcap = config.softcap;
    if (config.causal) options.mask = Causal{};
  }
  if (core.key_sizes) options.bias = core.key_sizes->to(core.q.scalar_type()).log().unsqueeze(1).unsqueeze(1);
  if (core.key_padding) nn::hide_keys(options, *core.key_padding, core.q.size(2));
  return options;
}

/// float [B, N]: attention that each token got, mean over heads.
Tensor scores_of(const CoreInput& core, const TokenMixer& mixer, const LayerContext& layer, const std::string& wanted) {
  if (wanted == "none") return {};
  require(
      core.q.defined(),
      "token reduction: scores of kind {} from layer {}, whose mixer is no one softmax of queries and keys: reducers "
      "by keys, tokens or chance (token_merging: action merge, score key_norm or random) are accepted",
      wanted, layer.index);
  torch::NoGradGuard no_grad;
  const auto options = shown(core, mixer);
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

ReducedStream::ReducedStream(MixerInput given, int64_t leading, bool proportional)
    : input(std::move(given)), leading_(leading), proportional_(proportional) {
  require(!input.cu_seqlens && !input.memory, "token reduction: packed sequences and memory are not accepted");
  first_positions_ = input.positions;
  map = nn::every_token(input.x.size(0), input.x.size(1), input.sizes.value_or(Tensor()),
                        input.key_padding.value_or(Tensor()));
}

Tensor ReducedStream::take(nn::TokenReducer& reducer, nn::ReductionInput wanted) {
  wanted.sizes = map.sizes;
  wanted.padding = map.hidden;
  wanted.leading = leading_;
  wanted.layer = input.layer.index;
  wanted.layers = input.layer.count;
  wanted.seed = input.seed;
  const auto next = reducer.map(wanted);
  map = map.then(next);
  reduced_ = true;
  return next.reduce(wanted.x);
}

void ReducedStream::run(TransformerBlock& block, nn::TokenReducer* reducer) {
  if (reducer && reducer->before_layer()) input.x = take(*reducer, {.x = input.x});
  if (reduced_) {
    input.grid.reset();
    input.positions = map.positions;
    if (first_positions_)
      input.positions = first_positions_->expand({map.positions.size(0), -1}).gather(1, map.positions);
    input.sizes.reset();
    input.key_padding.reset();
    input.share = nullptr;  // what an earlier layer left is of tokens that have gone
    // Padding has size 0, which no logarithm takes; it is hidden anyway.
    if (proportional_) input.sizes = map.sizes.clamp_min(1);
    if (map.hidden.defined()) input.key_padding = map.hidden;
  }
  mixed_tokens = input.x.size(1);
  if (!reducer || reducer->before_layer()) {
    input.x = block->forward(input);
    return;
  }
  auto watched = input;
  CoreTap tap(input.taps);
  watched.taps = &tap;
  nn::ReductionInput wanted;
  wanted.x = block->token_half(watched);
  if (tap.seen.k.defined()) wanted.metric = tap.seen.k.mean(1);
  wanted.scores = scores_of(tap.seen, *block->mixer, input.layer, reducer->wanted_scores());
  const auto left = take(*reducer, wanted);
  mixed_tokens = left.size(1);
  input.grid.reset();
  input.x = block->channel_half(input, left);
}

Tensor mean_of_tokens(const Tensor& x, const nn::TokenMap& map) {
  const auto sizes = map.sizes.to(x.scalar_type()).unsqueeze(2);
  return (x * sizes).sum(1, true) / sizes.sum(1, true).clamp_min(1);
}

LayerReducers make_reducers(torch::nn::Module& owner, const nlohmann::json& plan, const TransformerConfig& config) {
  LayerReducers reducers;
  if (plan.is_null() || plan.empty()) return reducers;
  const int64_t count = static_cast<int64_t>(config.layers.size());
  require(plan.is_object() && plan.contains("name"), "reducer = {}: an object with the name of one is accepted",
          plan.dump());
  auto own = plan;
  for (const char* key : {"name", "layers", "proportional"}) own.erase(key);
  ConfigReader reader("reducer", plan);
  const auto name = reader.get<std::string>("name", {});
  reducers.proportional = reader.get("proportional", true);
  std::vector<int64_t> layers(static_cast<size_t>(count));
  std::iota(layers.begin(), layers.end(), 0);
  layers = reader.get("layers", layers);
  for (const auto& row : nn::reducer_rows()) {
    if (row.name != name) continue;
    for (const auto& parameter : row.parameters) {
      if (parameter.name == "dim" && !own.contains("dim")) own["dim"] = config.dim;
      if (parameter.name == "heads" && !own.contains("heads")) own["heads"] = config.heads;
    }
  }
  reducers.of_layer.resize(config.layers.size());
  for (const int64_t layer : layers) {
    require(layer >= 0 && layer < count, "reducer {}: layer {} of {}: 0 to {} is accepted", name, layer, count,
            count - 1);
    auto& reducer = reducers.of_layer[static_cast<size_t>(layer)];
    if (!reducer)
      reducer = owner.register_module("reducer_" + std::to_string(layer), nn::make_token_reducer(name, own));
  }
  return reducers;
}

Tensor run_restored_blocks(std::vector<TransformerBlock>& blocks, MixerInput input, const LayerReducers& reducers,
                           int64_t leading, uint64_t seed) {
  if (reducers.of_layer.empty()) return run_blocks(blocks, std::move(input), nullptr, seed);
  const auto run =
      run_reduced_blocks(blocks, std::move(input), reducers.of_layer, leading, seed, reducers.proportional);
  return run.map.restore(run.x);
}

ReducedRun run_reduced_blocks(std::vector<TransformerBlock>& blocks, MixerInput input,
                              const std::vector<std::shared_ptr<nn::TokenReducer>>& reducers, int64_t leading,
                              uint64_t seed, bool proportional) {
  require(reducers.size() == blocks.size(), "token reduction: {} reducers for {} blocks: one a block is accepted",
          reducers.size(), blocks.size());
  ReducedStream stream(std::move(input), leading, proportional);
  ReducedRun run;
  for (size_t l = 0; l < blocks.size(); ++l) {
    stream.input.layer = {int64_t(l), int64_t(blocks.size())};
    stream.input.seed = seed * 0x9E3779B97F4A7C15ull + l;
    stream.run(blocks[l], reducers[l].get());
    run.tokens.push_back(stream.mixed_tokens);
  }
  run.x = stream.input.x;
  run.map = stream.map;
  return run;
}

}  // namespace heed
