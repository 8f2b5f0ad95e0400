#include "mixers/sparse/sparse_mixer.h"

#include "heed/error.h"

namespace heed::sparse {

std::unique_ptr<MixerState> SlotState::clone() const {
  auto copy = std::make_unique<SlotState>();
  for (const auto& slot : held.slots) copy->held.slots.push_back(slot.defined() ? slot.clone() : torch::Tensor());
  copy->held.tokens = copy->tokens = tokens;
  return copy;
}

void SlotState::truncate(int64_t length) {
  held.tokens = tokens;
  held.truncate(length);
  tokens = length;
}

SparseMixer::SparseMixer(std::string name, const AttentionConfig& config) : AttentionMixer(std::move(name), config) {
  const auto& kind = config.positions.kind;
  require(kind != "alibi" && kind != "t5",
          "{}: positions {} are terms of distance; none, rope, learned or sinusoidal is accepted", name_, kind);
}

void SparseMixer::require_plain_self(const MixerInput& in) const {
  require(!in.memory, "{}: no memory is accepted", name_);
  require(!in.cu_seqlens, "{}: cu_seqlens is not accepted", name_);
  require(!in.sizes, "{}: sizes of tokens are not accepted", name_);
}

AttentionOptions SparseMixer::plain_options(uint64_t seed) const {
  AttentionOptions options;
  options.scale = config_.scale;
  options.softcap = config_.softcap;
  if (is_training() && config_.dropout > 0) {
    options.dropout = config_.dropout;
    options.seed = seed;
  }
  return options;
}

void require_causal(const char* name, const AttentionConfig& config) {
  require(config.causal, "{}: causal = false is not accepted", name);
}

void require_no_dropout(const char* name, const AttentionConfig& config) {
  require(config.dropout == 0, "{}: dropout = {}: 0 is accepted", name, config.dropout);
}

}  // namespace heed::sparse
