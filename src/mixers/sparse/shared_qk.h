// What mixers share that put tokens into buckets: one projection for queries and keys, and a state that knows the
// bucket of each key.
#pragma once

#include <functional>

#include "heed/mixers/attention_mixer.h"
#include "mixers/rows.h"

namespace heed::sparse {

/// Keys and values, and the buckets of each key in every round.
struct BucketState : KvState {
  /// k [B, H, n, D] -> int64 [B, H, R, n].
  using Rule = std::function<torch::Tensor(const torch::Tensor& k)>;
  explicit BucketState(Rule rule) : rule(std::move(rule)) {}

  Rule rule;
  torch::Tensor buckets;  ///< int64 [B, H, R, slots]

  void append(const torch::Tensor& k, const torch::Tensor& v) override;
  int64_t bytes() const override;
  std::unique_ptr<MixerState> clone() const override;
  void truncate(int64_t length) override;
};

/// Attention by buckets. With `shared`, a token's key is its query brought to length 1, and it sees itself only where
/// it sees nobody else.
class BucketMixer : public AttentionMixer {
 public:
  torch::Tensor forward(const MixerInput& input, MixerState* state = nullptr) override;
  std::unique_ptr<MixerState> make_state(int64_t batch) const override;
  torch::Tensor mix(const CoreInput& in) final { return attend(in, buckets_of(in.k)); }

 protected:
  /// Throws heed::Error for grouped heads and for positions that are score terms: places in a bucket are no distances.
  BucketMixer(std::string name, AttentionConfig config, bool shared);

  /// Buckets of keys, int64 [B, H, R, n].
  virtual torch::Tensor buckets_of(const torch::Tensor& k) const = 0;
  /// The head outputs of `in`, whose queries are its newest tokens, given the buckets of all of its keys.
  virtual torch::Tensor attend(const CoreInput& in, const torch::Tensor& buckets) = 0;
  std::optional<torch::Tensor> mix_held(const CoreInput& in, const KvState& state) final;
  void before_core(const MixerInput&, const KvState*, torch::Tensor& q, torch::Tensor& k, torch::Tensor& v) override;

  /// Scale, soft cap and dropout of the configuration.
  AttentionOptions plain_options(const CoreInput& in) const;
  /// Which of its bucket, in order of time, a token sees: those before it (causal) or all; itself unless `shared`.
  Mask bucket_mask() const;
  /// The union of the keys that `visible` bool [B, H, n, M] says each of the newest n queries sees, less what time and
  /// padding hide.
  AttentionResult attend_listed(const CoreInput& in, torch::Tensor visible) const;
  /// Rows that saw nothing get their own value.
  torch::Tensor own_where_alone(const AttentionResult& seen, const torch::Tensor& v) const;

  bool shared_;
};

/// The parameters of attention without grouped heads, then `own`.
std::vector<Parameter> bucket_parameters(std::vector<Parameter> own);

}  // namespace heed::sparse
