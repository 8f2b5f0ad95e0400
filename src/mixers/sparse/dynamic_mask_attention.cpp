// Keys that weigh themselves: a number made of a key's value is added to its logits and chooses the keys that are kept.
#include <cmath>

#include "heed/error.h"
#include "heed/nn/keys.h"
#include "heed/nn/row_attention.h"
#include "heed/nn/running_top.h"
#include "heed/nn/start.h"
#include "mixers/sparse/panels.h"
#include "mixers/sparse/sparse_mixer.h"

namespace heed {
namespace {

using torch::Tensor;

struct DynamicMaskConfig {
  int64_t kept = 2048, block = 0;
  bool exponential = false;
};

class DynamicMaskAttention final : public sparse::SparseMixer {
 public:
  DynamicMaskAttention(const AttentionConfig& c, DynamicMaskConfig own)
      : SparseMixer("dynamic_mask_attention", c), own_(own) {
    importance_ = register_module("importance", nn::started_linear(c.kv_heads * c.head_dim, c.kv_heads, false));
    amplitude_ = register_parameter("amplitude", torch::randn({c.kv_heads}) * 0.02);
  }

  std::unique_ptr<MixerState> make_state(int64_t batch) const override {
    require(own_.block == 0, "dynamic_mask_attention: a state keeps the largest keys; block = 0 is accepted");
    AttentionMixer::make_state(batch);
    return std::make_unique<sparse::SlotState>();
  }

  Tensor mix(const CoreInput& in) override {
    require(!in.cu_seqlens && !in.key_sizes, "dynamic_mask_attention: no cu_seqlens and no sizes are accepted");
    auto delta = key_bias(in.v);
    if (in.key_padding) delta = delta.masked_fill(in.key_padding->unsqueeze(1), -INFINITY);
    return attend(in.q, in.k, in.v, delta, in.seed, in.report);
  }

 protected:
  std::optional<Tensor> attend_own(const MixerInput& in, KvState* any, const Tensor& q, const Tensor& k,
                                   const Tensor& v, const Tensor& positions) override {
    if (in.memory) return std::nullopt;  // keys have positions of their own; mix() does the rest
    require_plain_self(in);
    auto delta = key_bias(v);
    if (in.key_padding) delta = delta.masked_fill(in.key_padding->unsqueeze(1), -INFINITY);
    const auto queries = positions_->rotate(q, positions), keys = positions_->rotate(k, positions);
    if (!any) return attend(queries, keys, v, delta, in.seed, nullptr);
    auto* state = dynamic_cast<sparse::SlotState*>(any);
    require(state != nullptr, "dynamic_mask_attention: this state was made by another mixer");
    return attend_held(*state, queries, keys, v, delta, in.seed);
  }

 private:
  enum Slot { kKeys, kValues, kBias };

  /// [B, Hkv, M] from v [B, Hkv, M, Dv].
  Tensor key_bias(const Tensor& v) {
    const auto raised =
        torch::softplus(importance_(v.transpose(1, 2).flatten(2))).transpose(1, 2) * amplitude_.unsqueeze(1);
    return own_.exponential ? torch::exp(raised) : raised;
  }

  /// Keys whose delta is -inf are padding.
  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& delta, uint64_t seed,
                nn::CoreReport* report) const {
    const int64_t keys = k.size(2);
    const auto real = (delta > -INFINITY).detach();
    auto options = plain_options(seed);
    options.bias = delta.masked_fill(real.logical_not(), 0).repeat_interleave(q.size(1) / k.size(1), 1).unsqueeze(2);
    if (own_.kept >= keys && own_.block == 0) {  // nothing is dropped
      options.mask = mask();
      nn::hide_keys(options, real.select(1, 0).logical_not(), q.size(2));
      return nn::attention(q, k, v, options, report);
    }
    ops::KeyPanels panels;
    if (!config_.causal) {
      auto kept = nn::largest(delta, real, own_.kept);
      if (own_.block > 0) kept = whole_blocks(kept, real, own_.block);
      panels = sparse::panels_of_all(kept, q.size(2));
    } else {
      const auto dropped = nn::dropped_at(delta, own_.kept);  // [B, Hkv, M]
      if (own_.block > 0) return attend_blocks(q, k, v, real, dropped, options, report);
      panels = sparse::panels_until_dropped(dropped, q.size(2));
    }
    if (options.softcap > 0 || options.dropout > 0) return sparse::attend_panels(q, k, v, panels, options, report);
    // Without a cap the bias is one more product: of a query's 1 and the key's bias.
    const auto wide = [](const Tensor& x) { return x.scalar_type() == torch::kFloat64 ? x : x.to(torch::kFloat32); };
    options.scale = options.scale > 0 ? options.scale : 1 / std::sqrt(double(q.size(3)));
    const auto bias = (wide(delta).masked_fill(real.logical_not(), 0) / options.scale).unsqueeze(3);
    options.bias.reset();
    const auto one = torch::ones({1, 1, 1, 1}, wide(q).options()).expand({q.size(0), q.size(1), q.size(2), 1});
    return sparse::attend_panels(torch::cat({wide(q), one}, 3), torch::cat({wide(k), bias}, 3), wide(v), panels,
                                 options, report)
        .to(q.scalar_type());
  }

  Tensor attend_blocks(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& real, const Tensor& dropped,
                       const AttentionOptions& options, nn::CoreReport* report) const {
    const int64_t keys = k.size(2), past = keys - q.size(2);
    const auto choice = [=, places = torch::arange(keys), block = own_.block, there = real.unsqueeze(2),
                         until = dropped.unsqueeze(2)](int64_t first, int64_t rows) {
      const auto at = (torch::arange(first, first + rows) + past).unsqueeze(1);
      const auto before = (places <= at) & there;
      return whole_blocks(before & (until > at), before, block);
    };
    return nn::row_attention(q, k, v, options, choice, report);
  }

  /// A block of keys of which more than half is kept is kept, another is not.
  static Tensor whole_blocks(const Tensor& kept, const Tensor& there, int64_t block) {
    const int64_t keys = kept.size(-1), rest = (block - keys % block) % block;
    const auto counts = [&](const Tensor& x) {
      return torch::constant_pad_nd(x.to(torch::kInt32), {0, rest}).unflatten(-1, {-1, block}).sum(-1);
    };
    const auto most = 2 * counts(kept) > counts(there);
    return most.repeat_interleave(block, -1).narrow(-1, 0, keys) & there;
  }

  Tensor attend_held(sparse::SlotState& state, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& delta,
                     uint64_t seed) const {
    auto& slots = state.held.slots;
    slots.resize(3);
    const auto with_held = [&](Slot slot, const Tensor& fresh) {
      return slots[slot].defined() ? torch::cat({slots[slot], fresh}, 2) : fresh;
    };
    const auto keys = with_held(kKeys, k), values = with_held(kValues, v), biases = with_held(kBias, delta);
    const auto out = attend(q, keys, values, biases, seed, nullptr);
    // What the last row keeps, in order of time.
    torch::NoGradGuard no_grad;
    const auto stays = nn::dropped_at(biases, own_.kept) == keys.size(2);
    const int64_t most = stays.sum(2).max().item<int64_t>();
    const auto order = std::get<1>(stays.to(torch::kUInt8).sort(c10::optional<bool>(true), 2, true)).slice(2, 0, most);
    const auto rows = [&](const Tensor& x) { return nn::gather_rows(x, order).detach(); };
    slots[kKeys] = rows(keys);
    slots[kValues] = rows(values);
    slots[kBias] = biases.masked_fill(stays.logical_not(), -INFINITY).gather(2, order).detach();
    state.tokens += k.size(2);
    return out;
  }

  DynamicMaskConfig own_;
  torch::nn::Linear importance_{nullptr};
  Tensor amplitude_;  // [Hkv]
};

}  // namespace

RegistryRow rows::dynamic_mask_attention() {
  return {
      .name = "dynamic_mask_attention",
      .family = "sparse_and_vision",
      .paper = "Trainable Dynamic Mask Sparse Attention (arXiv 2508.02124)",
      .year = 2025,
      .patterns = {true, true, true, true},
      .step = true,
      .fixed_state = true,
      .one_way = true,
      .core = true,
      .cost = "O(N w)",
      .parameters = attention_parameters(
          {{"kept", 2048, "w: keys that a query sees, those with the largest bias"},
           {"exponential", false, "bias exp(A softplus(W v)), as the paper writes it; else A softplus(W v)"},
           {"block", 0, "above 0: blocks of so many keys are kept whole, or not, by the half; then no state"}}),
      .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}, {"qk_norm", "rms"}, {"kept", 18}},
      .make = attention_maker("dynamic_mask_attention", [](const AttentionConfig& config, ConfigReader& reader) {
        DynamicMaskConfig own;
        own.kept = reader.integer("kept", own.kept, 1);
        own.exponential = reader.get("exponential", false);
        own.block = reader.integer("block", 0, 0, 1 << 20);
        return std::make_shared<DynamicMaskAttention>(config, own);
      })};
}

}  // namespace heed
