// FAVOR+: softmax attention estimated by positive random features.
#include <cmath>

#include "heed/error.h"
#include "heed/nn/random_features.h"
#include "mixers/linear/linear_attention.h"
#include "mixers/linear/performer_features.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

struct PerformerConfig {
  int64_t features = 256, redraw = 0;
  uint64_t seed = 0;
  std::string kind = "softmax";
  double eps = 1e-4;
};

class Performer final : public linear::LinearAttention {
 public:
  Performer(const HeadsConfig& config, const PerformerConfig& own) : LinearAttention("performer", config), own_(own) {
    rows_ = register_buffer("rows", drawn(0));
    if (own.redraw > 0) draws_ = register_parameter("draws", torch::zeros({1}), false);
  }

 protected:
  bool takes_memory() const override { return !causal_; }

  Tensor attend(RecurrentCall& call, const Heads& heads) override {
    require(causal_ || !call.input.cu_seqlens, "performer: cu_seqlens without causal is not accepted");
    if (own_.redraw > 0) follow_draws(call);
    return linear::performer_attention(call, 0, heads, {rows_, own_.kind, own_.eps}, causal_);
  }

 private:
  static constexpr size_t kDraw = 3;      ///< slot behind those of the features
  static constexpr int64_t kDraws = 256;  ///< whole numbers that bfloat16 holds; then they come again

  Tensor drawn(int64_t draw) const {
    return nn::orthogonal_rows(own_.features, config_.key_dim, own_.seed + static_cast<uint64_t>(draw));
  }

  /// Counts training steps by their seeds: what is computed again in a backward has the seed of its step.
  void follow_draws(RecurrentCall& call) {
    if (is_training() && call.input.seed != step_seed_) {
      step_seed_ = call.input.seed;
      if (steps_++ == own_.redraw) {
        steps_ = 1;
        torch::NoGradGuard no_grad;
        draws_.fill_((current_draw() + 1) % kDraws);
      }
    }
    if (const int64_t draw = current_draw(); draw != rows_draw_) {
      // Not in place: graphs of earlier steps hold the old rows.
      rows_.set_data(drawn(draw).to(rows_.scalar_type()));
      rows_draw_ = draw;
    }
    if (!call.carries()) return;
    auto& of_state = call.slot(kDraw);
    if (!of_state.defined()) of_state = torch::full({1}, rows_draw_, torch::kInt64);
    require(of_state.item<int64_t>() == rows_draw_,
            "performer: the state sums up features of draw {}, and draw {} has followed; a new state is accepted",
            of_state.item<int64_t>(), rows_draw_);
  }
  int64_t current_draw() const { return std::llround(draws_.item<double>()); }

  PerformerConfig own_;
  Tensor rows_;   // [features, key_dim]
  Tensor draws_;  // [1]: how often the rows were drawn anew, which a checkpoint must know
  int64_t rows_draw_ = 0, steps_ = 0;
  std::optional<uint64_t> step_seed_;
};

}  // namespace

RegistryRow rows::performer() {
  return {.name = "performer",
          .family = "exact_and_systems",
          .paper = "Rethinking Attention with Performers (arXiv 2009.14794)",
          .year = 2020,
          .patterns = {true, true, true, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .core = true,
          .cost = "O(N m)",
          .parameters = linear::drop_in_parameters(
              {{"features", 256, "random features m; 0: d ln d of d = key_dim"},
               {"feature_kind", "softmax", "softmax (positive features), hyperbolic (w and -w), relu"},
               {"eps", 1e-4, "added to every feature, the largest of which is 1; not of relu"},
               {"seed", 0, "of the random rows"},
               {"redraw", 0, "training steps (calls with a new seed) after which rows are drawn anew; 0: never"}}),
          .small = {{"dim", 24}, {"heads", 3}, {"features", 20}},
          .make = linear::drop_in_maker("performer", [](const HeadsConfig& config, ConfigReader& reader) {
            PerformerConfig own;
            own.features = reader.integer("features", own.features, 0, 1 << 16);
            if (own.features == 0) {
              const auto d = static_cast<double>(config.key_dim);
              own.features = std::max<int64_t>(1, std::llround(d * std::log(d)));
            }
            own.seed = static_cast<uint64_t>(reader.integer("seed", 0, 0));
            own.redraw = reader.integer("redraw", own.redraw, 0);
            own.kind = reader.choice("feature_kind", own.kind, {"softmax", "hyperbolic", "relu"});
            own.eps = reader.get("eps", own.eps);
            require(own.eps >= 0 && own.eps < 1, "performer: eps = {}: 0 up to 1 is accepted", own.eps);
            return std::make_shared<Performer>(config, own);
          })};
}

}  // namespace heed
