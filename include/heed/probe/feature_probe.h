// Probes of frozen features: what classes a small head can read from the tokens of an encoder.
#pragma once

#include <torch/torch.h>

#include <memory>
#include <string>
#include <vector>

namespace heed::probe {

class FeatureProbe : public torch::nn::Module {
 public:
  /// Tokens [B, N, D] -> logits [B, classes].
  torch::Tensor forward(const torch::Tensor& tokens) { return classifier_(norm_(pooled(tokens))); }
  /// What the classifier reads, before its batch norm: [B, width].
  virtual torch::Tensor pooled(const torch::Tensor& tokens) = 0;

 protected:
  /// A batch norm without weights, and a linear map: linear probing.
  void add_classifier(int64_t width, int64_t classes);

 private:
  torch::nn::BatchNorm1d norm_{nullptr};
  torch::nn::Linear classifier_{nullptr};
};

/// Efficient probing (arXiv 2506.10178): learned queries attend to the tokens as they are, without a map to keys; each
/// reads its own part of the one map to values.
class EfficientProbe : public FeatureProbe {
 public:
  /// `queries` M; values have dim / shrink channels, which M divides. Throws heed::Error for sizes that do not fit.
  EfficientProbe(int64_t dim, int64_t classes, int64_t queries, int64_t shrink = 1);
  torch::Tensor pooled(const torch::Tensor& tokens) override;
  /// softmax(U X^T / sqrt(D)): [B, M, N].
  torch::Tensor maps(const torch::Tensor& tokens) const;

  torch::Tensor queries;  ///< U [M, D]
  torch::Tensor values;   ///< W_v^T [D / shrink, D]
};

/// "mean" (of all tokens), "efficient", or "multi_head": one learned query with maps to keys, values and outputs, in
/// `queries` heads.
std::shared_ptr<FeatureProbe> make_feature_probe(const std::string& name, int64_t dim, int64_t classes,
                                                 int64_t queries = 16, int64_t shrink = 1);

struct Features {
  torch::Tensor tokens;  ///< [S, N, D]
  torch::Tensor labels;  ///< int64 [S]
};

struct FeatureProbeOptions {
  int64_t steps = 400, batch = 64;
  double learning_rate = 1e-2;
  uint64_t seed = 0;
};

/// Trains a probe; no gradient reaches the tokens.
void train_probe(FeatureProbe& probe, const Features& features, const FeatureProbeOptions& options);
/// Share of the labels that are the probe's first choice.
double probe_accuracy(FeatureProbe& probe, const Features& features);
/// Mean cosine between the maps of two queries: 1, all look alike. 0 for a single query.
double map_overlap(const EfficientProbe& probe, const torch::Tensor& tokens);

}  // namespace heed::probe
