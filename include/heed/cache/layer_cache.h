// One layer's cache under a policy: the base keeps, attends and counts; a policy says what is dropped and what is read.
#pragma once

#include <functional>
#include <string>

#include "heed/mixers/attention_cache.h"
#include "heed/nn/ragged_kv.h"
#include "heed/ops/cache.h"

namespace heed::cache {

/// What decode steps read, summed over sequences, KV heads and steps.
struct Reads {
  int64_t steps = 0;             ///< decode steps of a layer
  int64_t full_steps = 0;        ///< those in which every KV head attended to all tokens there were
  int64_t attended = 0;          ///< (key, value) pairs
  int64_t scored = 0;            ///< key-sized vectors that were touched only to select
  double attention_seconds = 0;  ///< spent in attention
  double policy_seconds = 0;     ///< everything else of a step: storing, selecting, dropping
  /// (query, key) pairs of the prompt over sequences and query heads: those that policies which skip some have visited,
  /// and all that are visible; 0 of 0 for other policies.
  int64_t prompt_pairs = 0, prompt_visible = 0;

  Reads& operator+=(const Reads& other);
};

/// Derive and override the hooks. The defaults keep everything and read everything: the full cache.
///
/// Keys are kept rotated at their own position (the rule `absolute`) unless `keeps_unrotated` says otherwise. A cache
/// begins in the prompt; `finish_prompt` ends it, and only then single tokens count as decode steps.
class LayerCache : public AttentionCache {
 public:
  torch::Tensor attend(const CacheCall& call) final;
  /// All caches of a state in the order of the layers, before the first token: for what layers share.
  virtual void meet(const std::vector<LayerCache*>&) {}
  /// The prompt is complete: one-shot policies compress now.
  void finish_prompt();
  /// The prompt must come in one chunk: what becomes of a row depends on later ones.
  virtual bool wants_whole_prompt() const { return false; }
  /// Room for this many tokens, so that a long prompt is never moved.
  void reserve(int64_t tokens) {
    expected_ = std::max(expected_, tokens);
    kv_.reserve(reserved_slots(tokens));
  }
  /// Keys and values are kept in this format once the prompt is over, which attends and is compressed exactly. Summaries
  /// that were made of the prompt (page bounds, means, chunk keys, the search graph) stay those of the exact keys;
  /// scores of single keys go by what is stored.
  void store_as(const nn::KvFormat& format) { storage_ = format; }

  /// Held by tensors: keys, values, positions and what the policy keeps beside them.
  int64_t bytes() const override { return kv_.bytes() + policy_bytes(); }
  /// What the policy holds beside keys and values: scores, page bounds, lists.
  virtual int64_t policy_bytes() const { return 0; }
  /// Of the keys and values those that a step reads only by an index, so that slower memory can hold them.
  virtual int64_t cold_bytes() const { return 0; }
  int64_t seen() const override { return seen_; }
  std::unique_ptr<MixerState> clone() const override { fail_to("clone"); }
  /// Forgets the newest tokens. Policies that have dropped anything can't.
  void truncate(int64_t tokens) override;

  /// For steps that are repeated at one length, to measure them: rows that hold more than `slots` lose their newest.
  /// What a policy has noted of these tokens is renewed by the next step.
  void hold_at(int64_t slots);

  const Reads& reads() const { return reads_; }
  /// From now on every step notes which tokens it attends to.
  void record_reads(bool on) { recording_ = on; }
  /// Of the last step: bool [B, Hq, seen].
  const torch::Tensor& tokens_read() const { return tokens_read_; }
  const nn::RaggedKv& kv() const { return kv_; }

 protected:
  /// Every row has just lost all but its first `slots` slots, for a policy that keeps notes beside them.
  virtual void shortened(int64_t slots) {}
  /// Tokens of `seen()` that `hold_at` has taken back.
  int64_t forgotten() const { return forgotten_; }

  /// New tokens, rotated by the rule; `kv()` holds them already.
  struct Chunk {
    const CacheCall& call;
    torch::Tensor q, k, v;  ///< [B, Hq|Hkv, n, D|Dv]
    int64_t first;          ///< position of the first
    int64_t size() const { return q.size(2); }
  };

  virtual bool keeps_unrotated() const { return false; }
  virtual int64_t reserved_slots(int64_t tokens) const { return tokens; }
  /// Puts the chunk into `kv()`. Default: appends to every row.
  virtual void store(const Chunk& chunk);
  /// Attention of a chunk of the prompt (or of several tokens later), [B, Hq, n, Dv].
  virtual torch::Tensor attend_chunk(const Chunk& chunk);
  /// Attention of one token after the prompt, [B, Hq, 1, Dv].
  virtual torch::Tensor attend_step(const Chunk& chunk);
  /// After the chunk's attention: the place to drop.
  virtual void after_chunk(const Chunk&) {}
  virtual void after_step(const Chunk&) {}
  /// After the prompt.
  virtual void compress() {}

  /// The chunk against all slots of each row, of which the newest are its own tokens. The mask is asked with slots as
  /// keys, bottom-right aligned. With `lse`, also float [B, Hq, n].
  torch::Tensor attend_slots(const Chunk& chunk, const Mask& mask, torch::Tensor* lse = nullptr) const;
  /// The same with a mask of its own for every KV head.
  torch::Tensor attend_heads(const Chunk& chunk, const std::function<Mask(int64_t head)>& mask,
                             torch::Tensor* lse = nullptr) const;
  /// decode, counted.
  ops::DecodeResult decode(const torch::Tensor& q, const ops::CacheTensors& cache, ops::DecodeOptions options = {});
  /// Scale and soft cap of the mixer; the one query of a step sees all that it is given unless `mask` says otherwise.
  static ops::DecodeOptions decode_options(const Chunk& chunk, const Mask& mask = {});
  /// A chunk's attention as that of parts of at most `most` tokens: attend(first token, how many), [B, Hq, n, Dv].
  static torch::Tensor attend_in_parts(const Chunk& chunk, int64_t most,
                                       const std::function<torch::Tensor(int64_t at, int64_t n)>& attend);
  void count_scored(int64_t vectors) { reads_.scored += vectors; }
  void count_prompt(int64_t pairs, int64_t visible) {
    reads_.prompt_pairs += pairs;
    reads_.prompt_visible += visible;
  }

  /// All slots in use.
  ops::CacheTensors everything() const;
  /// Chosen slots: int32 [B, H, S], ascending, -1 behind the last. H is Hkv or a multiple: consecutive lists choose
  /// from the slots of one KV head, and decode takes each for a KV head.
  ops::CacheTensors gathered(const torch::Tensor& slots) const;
  /// Chosen pages of RaggedKv::kPage slots: int32 [B, Hkv, P], ascending, -1 behind the last.
  ops::CacheTensors paged(const torch::Tensor& pages) const;
  /// Chosen blocks of `size` slots: int32 [B, Hkv, P], ascending, -1 behind the last. Whole pages are read where `size`
  /// is a multiple of them.
  ops::CacheTensors blocks(const torch::Tensor& chosen, int64_t size) const;

  torch::Tensor rotate(const Chunk& chunk, const torch::Tensor& x, const torch::Tensor& positions) const;
  /// For keys kept unrotated: how decode rotates `slots` slots that stand at 0, 1, ...; nothing without rotation.
  std::optional<ops::KeyRotation> rotation_on_read(const Chunk& chunk, int64_t slots) const;
  /// A query rotated to ask such keys: it carries the magnitude of both sides.
  torch::Tensor rotate_query(const Chunk& chunk, const torch::Tensor& q, const torch::Tensor& positions) const;
  int64_t group(const Chunk& chunk) const { return chunk.q.size(1) / chunk.k.size(1); }
  bool in_prompt() const { return in_prompt_; }
  /// Tokens of the whole text as far as it is known: the most that were reserved.
  int64_t expected() const { return expected_; }
  /// Of keys and values after the prompt.
  const nn::KvFormat& storage() const { return storage_; }

  nn::RaggedKv kv_;

 private:
  [[noreturn]] static void fail_to(const char* what);
  /// Marks the tokens of the slots that `cache` lists.
  void note_reads(const ops::CacheTensors& cache);

  Reads reads_;
  nn::KvFormat storage_;
  int64_t seen_ = 0, expected_ = 0, forgotten_ = 0;
  bool in_prompt_ = true, recording_ = false;
  torch::Tensor tokens_read_;
};

/// The merge of attention over disjoint sets of keys: o [B, H, N, Dv], lse float [B, H, N, 1]; empty sides are
/// harmless.
ops::DecodeResult merge(const ops::DecodeResult& a, const ops::DecodeResult& b);

}  // namespace heed::cache
