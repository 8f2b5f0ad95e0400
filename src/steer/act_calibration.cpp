// ACT (Unveiling and Harnessing Hidden Attention Sinks, 2024): tokens that draw attention whoever asks are damped in
// chosen heads, and the others get what they lose.
#include "heed/error.h"
#include "heed/ops/attn_stats.h"
#include "steer/altered_attention.h"
#include "steer/rows.h"
#include "steer/settings.h"

namespace heed::steer {
namespace {

using torch::Tensor;

class ActCalibration : public AlteredAttention {
 public:
  struct Settings {
    double threshold = 0.1, beta = 0.4;
    int64_t least_queries = 8;
    bool every_step = false;
  };
  ActCalibration(const std::vector<int64_t>& heads, const Settings& settings) : AlteredAttention(heads), s_(settings) {}

  bool wants_whole_prompt() const override { return true; }
  int64_t policy_bytes() const override {
    return (sums_.defined() ? int64_t(sums_.nbytes()) : 0) + (sinks_.defined() ? int64_t(sinks_.nbytes()) : 0);
  }

 protected:
  Tensor alter(const Chunk& chunk, const Tensor& plain, const Tensor& lse) override {
    find_sinks(chunk, lse);
    if (!sinks_.any().item<bool>()) return plain;
    const auto sinks = attend_among(chunk, lse, sinks_.unsqueeze(2));
    const auto rest = attend_among(chunk, lse, sinks_.logical_not().unsqueeze(2));
    const auto kept = s_.beta * sinks.mass;
    const auto out = kept * sinks.out + (1 - kept) * rest.out;
    // Rows that see nothing but sinks have nobody to give to; heads without sinks are left as they are.
    const auto changes = (rest.mass > 0) & sinks_.any(2, true).unsqueeze(3);
    return torch::where(changes, out, plain.to(torch::kFloat32));
  }

 private:
  void find_sinks(const Chunk& chunk, const Tensor& lse) {
    const int64_t seen = chunk.first + chunk.size();
    const auto grown = [&](const Tensor& x) { return torch::constant_pad_nd(x, {0, seen - x.size(2)}); };
    if (!in_prompt() && !s_.every_step) {
      sinks_ = sinks_.defined() ? grown(sinks_) : torch::zeros({lse.size(0), lse.size(1), seen}, torch::kBool);
      return;
    }
    auto options = head_options(chunk);
    const auto columns = ops::line_sums(chosen(chunk.q), kv_.keys(), options, lse).columns;
    sums_ = sums_.defined() ? grown(sums_) + columns : columns;
    const auto queries = torch::arange(seen, 0, -1);  // that see each token
    sinks_ = (sums_ / queries > s_.threshold) & (queries >= s_.least_queries);
    sinks_.select(2, 0) = false;
  }

  Settings s_;
  Tensor sums_;   // float [B, H, M]: what each token got so far
  Tensor sinks_;  // bool [B, H, M]
};

cache::Policy make_calibrated(ConfigReader& reader, const cache::ModelShape& shape) {
  const auto heads = chosen_heads(reader, shape, 2, 1);
  ActCalibration::Settings settings;
  settings.threshold = reader.get("threshold", settings.threshold);
  settings.beta = reader.get("beta", settings.beta);
  settings.least_queries = reader.integer("least_queries", settings.least_queries, 1);
  settings.every_step = reader.choice("update", "prompt", {"prompt", "step"}) == "step";
  require(settings.threshold >= 0 && settings.threshold <= 1, "{}: threshold = {}: 0 to 1 is accepted", reader.owner(),
          settings.threshold);
  require(settings.beta >= 0 && settings.beta <= 1, "{}: beta = {}: 0 to 1 is accepted", reader.owner(), settings.beta);
  return
      [=](const LayerContext& layer) { return std::make_unique<ActCalibration>(heads[size_t(layer.index)], settings); };
}

}  // namespace

InterventionRow rows::act_calibration() {
  auto parameters = head_parameters(2, 1);
  parameters.insert(
      parameters.end(),
      {{"threshold", 0.1,
        "mean weight, over the queries that see it, above which a token is a sink; the first never is"},
       {"beta", 0.4, "share of its weight that a sink keeps"},
       {"least_queries", 8, "tokens that fewer queries see are no sinks"},
       {"update", "prompt", "prompt: sinks are those of the prompt; step: they are looked for at every step"}});
  auto row = intervention_row("act_calibration", "Unveiling and Harnessing Hidden Attention Sinks (ICML 2024)", 2024,
                              "two passes more over N keys in chosen heads", std::move(parameters), make_calibrated);
  row.neutral = {{"beta", 1}, {"first_layer", 0}, {"last_layers", 0}, {"threshold", 0.01}};
  row.strong = {{"first_layer", 0}, {"last_layers", 0}, {"threshold", 0.03}};
  return row;
}

}  // namespace heed::steer
