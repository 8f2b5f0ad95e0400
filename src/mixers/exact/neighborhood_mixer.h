// Attention of the cells of a grid to windows around them: what the mixers of neighbourhoods share.
#pragma once

#include "heed/ops/neighborhood.h"
#include "mixers/rows.h"

namespace heed {

/// What a configuration says of the axes; one value stands for all.
struct NeighborhoodConfig {
  std::vector<int64_t> window{7}, stride{1}, dilation{1};
  std::vector<bool> causal{false};

  /// Reads its keys; `attention.causal` becomes true where every axis is causal.
  static NeighborhoodConfig read(ConfigReader& reader, AttentionConfig& attention);
};

class NeighborhoodMixer : public AttentionMixer {
 public:
  /// Of one causal axis without strides, whose windows do not depend on what comes; throws heed::Error for others.
  std::unique_ptr<MixerState> make_state(int64_t batch) const override;
  torch::Tensor mix(const CoreInput& input) final;

 protected:
  NeighborhoodMixer(std::string name, const AttentionConfig& config, NeighborhoodConfig around);

  virtual torch::Tensor attend(const CoreInput& input, const ops::NeighborhoodOptions& options) = 0;
  /// What is added to the logits of keys so many cells, int64 [N, M], before a query on one causal axis: [1, H, N, M];
  /// undefined: nothing.
  virtual torch::Tensor line_bias(const torch::Tensor& cells_before) const { return {}; }
  void evict(KvState& state) const final;

  NeighborhoodConfig around_;

 private:
  /// Whether there is one axis, causal and without strides: a line of tokens, which needs no grid and has a step.
  bool is_line() const;
  /// The line as a mask: any number of cells.
  torch::Tensor attend_line(const CoreInput& input);
  /// Of this grid: axes shorter than their windows are seen whole.
  ops::NeighborhoodOptions options_of(const std::vector<int64_t>& grid) const;
};

/// The parameters of both configurations, then `own`.
std::vector<Parameter> neighborhood_parameters(std::vector<Parameter> own);

/// A `make` that reads both configurations, lets `build` read its own keys, and refuses the rest.
template <class Build>
auto neighborhood_maker(const char* name, Build build) {
  return rows::attention_maker(name, [build](AttentionConfig config, ConfigReader& reader) {
    auto around = NeighborhoodConfig::read(reader, config);
    return build(config, around, reader);
  });
}

}  // namespace heed
