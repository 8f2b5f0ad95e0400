// Blocks that a landmark token stands for, in training by a softmax in two levels, in use by reading few of them.
#include "heed/error.h"
#include "heed/mixers/landmark_reader.h"
#include "heed/nn/grouped_attention.h"
#include "mixers/sparse/sparse_mixer.h"

namespace heed {
namespace {

struct LandmarkConfig {
  nn::GroupedOptions grouped;
  bool stingy = false, inserted = true;
};

/// With few positions the rotation waits until it is known which block asks.
AttentionConfig landmark_base(AttentionConfig config, bool stingy) {
  if (stingy) config.positions.kind = "none";
  return config;
}

class LandmarkAttention final : public sparse::SparseMixer, public LandmarkReader {
 public:
  LandmarkAttention(const AttentionConfig& config, LandmarkConfig own)
      : SparseMixer("landmark_attention", landmark_base(config, own.stingy)), own_(own), rope_(config.positions.rope) {
    own_.grouped.scale = config.scale;
    own_.grouped.softcap = config.softcap;
  }

  int64_t inserted_block() const override { return own_.inserted ? own_.grouped.block : 0; }

  torch::Tensor mix(const CoreInput& in) override {
    require(!in.cu_seqlens, "landmark_attention: cu_seqlens is not accepted");
    auto options = own_.grouped;
    options.retrieved = 0;
    return nn::grouped_attention(in.q, in.k, in.v, options, in.key_padding.value_or(torch::Tensor()));
  }

 protected:
  std::optional<torch::Tensor> attend_own(const MixerInput& in, KvState* state, const torch::Tensor& q,
                                          const torch::Tensor& k, const torch::Tensor& v,
                                          const torch::Tensor& positions) override {
    require_plain_self(in);
    const auto rotated = [&](const torch::Tensor& x) { return positions_->rotate(x, positions); };
    if (!state) {
      auto options = own_.grouped;
      options.retrieved = 0;
      const auto placed = [&](const torch::Tensor& x) {
        return own_.stingy ? nn::apply_rope(x, positions, rope_) : rotated(x);
      };
      return nn::grouped_attention(placed(q), placed(k), v, options, in.key_padding.value_or(torch::Tensor()));
    }
    const auto padding = append_padding(in, *state);
    state->append(rotated(k), v);
    nn::Rotation rotation;
    if (own_.stingy)
      rotation = [rope = rope_](const torch::Tensor& x, const torch::Tensor& at) {
        return nn::apply_rope(x, at, rope);
      };
    return nn::grouped_attention(rotated(q), state->keys(), state->values(), own_.grouped, padding, rotation);
  }

 private:
  LandmarkConfig own_;
  nn::RopeConfig rope_;
};

}  // namespace

RegistryRow rows::landmark_attention() {
  return {.name = "landmark_attention",
          .family = "sparse_and_vision",
          .paper = "Landmark Attention: Random-Access Infinite Context Length for Transformers (arXiv 2305.16300)",
          .year = 2023,
          .patterns = {false, true, false, false},
          .step = true,
          .core = true,
          .cost = "O(N^2); a step O(N / l + k l)",
          .parameters = attention_parameters(
              {{"block", 51, "tokens a block; the last of each is its landmark"},
               {"landmarks", "inserted",
                "inserted: the model puts them behind every block - 1 of its tokens and leaves them out of what it "
                "gives (heed/models/landmarks.h); given: the text has them (heed/nn/landmark_tokens.h)"},
               {"retrieve", 0, "k: earlier blocks that a query reads when there is a state; 0: all"},
               {"retrieve_by", "token", "token: every query its own blocks; head: the queries of a block the same"},
               {"stingy", false, "rope at few positions: blocks before the last k share the first place"}}),
          .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}, {"block", 6}},
          .make = attention_maker("landmark_attention", [](const AttentionConfig& config, ConfigReader& reader) {
            sparse::require_causal("landmark_attention", config);
            sparse::require_no_dropout("landmark_attention", config);
            LandmarkConfig own;
            own.grouped.block = reader.integer("block", 51, 2, 1 << 20);
            own.grouped.retrieved = reader.integer("retrieve", 0, 0, 1 << 20);
            own.grouped.one_choice = reader.choice("retrieve_by", "token", {"token", "head"}) == "head";
            own.inserted = reader.choice("landmarks", "inserted", {"inserted", "given"}) == "inserted";
            own.stingy = reader.get("stingy", false);
            require(!own.stingy || config.positions.kind == "rope",
                    "landmark_attention: stingy with positions {}: rope is accepted", config.positions.kind);
            return std::make_shared<LandmarkAttention>(config, own);
          })};
}

}  // namespace heed
