#include "heed/probe/feature_probe.h"

#include <cmath>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/names.h"
#include "train/scheduled_adamw.h"

namespace heed::probe {
namespace {

using torch::Tensor;

constexpr double kQueryDeviation = 0.02, kDecay = 0;

class MeanProbe final : public FeatureProbe {
 public:
  MeanProbe(int64_t dim, int64_t classes) { add_classifier(dim, classes); }
  Tensor pooled(const Tensor& tokens) override { return tokens.mean(1); }
};

class MultiHeadProbe final : public FeatureProbe {
 public:
  MultiHeadProbe(int64_t dim, int64_t classes, int64_t heads) : heads_(heads) {
    require(dim % heads == 0, "a probe of {} heads: {} channels are no multiple of it", heads, dim);
    query_ = register_parameter("query", torch::randn({1, heads, 1, dim / heads}) * kQueryDeviation);
    kv_ = register_module("kv", torch::nn::Linear(dim, 2 * dim));
    out_ = register_module("out", torch::nn::Linear(dim, dim));
    add_classifier(dim, classes);
  }
  Tensor pooled(const Tensor& tokens) override {
    const auto kv = kv_(tokens).chunk(2, 2);
    const auto query = query_.expand({tokens.size(0), -1, -1, -1});
    return out_(join_heads(attention(query, split_heads(kv[0], heads_), split_heads(kv[1], heads_)))).squeeze(1);
  }

 private:
  int64_t heads_;
  Tensor query_;
  torch::nn::Linear kv_{nullptr}, out_{nullptr};
};

}  // namespace

void FeatureProbe::add_classifier(int64_t width, int64_t classes) {
  norm_ = register_module("norm", torch::nn::BatchNorm1d(torch::nn::BatchNorm1dOptions(width).affine(false)));
  classifier_ = register_module("classifier", torch::nn::Linear(width, classes));
}

EfficientProbe::EfficientProbe(int64_t dim, int64_t classes, int64_t count, int64_t shrink) {
  require(shrink >= 1 && dim % shrink == 0, "values of 1 / {} of {} channels: a divisor is accepted", shrink, dim);
  const int64_t width = dim / shrink;
  require(count >= 1 && width % count == 0, "{} queries over {} channels of values: a divisor is accepted", count,
          width);
  queries = register_parameter("queries", torch::randn({count, dim}) * kQueryDeviation);
  values = register_parameter("values", torch::randn({width, dim}) / std::sqrt(double(dim)));
  add_classifier(width, classes);
}

Tensor EfficientProbe::pooled(const Tensor& tokens) {
  const auto x = tokens.unsqueeze(1);
  const auto asked = queries.view({1, 1, queries.size(0), -1}).expand({x.size(0), -1, -1, -1});
  // Tokens are pooled before they are mapped: M products a sample in place of N.
  const auto means = attention(asked, x, x).squeeze(1);                   // [B, M, D]
  const auto parts = values.view({queries.size(0), -1, values.size(1)});  // [M, width / M, D]
  return torch::matmul(parts, means.unsqueeze(3)).flatten(1);
}

Tensor EfficientProbe::maps(const Tensor& tokens) const {
  return torch::softmax(torch::matmul(queries, tokens.transpose(1, 2)) / std::sqrt(double(queries.size(1))), 2);
}

std::shared_ptr<FeatureProbe> make_feature_probe(const std::string& name, int64_t dim, int64_t classes, int64_t queries,
                                                 int64_t shrink) {
  if (name == "mean") return std::make_shared<MeanProbe>(dim, classes);
  if (name == "efficient") return std::make_shared<EfficientProbe>(dim, classes, queries, shrink);
  if (name == "multi_head") return std::make_shared<MultiHeadProbe>(dim, classes, queries);
  fail("unknown probe {}: {}", name, suggest(name, {"mean", "efficient", "multi_head"}));
}

void train_probe(FeatureProbe& probe, const Features& features, const FeatureProbeOptions& o) {
  const int64_t count = features.labels.size(0);
  require(features.tokens.dim() == 3 && features.tokens.size(0) == count && count > 1,
          "features of a probe: tokens [S, N, D] and labels [S] of 2 samples or more are accepted");
  torch::manual_seed(int64_t(o.seed));
  const auto tokens = features.tokens.detach();
  train::ScheduledAdamW optimizer("probe", probe.parameters(), o.steps, o.learning_rate, kDecay);
  probe.train();
  for (int64_t step = 0; step < o.steps; ++step) {
    const auto drawn = torch::randint(count, {std::min(o.batch, count)}, torch::kInt64);
    const auto logits = probe.forward(tokens.index_select(0, drawn));
    optimizer.step(torch::cross_entropy_loss(logits, features.labels.index_select(0, drawn)));
  }
  probe.eval();
}

double probe_accuracy(FeatureProbe& probe, const Features& features) {
  torch::NoGradGuard no_grad;
  const bool in_training = probe.is_training();
  probe.eval();
  const auto right = probe.forward(features.tokens).argmax(1) == features.labels;
  probe.train(in_training);
  return right.to(torch::kFloat64).mean().item<double>();
}

double map_overlap(const EfficientProbe& probe, const Tensor& tokens) {
  torch::NoGradGuard no_grad;
  const auto maps = probe.maps(tokens);
  const int64_t count = maps.size(1);
  if (count < 2) return 0;
  const auto unit = maps / maps.norm(2, 2, true);
  const auto cosines = torch::bmm(unit, unit.transpose(1, 2)).flatten(1).sum(1) - double(count);
  return cosines.mean().item<double>() / double(count * (count - 1));
}

}  // namespace heed::probe
