#include "heed/probe/prompt_patterns.h"

#include <cmath>

#include "heed/cache/policy.h"
#include "heed/error.h"
#include "heed/mixers/attention_mixer.h"
#include "heed/mixers/taps.h"

namespace heed::probe {
namespace {

using nlohmann::json;
using torch::Tensor;

class CoreRecorder : public Taps {
 public:
  explicit CoreRecorder(size_t layers) : layers(layers) {}
  void core_input(const LayerContext& layer, CoreInput& in) override {
    layers[size_t(layer.index)] = {in.q, in.k, in.v};
  }
  std::vector<CoreInput> layers;
};

template <class Value>
double mean_over_heads(int64_t layers, int64_t heads, const Value& value) {
  double sum = 0;
  for (int64_t l = 0; l < layers; ++l)
    for (int64_t h = 0; h < heads; ++h) sum += value(size_t(l), size_t(h));
  return sum / double(layers * heads);
}

}  // namespace

std::vector<json> prompt_patterns(double scale) {
  require(scale > 0 && std::isfinite(scale), "scale = {}: a number above 0 is accepted", scale);
  const auto scaled = [&](double count) { return std::max<int64_t>(1, std::llround(scale * count)); };
  std::vector<json> all;
  for (const auto& [columns, diagonals] : {std::pair{30, 800}, {100, 750}, {500, 700}, {3500, 100}, {1000, 4096}})
    all.push_back({{"pattern", "vertical_slash"}, {"columns", scaled(columns)}, {"diagonals", scaled(diagonals)}});
  all.push_back({{"pattern", "a_shape"}, {"sinks", scaled(100)}, {"window", scaled(800)}});
  all.push_back({{"pattern", "block_sparse"}, {"blocks", scaled(100)}});
  return all;
}

double PatternChoice::mean_error() const {
  return mean_over_heads(layers, heads, [&](size_t l, size_t h) { return error[best[l][h]][l][h]; });
}
double PatternChoice::mean_error_of(size_t pattern) const {
  return mean_over_heads(layers, heads, [&](size_t l, size_t h) { return error[pattern][l][h]; });
}
double PatternChoice::mean_density() const {
  return mean_over_heads(layers, heads, [&](size_t l, size_t h) { return density[best[l][h]][l][h]; });
}
double PatternChoice::mean_density_of(size_t pattern) const {
  return mean_over_heads(layers, heads, [&](size_t l, size_t h) { return density[pattern][l][h]; });
}

json PatternChoice::settings() const {
  json table = json::array();
  for (const auto& layer : best) {
    auto& row = table.emplace_back(json::array());
    for (const size_t pattern : layer) row.push_back(patterns[pattern]);
  }
  return {{"heads", table}};
}

PatternChoice choose_patterns(DecoderLm model, const Tensor& tokens, std::vector<json> patterns,
                              const std::function<void(int64_t done, int64_t total)>& progress) {
  torch::NoGradGuard no_grad;
  require(!patterns.empty(), "no pattern to choose from");
  require(tokens.dim() == 2 && tokens.size(0) == 1 && tokens.size(1) >= 2,
          "a prompt of [1, 2 or more] tokens is accepted");
  model->eval();
  const auto& config = model->config();
  PatternChoice choice;
  choice.layers = int64_t(config.layers.size());
  choice.heads = config.heads;
  choice.patterns = std::move(patterns);
  choice.best.assign(config.layers.size(), std::vector<size_t>(size_t(config.heads), 0));
  choice.error.assign(choice.patterns.size(),
                      std::vector(config.layers.size(), std::vector<double>(size_t(config.heads))));
  choice.density = choice.error;
  // One head alone, whose queries and keys are rotated already.
  const cache::ModelShape one{1, 1, 1, config.head_dim, config.max_length, {}};
  std::vector<cache::Policy> policies;
  for (const auto& pattern : choice.patterns) policies.push_back(cache::make_policy("minference", pattern, one));
  const nn::Positions none(nn::PositionsConfig(), config.head_dim, 1, true);

  CoreRecorder recorder(config.layers.size());
  model->hidden(tokens, nullptr, 0, &recorder);
  const auto positions = torch::arange(tokens.size(1));
  const int64_t group = config.heads / config.kv_heads;
  for (int64_t l = 0; l < choice.layers; ++l) {
    const auto& core = recorder.layers[size_t(l)];
    const auto* mixer = dynamic_cast<const AttentionMixer*>(model->blocks[size_t(l)]->mixer.get());
    for (int64_t h = 0; core.q.defined() && mixer && config.layers[size_t(l)].mixer == "dense" && h < choice.heads;
         ++h) {
      AttentionOptions options;
      options.mask = Causal{};
      options.scale = mixer->config().scale;
      options.softcap = mixer->config().softcap;
      const auto q = core.q.narrow(1, h, 1), k = core.k.narrow(1, h / group, 1), v = core.v.narrow(1, h / group, 1);
      const auto exact = attention(q, k, v, options).to(torch::kFloat32);
      const double size = exact.norm().item<double>();
      auto& best = choice.best[size_t(l)][size_t(h)];
      for (size_t p = 0; p < policies.size(); ++p) {
        const auto cache = policies[p]({0, 1});
        const auto out = cache->attend({{0, 1}, q, k, v, positions, none.get(), options}).to(torch::kFloat32);
        auto &error = choice.error[p][size_t(l)][size_t(h)], &density = choice.density[p][size_t(l)][size_t(h)];
        error = size > 0 ? (out - exact).norm().item<double>() / size : 0;
        density = double(cache->reads().prompt_pairs) / double(cache->reads().prompt_visible);
        const double least = choice.error[best][size_t(l)][size_t(h)];
        if (error < least || (error == least && density < choice.density[best][size_t(l)][size_t(h)])) best = p;
      }
    }
    if (progress) progress(l + 1, choice.layers);
  }
  return choice;
}

}  // namespace heed::probe
