// Projections, positions, state and padding that every softmax-like mixer shares; a mechanism adds its own terms.
#pragma once

#include <optional>
#include <string>

#include "heed/attention.h"
#include "heed/mixers/token_mixer.h"
#include "heed/nn/config.h"
#include "heed/nn/kv_storage.h"
#include "heed/nn/norm.h"
#include "heed/nn/positions.h"

namespace heed {

class AttentionCache;

/// The part of a configuration that all attention mixers read.
struct AttentionConfig {
  int64_t dim = 64;      ///< C
  int64_t heads = 4;     ///< query heads
  int64_t kv_heads = 0;  ///< key and value heads; 0: heads (MHA), 1: MQA, between: GQA
  int64_t head_dim = 0;  ///< 0: dim / heads
  bool causal = true;
  bool qkv_bias = false;         ///< biases of the q, k, v projections
  bool output_bias = false;      ///< bias of the output projection
  std::string qk_norm = "none";  ///< none, rms, layer: over each head's q and k, before positions (arXiv 2302.05442)
  double norm_eps = 1e-5;        ///< of qk_norm
  double scale = 0;              ///< of the logits; 0: 1 / sqrt(head_dim)
  double softcap = 0;            ///< c > 0: logits become c tanh(s / c)
  double dropout = 0;            ///< of attention weights, in training
  int64_t max_length = 2048;     ///< length constants come from here, never from the current length
  nn::PositionsConfig positions;

  /// Reads its keys; the caller finishes the reader after its own.
  static AttentionConfig read(ConfigReader& reader);
  /// Query heads that share one key and value head.
  int64_t group() const { return heads / kv_heads; }
};

/// Keys and values in a KvStorage, and the padding seen with them. A mixer that keeps them elsewhere derives its own.
struct KvState : MixerState {
  nn::KvStorage kv;
  torch::Tensor padding;  ///< bool [B, slots] or undefined: no padding so far
  int64_t tokens = 0;     ///< seen, including those evicted

  /// Appends k [B, Hkv, n, D] and v [B, Hkv, n, Dv] of the next n tokens.
  virtual void append(const torch::Tensor& k, const torch::Tensor& v);
  virtual torch::Tensor keys() const { return kv.keys(); }      ///< [B, Hkv, slots, D]
  virtual torch::Tensor values() const { return kv.values(); }  ///< [B, Hkv, slots, Dv]
  virtual int64_t slots() const { return kv.length(); }
  /// Removes slots [begin, end) of kv, if any.
  void erase(int64_t begin, int64_t end);

  int64_t bytes() const override { return kv.bytes() + padding_bytes(); }
  int64_t padding_bytes() const { return padding.defined() ? int64_t(padding.nbytes()) : 0; }
  int64_t seen() const override { return tokens; }
  std::unique_ptr<MixerState> clone() const override;
  void truncate(int64_t length) override;
};

class AttentionMixer : public TokenMixer {
 public:
  torch::Tensor forward(const MixerInput& input, MixerState* state = nullptr) override;
  std::unique_ptr<MixerState> make_state(int64_t batch) const override;
  torch::Tensor mix(const CoreInput& input) override;

  const AttentionConfig& config() const { return config_; }

 protected:
  AttentionMixer(std::string name, AttentionConfig config);

  /// The mask of the mechanism, on bottom-right aligned positions. Default: causal or everything.
  virtual Mask mask() const;
  /// Normaliser, score terms, block lists for this call. Default: none beyond mask, positions, dropout.
  virtual void customize(AttentionOptions&, const CoreInput&) {}
  /// Changes q, k, v [B, H, N, D] before positions are applied; `state` still ends before x.
  virtual void before_core(const MixerInput&, const KvState*, torch::Tensor& q, torch::Tensor& k, torch::Tensor& v) {}
  /// Changes the head outputs [B, Hq, N, Dv] before the output projection.
  virtual torch::Tensor after_core(const MixerInput&, torch::Tensor heads) { return heads; }
  /// The head outputs [B, Hq, N, Dv] of q, k, v that were not given their positions yet, for a mechanism that places or
  /// keeps tokens in its own way: what follows up to after_core() is then left to it. `positions` int64 [N] of x.
  virtual std::optional<torch::Tensor> attend_own(const MixerInput&, KvState*, const torch::Tensor& q,
                                                  const torch::Tensor& k, const torch::Tensor& v,
                                                  const torch::Tensor& positions) {
    return std::nullopt;
  }
  /// Drops what no later query can see; called after every append.
  virtual void evict(KvState&) const {}
  /// The head outputs of `input`, whose q [B, Hq, n, D] are the newest tokens of the state, read where the state keeps
  /// them; without a value, mix() is asked on all of its keys and values.
  virtual std::optional<torch::Tensor> mix_held(const CoreInput&, const KvState&) { return std::nullopt; }

  /// Whether a head's output is attention under mask() and the score terms, so that a cache policy may keep its keys.
  virtual bool serves_caches() const { return true; }
  /// Adds the padding of x to the state's: bool [B, slots and N], undefined where there was none so far. To be called
  /// before the state's append().
  torch::Tensor append_padding(const MixerInput&, KvState&) const;
  /// Throws heed::Error unless key_padding is bool [B, M] and sizes [B, M] of `source`.
  void check_keys(const MixerInput&, const torch::Tensor& source) const;
  AttentionOptions options_for(const CoreInput&);
  torch::Tensor attend_cached(const MixerInput&, AttentionCache&, const torch::Tensor& q, const torch::Tensor& k,
                              const torch::Tensor& v, const torch::Tensor& positions);
  torch::Tensor split_heads(const torch::Tensor& x, int64_t heads) const;
  /// QK norm, where the configuration has one.
  void normalize(torch::Tensor& q, torch::Tensor& k);

  std::string name_;
  AttentionConfig config_;
  torch::nn::Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, o_proj_{nullptr};
  nn::Norm q_norm_{nullptr}, k_norm_{nullptr};
  nn::Positions positions_{nullptr};
};

}  // namespace heed
