// Attention whose weights several layers share (EchoAtt, arXiv 2409.14595): a leader computes them, the followers
// behind it apply them to values of their own and have no queries and keys.
#include "heed/error.h"
#include "heed/mixers/attention_share.h"
#include "heed/mixers/taps.h"
#include "heed/ops/cache.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

/// decode gives the weights of a token only under plain softmax.
bool decode_gives_weights(const CoreInput& in, const AttentionOptions& o) {
  const bool plain = o.normalizer == NormalizerKind::softmax && !o.alibi_slopes && !o.bias && o.dropout == 0;
  return plain && in.q.size(2) == 1 && in.k.size(2) > 1 && !in.key_padding && !in.cu_seqlens && !in.report &&
         in.q.scalar_type() != torch::kFloat64 && !torch::GradMode::is_enabled();
}

class Leader final : public AttentionMixer {
 public:
  explicit Leader(const AttentionConfig& config) : AttentionMixer("shared_attention", config) {}

  Tensor mix(const CoreInput& in) override {
    const auto options = options_for(in);
    if (in.share == nullptr) return nn::attention(in.q, in.k, in.v, options, in.report);
    *in.share = {in.q, in.k, options, {}};
    if (!decode_gives_weights(in, options)) return nn::attention(in.q, in.k, in.v, options, in.report);
    ops::CacheTensors cache;
    cache.k = in.k;
    cache.v = in.v;
    cache.lengths = torch::full({in.k.size(0), in.k.size(1)}, in.k.size(2), torch::kInt64);
    ops::DecodeOptions read;
    read.scale = options.scale;
    read.softcap = options.softcap;
    read.mask = options.mask;
    read.column_sum = true;
    const auto result = ops::decode(in.q, cache, read);
    in.share->weights = result.column_sum;
    return result.out;
  }
};

class Follower final : public AttentionMixer {
 public:
  explicit Follower(const AttentionConfig& config) : AttentionMixer("shared_attention", config) {
    for (const char* name : {"q_proj", "k_proj"}) unregister_module(name);
    q_proj_ = k_proj_ = nullptr;
    if (!q_norm_) return;
    for (const char* name : {"q_norm", "k_norm"}) unregister_module(name);
    q_norm_ = k_norm_ = nullptr;
  }

  Tensor forward(const MixerInput& in, MixerState* raw_state) override {
    auto* state = dynamic_cast<KvState*>(raw_state);
    require(!raw_state || state, "{}: this state was made by another mixer", name_);
    require(in.share && in.share->q.defined(), "{}: a follower has no leader before it", name_);
    const auto& share = *in.share;
    const auto& source = in.memory ? *in.memory : in.x;
    const int64_t past = state ? state->seen() : 0;
    const auto positions = in.positions && !in.memory ? *in.positions : torch::arange(past, past + source.size(1));
    auto v = split_heads(v_proj_(positions_->embed(source, positions)), config_.kv_heads);
    if (state) {
      state->append(v.narrow(3, 0, 0), v);
      v = state->values();
    }
    require(share.q.size(0) == in.x.size(0) && share.q.size(1) == config_.heads && share.q.size(2) == in.x.size(1) &&
                share.k.size(1) == config_.kv_heads && share.k.size(2) == v.size(2),
            "{}: the leader's weights are of {} heads, {} x {} tokens, those of a follower of {} heads, {} x {}", name_,
            share.q.size(1), share.q.size(2), share.k.size(2), config_.heads, in.x.size(1), v.size(2));
    CoreInput core{share.q, share.k, v};
    if (in.taps) in.taps->core_input(in.layer, core);
    auto heads = share.weights.defined() && !in.taps ? weighted(share.weights, v)
                                                     : attention(core.q, core.k, core.v, share.options);
    if (in.taps) in.taps->core_output(in.layer, heads);
    return o_proj_(heads.transpose(1, 2).flatten(2));
  }

 private:
  /// weights [B, Hq, M] of one token, v [B, Hkv, M, Dv] -> [B, Hq, 1, Dv].
  Tensor weighted(const Tensor& weights, const Tensor& v) const {
    const auto grouped = weights.to(v.scalar_type()).unflatten(1, {config_.kv_heads, config_.group()});
    return torch::matmul(grouped, v).flatten(1, 2).unsqueeze(2);
  }
};

}  // namespace

RegistryRow rows::shared_attention() {
  return {.name = "shared_attention",
          .family = "kv_cache_and_long_context",
          .paper = "EchoAtt: Attend, Copy, then Adjust for More Efficient Large Language Models (arXiv 2409.14595)",
          .year = 2024,
          .patterns = {true, true, true, true},
          .step = true,
          .exact = true,
          .cost = "O(N^2)",
          .parameters = attention_parameters(
              {{"role", "leader",
                "leader: attention whose weights the layers behind it may use; follower: values and output only, under "
                "the weights of the last leader before it"}}),
          .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}},
          .make = attention_maker(
              "shared_attention",
              [](const AttentionConfig& config, ConfigReader& reader) -> std::shared_ptr<AttentionMixer> {
                if (reader.choice("role", "leader", {"leader", "follower"}) == "leader")
                  return std::make_shared<Leader>(config);
                return std::make_shared<Follower>(config);
              })};
}

}  // namespace heed
