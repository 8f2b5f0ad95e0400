// Full attention in a few layers, local in the others (MASFormer, arXiv 2310.12442). Which layers are full in the paper
// is not verified; the placement is a parameter.
#include <algorithm>

#include "heed/error.h"
#include "heed/nn/block_pattern.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

struct SpansConfig {
  int64_t full = 0;                  ///< layers with full attention
  std::string placement = "spread";  ///< bottom, middle, top, spread
  std::vector<int64_t> layers;       ///< instead of both
  int64_t window = 1024;
  std::string local = "window";  ///< window, blocks

  bool is_full(const LayerContext& at) const {
    if (!layers.empty()) return std::find(layers.begin(), layers.end(), at.index) != layers.end();
    if (placement == "bottom") return at.index < full;
    if (placement == "top") return at.index >= at.count - full;
    if (placement == "middle") {
      const int64_t first = (at.count - full) / 2;
      return at.index >= first && at.index < first + full;
    }
    return (at.index + 1) * full / at.count > at.index * full / at.count;
  }
};

class Masformer final : public AttentionMixer {
 public:
  Masformer(const AttentionConfig& config, SpansConfig own)
      : AttentionMixer("masformer", config), own_(std::move(own)) {
    require(config.causal, "masformer: causal = false: its spans are causal");
  }

  /// Without a layer around it: the local form.
  Tensor mix(const CoreInput& in) override {
    if (full_ || own_.local == "window") return AttentionMixer::mix(in);
    const auto rule = [](const nn::BlockScope&, int64_t, int64_t block) {
      return std::vector<int32_t>{static_cast<int32_t>(block - 1), static_cast<int32_t>(block)};
    };
    return nn::block_attention(in.q, in.k, in.v, options_for(in), rule, own_.window, true, in.report);
  }

 protected:
  void before_core(const MixerInput& in, const KvState*, Tensor&, Tensor&, Tensor&) override {
    full_ = own_.is_full(in.layer);
    require(full_ || own_.local == "window" || !in.cu_seqlens,
            "masformer: cu_seqlens with local = blocks: window is accepted");
  }

  Mask mask() const override {
    if (full_ || own_.local == "blocks") return Causal{};
    return Causal{} & Window{own_.window};
  }

  void evict(KvState& state) const override {
    if (full_) return;
    // Blocks are counted from the first key that is held, so that whole ones go: all but the last finished.
    const int64_t held = state.kv.length(), w = own_.window;
    state.erase(0, own_.local == "window" ? held - (w - 1) : (held / w - 1) * w);
  }

 private:
  SpansConfig own_;
  bool full_ = false;  // of the layer whose forward is under way
};

}  // namespace

RegistryRow rows::masformer() {
  return {
      .name = "masformer",
      .family = "exact_and_systems",
      .paper =
          "Efficient Long-Range Transformers: You Need to Attend More, but Not Necessarily at Every Layer (arXiv "
          "2310.12442)",
      .year = 2023,
      .patterns = {false, true, false, false},
      .step = true,
      .core = true,
      .training_free = true,
      .cost = "O(l/L N^2 + (1 - l/L) N w)",
      .parameters = attention_parameters(
          {{"full", 0, "layers l of the model with full attention"},
           {"placement", "spread", "where they are: bottom, middle, top or spread"},
           {"layers", nlohmann::json::array(), "their numbers, in place of full and placement"},
           {"window", 1024, "keys of a local layer, the own one included, or tokens of a block"},
           {"local", "window", "local layers see a window, or (blocks) their own block and the one before"}}),
      .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}, {"window", 5}, {"local", "blocks"}},
      .make = attention_maker("masformer", [](const AttentionConfig& config, ConfigReader& reader) {
        SpansConfig own;
        own.full = reader.integer("full", own.full, 0, 1 << 20);
        own.placement = reader.choice("placement", own.placement, {"bottom", "middle", "top", "spread"});
        own.layers = reader.get("layers", own.layers);
        own.window = reader.integer("window", own.window, 1);
        own.local = reader.choice("local", own.local, {"window", "blocks"});
        return std::make_shared<Masformer>(config, own);
      })};
}

}  // namespace heed
