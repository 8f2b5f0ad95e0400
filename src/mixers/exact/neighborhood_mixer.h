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
  std::unique_ptr<MixerState> make_state(int64_t batch) const override;
  torch::Tensor mix(const CoreInput& input) final;

 protected:
  NeighborhoodMixer(std::string name, const AttentionConfig& config, NeighborhoodConfig around);

  virtual torch::Tensor attend(const CoreInput& input, const ops::NeighborhoodOptions& options) = 0;

  NeighborhoodConfig around_;

 private:
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
