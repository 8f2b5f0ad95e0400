// A query scores anchors that lie ever farther back, and attends to spans around the best of them, weighed by their
// scores (Superlinear Multi-Step Attention, arXiv 2601.18401).
#include <algorithm>
#include <utility>

#include "heed/error.h"
#include "heed/mixers/attention_cache.h"
#include "heed/nn/jump_plan.h"
#include "heed/nn/partial.h"
#include "heed/nn/start.h"
#include "heed/ops/key_search.h"
#include "heed/ops/span_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

struct SuperlinearConfig {
  nn::JumpPlan plan;
  int64_t anchors = 2;
  double search_scale = 1;
};

class SuperlinearAttention final : public AttentionMixer {
 public:
  SuperlinearAttention(const AttentionConfig& c, const SuperlinearConfig& own)
      : AttentionMixer("superlinear_attention", c), own_(own) {
    const auto& kind = c.positions.kind;
    require(c.causal, "superlinear_attention: causal = false: the search runs over the keys before a query");
    require(kind != "alibi" && kind != "t5" && c.softcap == 0 && c.dropout == 0,
            "superlinear_attention: positions {}, softcap {}, dropout {}: rotations or positions of the input, and 0, "
            "are accepted",
            kind, c.softcap, c.dropout);
    q_search_proj_ = register_module("q_search_proj", nn::started_linear(c.dim, c.heads * c.head_dim, c.qkv_bias));
  }

  Tensor forward(const MixerInput& in, MixerState* state) override {
    require(!in.cu_seqlens, "superlinear_attention: cu_seqlens is not accepted");
    require(!dynamic_cast<AttentionCache*>(state),
            "superlinear_attention: a cache policy is not accepted: the search chooses the keys");
    return AttentionMixer::forward(in, state);
  }

  /// Without a layer around it, the queries search for themselves.
  Tensor mix(const CoreInput& in) override {
    const auto search = std::exchange(search_, Tensor());
    return attend(in, search.defined() ? search : in.q);
  }

 protected:
  void before_core(const MixerInput& in, const KvState* state, Tensor&, Tensor&, Tensor&) override {
    const int64_t past = state ? state->tokens : 0;
    const auto positions = in.positions.value_or(torch::arange(past, past + in.x.size(1)));
    search_ =
        positions_->rotate(split_heads(q_search_proj_(positions_->embed(in.x, positions)), config_.heads), positions);
  }

 private:
  Tensor attend(const CoreInput& in, const Tensor& search) {
    const int64_t n = in.q.size(2), m = in.k.size(2), window = own_.plan.window();
    const auto hidden = in.key_padding.value_or(Tensor());
    const auto anchors = ops::jump_search(search, in.k, own_.plan.distances(m), own_.anchors, hidden);
    const auto gates = torch::softmax(scores_of(search, in.k, anchors), 3);

    const auto absent = anchors < 0;
    const auto [back, ahead, border] = reaches(n, m - n);
    const auto begins = (anchors - back).clamp_min(0).masked_fill(absent, 0);
    const auto ends = torch::minimum(anchors + ahead + 1, border).masked_fill(absent, 0);
    const auto spans = ops::span_attention(in.q, in.k, in.v, begins, ends, config_.scale, hidden);

    std::optional<AttentionResult> near;
    if (window > 0) {
      auto options = options_for(in);
      options.mask = Causal{} & Window{window};
      near = attention_with_lse(in.q, in.k, in.v, options);
    }
    Tensor out;
    for (int64_t r = 0; r < own_.anchors; ++r) {
      const AttentionResult span{spans.out.select(3, r), spans.lse.select(3, r)};
      const auto part = near ? nn::merge(*near, span).out : span.out;
      const auto term = part * gates.select(3, r).unsqueeze(3).to(part.scalar_type());
      out = r == 0 ? term : out + term;
    }
    return out;
  }

  /// <search query, key of the anchor> [B, H, N, K]; the gates' gradient reaches the search through them alone.
  Tensor scores_of(const Tensor& search, const Tensor& k, const Tensor& anchors) const {
    const int64_t batch = k.size(0), kv_heads = k.size(1), heads = search.size(1), group = heads / kv_heads;
    const auto row =
        (torch::arange(batch).view({-1, 1}) * kv_heads + torch::arange(heads).div(group, "floor")) * k.size(2);
    const auto index = anchors.clamp_min(0).to(torch::kInt64) + row.view({batch, heads, 1, 1});
    const auto keys = k.reshape({-1, k.size(3)}).index_select(0, index.flatten());
    const auto scores = torch::matmul(keys.view({batch, heads, search.size(2), -1, k.size(3)}), search.unsqueeze(4));
    return (scores.squeeze(4) * own_.search_scale).masked_fill(anchors < 0, -1e9);
  }

  /// Of tokens from `past` on: how far spans reach back and ahead, and where the window begins; int32 [n, 1].
  std::tuple<Tensor, Tensor, Tensor> reaches(int64_t n, int64_t past) const {
    auto all = torch::empty({3, n, 1}, torch::kInt32);
    auto at = all.accessor<int32_t, 3>();
    for (int64_t i = 0; i < n; ++i) {
      const int64_t t = past + i;
      at[0][i][0] = static_cast<int32_t>(own_.plan.reach_back(t));
      at[1][i][0] = static_cast<int32_t>(own_.plan.reach_ahead(t));
      at[2][i][0] = static_cast<int32_t>(std::max<int64_t>(0, t - own_.plan.window() + 1));
    }
    return {all[0], all[1], all[2]};
  }

  SuperlinearConfig own_;
  torch::nn::Linear q_search_proj_{nullptr};
  Tensor search_;  // of the forward under way
};

}  // namespace

RegistryRow rows::superlinear_attention() {
  return {.name = "superlinear_attention",
          .family = "sparse_and_vision",
          .paper = "Superlinear Multi-Step Attention (arXiv 2601.18401)",
          .year = 2026,
          .patterns = {false, true, false, false},
          .step = true,
          .core = true,
          .cost = "O(N^(1 + power) + anchors N^(1 + span_power))",
          .parameters = attention_parameters(
              {{"power", 0.5, "p: a query scores N^p anchors; the released model has 0.55"},
               {"span_power", 0.5, "spans grow with this power of the position"},
               {"skip", 1, "the window ends where anchor skip + 1 stands: (skip + 1)^(1/p) - 1 keys"},
               {"anchors", 2, "spans a query attends to; with 1 the search has no gradient"},
               {"back", 2, "reach of a span before its anchor, in units of (t + 1)^span_power"},
               {"ahead", 0, "reach behind it"},
               {"search_scale", 1.0, "of the scores that weigh the spans"}}),
          .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}, {"skip", 1}, {"back", 1}},
          .make = attention_maker("superlinear_attention", [](const AttentionConfig& config, ConfigReader& reader) {
            SuperlinearConfig own;
            own.plan.power = reader.get("power", own.plan.power);
            own.plan.span_power = reader.get("span_power", own.plan.span_power);
            for (const double power : {own.plan.power, own.plan.span_power})
              require(power > 0 && power <= 1, "superlinear_attention: a power of {}: above 0 to 1 is accepted", power);
            own.plan.skip = reader.integer("skip", own.plan.skip, 0, 1 << 20);
            own.anchors = reader.integer("anchors", own.anchors, 1, 64);
            own.plan.back = reader.integer("back", own.plan.back, 0, 1 << 10);
            own.plan.ahead = reader.integer("ahead", own.plan.ahead, 0, 1 << 10);
            own.search_scale = reader.get("search_scale", own.search_scale);
            return std::make_shared<SuperlinearAttention>(config, own);
          })};
}

}  // namespace heed
