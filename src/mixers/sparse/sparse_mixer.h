// What the sparse attention mixers that keep tokens in their own way share.
#pragma once

#include "heed/mixers/recurrent_mixer.h"
#include "mixers/rows.h"

namespace heed::sparse {

/// A state of tensors by slot, which only its mixer reads; undefined before the first token.
struct SlotState final : KvState {
  RecurrentState held;

  int64_t bytes() const override { return held.bytes(); }
  int64_t slots() const override { return 0; }
  std::unique_ptr<MixerState> clone() const override;
  /// To 0 or to what was seen.
  void truncate(int64_t length) override;
};

/// Attention of one sequence an item over its own tokens, with positions that are no terms of distance.
class SparseMixer : public AttentionMixer {
 protected:
  /// Throws heed::Error for positions of kind alibi or t5.
  SparseMixer(std::string name, const AttentionConfig& config);

  bool serves_caches() const override { return false; }
  /// Throws heed::Error for memory, packed sequences and sizes of tokens.
  void require_plain_self(const MixerInput& in) const;
  /// Scale, soft cap and dropout of the configuration.
  AttentionOptions plain_options(uint64_t seed) const;
};

/// Throws heed::Error unless causal.
void require_causal(const char* name, const AttentionConfig& config);
/// Throws heed::Error where weights are to be dropped.
void require_no_dropout(const char* name, const AttentionConfig& config);

}  // namespace heed::sparse
