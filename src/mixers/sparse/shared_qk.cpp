#include "mixers/sparse/shared_qk.h"

#include <limits>

#include "heed/error.h"
#include "heed/mixers/attention_cache.h"
#include "heed/nn/buckets.h"

namespace heed::sparse {

using torch::Tensor;

void BucketState::append(const Tensor& k, const Tensor& v) {
  KvState::append(k, v);
  const auto fresh = rule(k);
  buckets = buckets.defined() ? torch::cat({buckets, fresh}, 3) : fresh;
}

int64_t BucketState::bytes() const {
  return KvState::bytes() + (buckets.defined() ? static_cast<int64_t>(buckets.nbytes()) : 0);
}

std::unique_ptr<MixerState> BucketState::clone() const {
  auto copy = std::make_unique<BucketState>(*this);
  copy->kv = kv.clone();
  if (padding.defined()) copy->padding = padding.clone();
  return copy;
}

void BucketState::truncate(int64_t length) {
  KvState::truncate(length);
  if (buckets.defined()) buckets = buckets.narrow(3, 0, length).clone();
}

BucketMixer::BucketMixer(std::string name, AttentionConfig config, bool shared)
    : AttentionMixer(std::move(name), std::move(config)), shared_(shared) {
  const auto& kind = config_.positions.kind;
  require(config_.kv_heads == config_.heads, "{}: kv_heads = {}: as many as heads, {}, are accepted", name_,
          config_.kv_heads, config_.heads);
  require(kind != "alibi" && kind != "t5", "{}: positions {}: none, rope, learned and sinusoidal are accepted", name_,
          kind);
  require(shared_ || !config_.causal, "{}: causal attention with queries and keys apart: shared is accepted", name_);
  if (!shared_) return;
  unregister_module("k_proj");
  k_proj_ = q_proj_;
  if (!k_norm_) return;
  unregister_module("k_norm");
  k_norm_ = q_norm_;
}

Tensor BucketMixer::forward(const MixerInput& in, MixerState* state) {
  require(!in.cu_seqlens, "{}: cu_seqlens is not accepted", name_);
  require(!in.memory || !shared_, "{}: memory is not accepted: queries and keys are one", name_);
  require(!dynamic_cast<AttentionCache*>(state), "{}: a cache policy is not accepted: buckets choose the keys", name_);
  return AttentionMixer::forward(in, state);
}

std::unique_ptr<MixerState> BucketMixer::make_state(int64_t batch) const {
  AttentionMixer::make_state(batch);  // refuses what has no step
  return std::make_unique<BucketState>([this](const Tensor& k) { return buckets_of(k); });
}

void BucketMixer::before_core(const MixerInput&, const KvState*, Tensor&, Tensor& k, Tensor&) {
  namespace F = torch::nn::functional;
  if (shared_) k = F::normalize(k, F::NormalizeFuncOptions().dim(3));
}

std::optional<Tensor> BucketMixer::mix_held(const CoreInput& in, const KvState& state) {
  auto all = in;
  all.k = state.keys();
  all.v = state.values();
  return attend(all, static_cast<const BucketState&>(state).buckets);
}

AttentionOptions BucketMixer::plain_options(const CoreInput& in) const {
  AttentionOptions options;
  options.scale = config_.scale;
  options.softcap = config_.softcap;
  if (is_training() && config_.dropout > 0) {
    options.dropout = config_.dropout;
    options.seed = in.seed;
  }
  return options;
}

Mask BucketMixer::bucket_mask() const {
  constexpr int64_t kAny = std::numeric_limits<int64_t>::max();
  if (!shared_) return {};
  return config_.causal ? Mask(Window{kAny, -1}) : ~Mask(Window{0, 0});
}

AttentionResult BucketMixer::attend_listed(const CoreInput& in, Tensor visible) const {
  const int64_t n = in.q.size(2), m = in.k.size(2);
  const auto query = torch::arange(m - n, m).unsqueeze(1), key = torch::arange(m);
  if (shared_) visible = visible & (config_.causal ? key < query : key != query);
  if (in.key_padding) visible = visible & in.key_padding->logical_not().view({-1, 1, 1, m});
  auto options = plain_options(in);
  options.blocks = nn::listed_pairs(visible);
  return attention_with_lse(in.q, in.k, in.v, options);
}

Tensor BucketMixer::own_where_alone(const AttentionResult& seen, const Tensor& v) const {
  if (!shared_) return seen.out;
  const auto alone = (seen.lse == -std::numeric_limits<double>::infinity()).unsqueeze(3);
  return torch::where(alone, v.slice(2, v.size(2) - seen.out.size(2)), seen.out);
}

std::vector<Parameter> bucket_parameters(std::vector<Parameter> own) {
  auto all = rows::attention_parameters(std::move(own));
  std::erase_if(all, [](const Parameter& p) { return p.name == "kv_heads"; });
  return all;
}

}  // namespace heed::sparse
