// Tokens that draw attention without being asked for: the first one, later ones, and secondary sinks, which a layer's
// channel mixer makes out of tokens in the middle of a text (arXiv 2512.22213).
#pragma once

#include <torch/torch.h>

#include <string>
#include <utility>
#include <vector>

#include "heed/mixers/taps.h"
#include "heed/models/decoder_lm.h"

namespace heed::probe {

struct SinkOptions {
  double cosine = 0.9;  ///< a token is a candidate where its |cosine| with the first token's state is larger
  /// A candidate of a model of 28 layers or more is primary-like where it lives for all but 15 of them or longer,
  /// secondary from 5 layers on, else noise (the authors' rule). For smaller models: the shares of the first token's
  /// own lifetime from which it is the one and the other.
  double primary = 0.8, secondary = 0.15;
  double threshold = 0.1;      ///< of later sinks: mean weight that a token gets from the queries that see it
  int64_t least_queries = 64;  ///< later sinks are seen by so many queries at least
};

enum class SinkLevel { primary, secondary, noise };
std::string to_string(SinkLevel level);
/// Of a candidate that lives for `lifetime` layers of a model of `layers`, in which the first token lives for `own`.
SinkLevel sink_level(int64_t lifetime, int64_t own, int64_t layers, const SinkOptions& options = {});

/// A token whose state joins the first token's direction.
struct Sink {
  int64_t token = 0;
  int64_t created = 0;   ///< the first layer after which it does
  int64_t lifetime = 0;  ///< layers after which it does
  SinkLevel level = SinkLevel::noise;
  /// Without what the channel mixer of the layer `created` added, it would not.
  bool by_mlp = false;
  /// Cosines, at that layer, with the first token's: of what the channel mixer got, of its inner stages, of what it
  /// gave.
  std::vector<std::pair<std::string, double>> stages;
};

/// A token other than the first that a head looks at whoever asks.
struct LaterSink {
  int64_t layer, head, token;
  double weight;  ///< mean over the queries from the token on
};

struct SinkReport {
  int64_t begin = 0, end = 0;    ///< layers after which the first token's state is large: [begin, end)
  torch::Tensor norms, cosines;  ///< float64 [L, N]: of the states after each layer; cosines with the first token's
  torch::Tensor scores;      ///< float64 [L, N]: mean weight over heads and the queries behind; 0 for the last token
  torch::Tensor first;       ///< float64 [L, H]: mean weight of the first token over the queries behind it
  torch::Tensor directions;  ///< float [L, C]: the first token's state after each layer, of length 1
  torch::Tensor mlp;         ///< float [L, C]: what each channel mixer added to the first token
  std::vector<Sink> sinks;   ///< without the first token, in the order of the text
  std::vector<LaterSink> later;
};

/// One forward pass over tokens int64 [1, N]. `edits`, where given, changes what flows, and the report is of that.
/// Throws heed::Error for fewer than three tokens, layers that are no softmax attention, and ALiBi or T5 positions.
SinkReport find_sinks(DecoderLm& model, const torch::Tensor& tokens, const SinkOptions& options = {},
                      Taps* edits = nullptr);

/// Channels whose size at the first token, over the root mean square of its state, is above `tau` before most layers:
/// those that tell sinks from other tokens (arXiv 2503.03321). Tokens int64 [1, N].
std::vector<int64_t> sink_channels(DecoderLm& model, const torch::Tensor& tokens, double tau);

/// What the channel mixers add along the first token's direction, rescaled: the intervention that shows the cause.
class SinkSteering : public Taps {
 public:
  /// `mlp` [L, C] of a report. Outputs of layers [begin, end) whose cosine with mlp[layer] is above `cosine` get this
  /// norm, 0 included; the first `spared` tokens are left alone.
  SinkSteering(torch::Tensor mlp, int64_t begin, int64_t end, double norm, double cosine = 0.98, int64_t spared = 3);
  void mlp_output(const LayerContext& layer, torch::Tensor& added) override;

 private:
  torch::Tensor mlp_;
  int64_t begin_, end_;
  double norm_, cosine_;
  int64_t spared_;
};

}  // namespace heed::probe
