// MInference's offline search (arXiv 2407.02490): which sparse pattern of the prompt suits each head.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "heed/models/decoder_lm.h"

namespace heed::probe {

/// Settings of the policy minference: the five vertical-slash pairs, A-shape and block-sparse of the paper, times
/// `scale` (above 0), so that texts much shorter than its 128k tokens are not read whole.
std::vector<nlohmann::json> prompt_patterns(double scale);

struct PatternChoice {
  int64_t layers = 0, heads = 0;
  std::vector<nlohmann::json> patterns;                          ///< the candidates
  std::vector<std::vector<size_t>> best;                         ///< [layer][query head]: which
  std::vector<std::vector<std::vector<double>>> error, density;  ///< [pattern][layer][head]

  /// Relative error of the outputs, mean over heads: of each head's best pattern, and of one pattern for all.
  double mean_error() const;
  double mean_error_of(size_t pattern) const;
  /// Visited share of the visible pairs, mean over heads.
  double mean_density() const;
  double mean_density_of(size_t pattern) const;
  /// As settings of the policy minference.
  nlohmann::json settings() const;
};

/// Runs every pattern for every head on the queries, keys and values of one prompt int64 [1, N], and takes the one with
/// the least error of the outputs, |o - exact| / |exact|; among equal ones the least density. Heads of layers without
/// plain attention get the first pattern.
PatternChoice choose_patterns(DecoderLm model, const torch::Tensor& tokens, std::vector<nlohmann::json> patterns,
                              const std::function<void(int64_t done, int64_t total)>& progress = {});

}  // namespace heed::probe
