// Window attention that keeps the first tokens visible (arXiv 2309.17453), with the sink as tokens or as a learned
// logit.
#include <algorithm>

#include "heed/error.h"
#include "mixers/rows.h"

namespace heed {
namespace {

struct WindowConfig {
  int64_t window = 256;             ///< visible keys, the own one included; bidirectional: window / 2 on either side
  int64_t sinks = 4;                ///< first tokens that stay visible
  std::string sink_logit = "none";  ///< none, learned (one number a head, from 0), zero (softmax-off-by-one)
};

class SlidingWindow final : public AttentionMixer {
 public:
  SlidingWindow(const AttentionConfig& config, WindowConfig window)
      : AttentionMixer("sliding_window", config), window_(std::move(window)) {
    if (window_.sink_logit == "learned") sink_ = register_parameter("sink_logit", torch::zeros({config.heads}));
    if (window_.sink_logit == "zero") sink_ = register_buffer("sink_logit", torch::zeros({config.heads}));
  }

 protected:
  Mask mask() const override {
    if (config_.causal) return Causal{} & (Window{window_.window} | SinkTokens{window_.sinks});
    return Window{window_.window / 2, window_.window / 2} | SinkTokens{window_.sinks};
  }

  void customize(AttentionOptions& options, const CoreInput&) override {
    if (sink_.defined()) options.sink_logit = sink_;
  }

  void evict(KvState& state) const override {
    // Score terms of distance would see sinks move nearer when the slots between are gone.
    const bool distances = config_.positions.kind == "alibi" || config_.positions.kind == "t5";
    if (distances && window_.sinks > 0) return;
    state.erase(std::min(window_.sinks, state.kv.length()), state.kv.length() - (window_.window - 1));
  }

 private:
  WindowConfig window_;
  torch::Tensor sink_;
};

}  // namespace

RegistryRow rows::sliding_window() {
  return {.name = "sliding_window",
          .family = "exact_and_systems",
          .paper = "Efficient Streaming Language Models with Attention Sinks (arXiv 2309.17453)",
          .year = 2023,
          .patterns = {true, true, false, false},
          .step = true,
          .core = true,
          .training_free = true,
          .cost = "O(N (w + s))",
          .parameters = attention_parameters(
              {{"window", 256, "visible keys, the own one included; bidirectional: window / 2 on either side"},
               {"sinks", 4, "first tokens that stay visible"},
               {"sink_logit", "none", "none, learned or zero: one more key of value 0"}}),
          .small = {{"dim", 24},
                    {"heads", 4},
                    {"kv_heads", 2},
                    {"positions", "rope"},
                    {"window", 7},
                    {"sinks", 2},
                    {"sink_logit", "learned"}},
          .make = attention_maker("sliding_window", [](const AttentionConfig& config, ConfigReader& reader) {
            WindowConfig window;
            window.window = reader.integer("window", window.window, 1);
            window.sinks = reader.integer("sinks", window.sinks, 0);
            window.sink_logit = reader.choice("sink_logit", window.sink_logit, {"none", "learned", "zero"});
            return std::make_shared<SlidingWindow>(config, window);
          })};
}

}  // namespace heed
