#include "heed/probe/sinks.h"

#include <algorithm>

#include "heed/error.h"
#include "heed/mixers/attention_mixer.h"
#include "heed/ops/attn_stats.h"

namespace heed::probe {
namespace {

using torch::Tensor;

Tensor wide(const Tensor& x) { return x.to(torch::kFloat64); }

/// Cosines of rows [N, C] with one row [C]; 0 where either is 0.
Tensor cosines_with(const Tensor& rows, const Tensor& row) {
  const auto sizes = rows.norm(2, 1) * row.norm();
  return (rows.mv(row) / sizes.clamp_min(1e-300)).masked_fill(sizes == 0, 0);
}

/// What passes, after `edits` have changed it. Of the states only norms and cosines are kept.
class Trace : public Taps {
 public:
  Trace(DecoderLm& model, int64_t tokens, const SinkOptions& options, Taps* edits)
      : model_(model), options_(options), edits_(edits) {
    const auto& config = model->config();
    layers_ = int64_t(config.layers.size());
    const auto zeros = [&](int64_t columns) { return torch::zeros({layers_, columns}, torch::kFloat64); };
    report.norms = zeros(tokens);
    report.cosines = zeros(tokens);
    report.scores = zeros(tokens);
    before_ = zeros(tokens);
    report.first = zeros(config.heads);
    report.directions = torch::zeros({layers_, config.dim});
    report.mlp = torch::zeros({layers_, config.dim});
    inputs_.resize(size_t(layers_));
  }

  void block_input(const LayerContext& layer, Tensor& x) override {
    if (edits_) edits_->block_input(layer, x);
    if (layer.index == 0) embedding_norm_ = wide(x[0][0]).norm().item<double>();
  }
  void core_input(const LayerContext& layer, CoreInput& core) override {
    if (edits_) edits_->core_input(layer, core);
    measure_attention(layer.index, core);
  }
  void core_output(const LayerContext& layer, Tensor& heads) override {
    if (edits_) edits_->core_output(layer, heads);
  }
  void mlp_input(const LayerContext& layer, Tensor& x) override {
    if (edits_) edits_->mlp_input(layer, x);
    inputs_[size_t(layer.index)] = x[0];
  }
  void mlp_output(const LayerContext& layer, Tensor& added) override {
    if (edits_) edits_->mlp_output(layer, added);
    added_ = added[0];
  }
  void block_output(const LayerContext& layer, Tensor& x) override {
    if (edits_) edits_->block_output(layer, x);
    const auto states = wide(x[0]);
    const int64_t l = layer.index;
    report.norms[l] = states.norm(2, 1);
    report.cosines[l] = cosines_with(states, states[0]);
    before_[l] = cosines_with(states - wide(added_), states[0]);
    report.directions[l] = states[0] / report.norms[l][0].clamp_min(1e-300);
    report.mlp[l] = added_[0];
  }

  SinkReport finish() {
    find_range();
    const auto flagged = report.cosines.slice(0, report.begin, report.end).abs() > options_.cosine;
    const auto lifetimes = flagged.sum(0);
    const int64_t own = report.end - report.begin;
    for (int64_t t = 1; t < flagged.size(1); ++t) {
      Sink sink;
      sink.lifetime = lifetimes[t].item<int64_t>();
      if (sink.lifetime == 0) continue;
      sink.token = t;
      sink.created = report.begin + flagged.select(1, t).to(torch::kInt64).argmax().item<int64_t>();
      sink.level = sink_level(sink.lifetime, own, layers_, options_);
      sink.by_mlp = std::abs(before_[sink.created][t].item<double>()) <= options_.cosine;
      measure_stages(sink);
      report.sinks.push_back(std::move(sink));
    }
    return std::move(report);
  }

  SinkReport report;

 private:
  void measure_attention(int64_t layer, const CoreInput& core) {
    const auto* mixer = dynamic_cast<const AttentionMixer*>(model_->blocks[size_t(layer)]->mixer.get());
    require(mixer, "sinks: layer {} is no softmax attention", layer);
    AttentionOptions options;
    options.mask = Causal{};
    options.scale = mixer->config().scale;
    options.softcap = mixer->config().softcap;
    const auto lse = attention_with_lse(core.q, core.k, core.v, options).lse;
    const auto columns = wide(ops::line_sums(core.q, core.k, options, lse).columns[0]);  // [H, N]
    const int64_t n = columns.size(1);
    // The weight that a token gives itself.
    const auto keys = core.k.repeat_interleave(core.q.size(1) / core.k.size(1), 1);
    auto own = (wide(core.q) * wide(keys)).sum(3)[0] *
               (options.scale != 0 ? options.scale : 1 / std::sqrt(double(core.q.size(3))));
    if (options.softcap > 0) own = options.softcap * torch::tanh(own / options.softcap);
    own = (own - wide(lse[0])).exp();
    const auto behind = torch::arange(n - 1, -1, -1, torch::kFloat64).clamp_min(1);  // queries behind each token
    const auto by_head = (columns - own) / behind;
    report.scores[layer] = by_head.mean(0);
    report.scores[layer][n - 1] = 0;
    report.first[layer] = by_head.select(1, 0);
    const auto means = columns / torch::arange(n, 0, -1, torch::kFloat64);
    const int64_t last = std::max<int64_t>(1, n + 1 - options_.least_queries);
    const auto found = (means.slice(1, 1, last) > options_.threshold).nonzero();
    for (int64_t i = 0; i < found.size(0); ++i) {
      const int64_t head = found[i][0].item<int64_t>(), token = found[i][1].item<int64_t>() + 1;
      report.later.push_back({layer, head, token, means[head][token].item<double>()});
    }
  }

  /// From the largest growth of the first token's state to its largest fall behind that.
  void find_range() {
    const auto norms = report.norms.select(1, 0).contiguous();
    const auto before =
        torch::cat({torch::full({1}, embedding_norm_, torch::kFloat64), norms.slice(0, 0, layers_ - 1)});
    const auto growth = norms - before;
    report.begin = growth.argmax().item<int64_t>();
    report.end = layers_;
    if (report.begin + 1 == layers_) return;
    const auto behind = growth.slice(0, report.begin + 1);
    if (behind.min().item<double>() < 0) report.end = report.begin + 1 + behind.argmin().item<int64_t>();
  }

  void measure_stages(Sink& sink) {
    const auto& x = inputs_[size_t(sink.created)];
    if (!x.defined()) return;
    const auto rows = torch::stack({x[0], x[sink.token]}).unsqueeze(0);
    const auto add = [&](const std::string& name, const Tensor& stage) {
      sink.stages.push_back({name, cosines_with(wide(stage[0]), wide(stage[0][0]))[1].item<double>()});
    };
    add("input", rows);
    const auto& mlp = model_->blocks[size_t(sink.created)]->mlp;
    if (!mlp) return;
    for (const auto& [name, stage] : mlp->stages(rows)) add(name, stage);
  }

  DecoderLm& model_;
  const SinkOptions& options_;
  Taps* edits_;
  int64_t layers_ = 0;
  double embedding_norm_ = 0;
  Tensor added_, before_;       // what the layer's channel mixer added [N, C]; cosines without it [L, N]
  std::vector<Tensor> inputs_;  // of the channel mixers, [N, C]
};

}  // namespace

SinkLevel sink_level(int64_t lifetime, int64_t own, int64_t layers, const SinkOptions& options) {
  constexpr int64_t kDeep = 28, kMissing = 15, kShort = 5;
  const bool deep = layers >= kDeep;
  if (deep ? lifetime >= layers - kMissing : double(lifetime) >= options.primary * double(own))
    return SinkLevel::primary;
  if (deep ? lifetime >= kShort : double(lifetime) >= options.secondary * double(own)) return SinkLevel::secondary;
  return SinkLevel::noise;
}

std::string to_string(SinkLevel level) {
  return level == SinkLevel::primary ? "primary" : level == SinkLevel::secondary ? "secondary" : "noise";
}

SinkReport find_sinks(DecoderLm& model, const Tensor& tokens, const SinkOptions& options, Taps* edits) {
  const auto& positions = model->config().positions.kind;
  require(positions != "alibi" && positions != "t5", "sinks: {} positions are score terms, which are not followed",
          positions);
  require(tokens.dim() == 2 && tokens.size(0) == 1 && tokens.size(1) >= 3, "sinks: one text of 3 or more tokens");
  require(options.cosine > 0 && options.cosine < 1, "sinks: a cosine of {}: between 0 and 1 is accepted",
          options.cosine);
  torch::NoGradGuard no_grad;
  model->eval();
  Trace trace(model, tokens.size(1), options, edits);
  model->hidden(tokens, nullptr, 0, &trace);
  return trace.finish();
}

std::vector<int64_t> sink_channels(DecoderLm& model, const Tensor& tokens, double tau) {
  struct Count : Taps {
    void block_input(const LayerContext&, Tensor& x) override {
      const auto state = wide(x[0][0]);
      const auto large = (state.abs() > tau * state.square().mean().sqrt()).to(torch::kInt64);
      counts = counts.defined() ? counts + large : large;
    }
    double tau = 0;
    Tensor counts;
  } count;
  count.tau = tau;
  torch::NoGradGuard no_grad;
  model->eval();
  model->hidden(tokens, nullptr, 0, &count);
  const auto most = (2 * count.counts > int64_t(model->blocks.size())).nonzero().flatten();
  return {most.data_ptr<int64_t>(), most.data_ptr<int64_t>() + most.numel()};
}

SinkSteering::SinkSteering(Tensor mlp, int64_t begin, int64_t end, double norm, double cosine, int64_t spared)
    : mlp_(std::move(mlp)), begin_(begin), end_(end), norm_(norm), cosine_(cosine), spared_(spared) {
  require(norm >= 0, "sinks: a norm of {}: 0 or more is accepted", norm);
}

void SinkSteering::mlp_output(const LayerContext& layer, Tensor& added) {
  if (layer.index < begin_ || layer.index >= end_ || added.size(1) <= spared_) return;
  const auto rows = wide(added[0]);
  auto chosen = cosines_with(rows, wide(mlp_[layer.index])) > cosine_;
  chosen.slice(0, 0, spared_) = false;
  const auto scale = torch::where(chosen, norm_ / rows.norm(2, 1).clamp_min(1e-300), torch::ones({}, torch::kFloat64));
  added = added * scale.to(added.scalar_type()).view({1, -1, 1});
}

}  // namespace heed::probe
