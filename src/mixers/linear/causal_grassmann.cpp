// Mixing without attention: pairs of tokens at fixed lags as planes, by their Pluecker coordinates.
#include "heed/error.h"
#include "mixers/rows.h"

#include "heed/mixers/recurrent_mixer.h"

namespace heed {
namespace {

using torch::Tensor;

struct GrassmannConfig {
  int64_t dim = 64, rank = 32;
  std::vector<int64_t> lags{1, 2, 4, 8, 12, 16};
  bool causal = true, norm = true;
  int64_t reach() const { return *std::max_element(lags.begin(), lags.end()); }
};

class CausalGrassmann final : public RecurrentMixer {
 public:
  explicit CausalGrassmann(const GrassmannConfig& config)
      : RecurrentMixer("causal_grassmann", config.dim, config.causal), config_(config) {
    const int64_t r = config.rank;
    const auto drawn = [&](const char* name, int64_t in, int64_t out) {
      auto linear = project(name, in, out, true);
      torch::nn::init::xavier_uniform_(linear->weight);
      return linear;
    };
    reduce_ = drawn("reduce", config.dim, r);
    lift_ = drawn("lift", r * (r - 1) / 2, config.dim);
    gate_ = drawn("gate_proj", 2 * config.dim, config.dim);
    if (config.norm) norm_ = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({config.dim})));
    const auto pairs = torch::triu_indices(r, r, 1, torch::kInt64);
    rows_ = pairs[0].clone(), columns_ = pairs[1].clone();
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    require(!call.input.cu_seqlens, "causal_grassmann: cu_seqlens is not accepted");
    const auto& x = call.x;
    const int64_t n = x.size(1), reach = config_.reach();
    const auto z = reduce_(x);
    const auto real = call.without_padding(torch::ones({x.size(0), n, 1}, x.options()));
    // The last `reach` tokens of earlier calls, and whether each is one, stand in front.
    auto& held = call.slot(0);
    const auto rows = torch::cat({z, real}, 2);
    const auto before = held.defined() ? held : rows.new_zeros({x.size(0), reach, rows.size(2)});
    auto all = torch::cat({before, rows}, 1);
    if (call.carries()) held = all.narrow(1, n, reach).clone();
    if (!causal_) all = torch::constant_pad_nd(all, {0, 0, 0, reach});

    Tensor sum = torch::zeros_like(x), count = torch::zeros_like(real);
    const auto add = [&](int64_t lag) {
      const auto other = all.narrow(1, reach - lag, n);
      const auto valid = other.narrow(2, config_.rank, 1);
      sum = sum + lift_(plane(z, other.narrow(2, 0, config_.rank))) * valid;
      count = count + valid;
    };
    for (const int64_t lag : config_.lags) {
      add(lag);
      if (!causal_) add(-lag);
    }
    const auto mean = sum / count.clamp_min(1);
    const auto alpha = torch::sigmoid(gate_(torch::cat({x, mean}, 2)));
    const auto mixed = alpha * x + (1 - alpha) * mean;
    return norm_.is_empty() ? mixed : norm_(mixed);
  }

 private:
  /// Pluecker coordinates of the plane of u and v [B, N, r], of length 1 unless the two are parallel.
  Tensor plane(const Tensor& u, const Tensor& v) const {
    const auto at = [](const Tensor& t, const Tensor& index) { return t.index_select(2, index); };
    const auto p = at(u, rows_) * at(v, columns_) - at(u, columns_) * at(v, rows_);
    // The root of a sum that is no less than a square keeps its gradient finite where u and v are parallel.
    return p * torch::rsqrt(p.square().sum(2, true).clamp_min(1e-16));
  }

  GrassmannConfig config_;
  torch::nn::Linear reduce_{nullptr}, lift_{nullptr}, gate_{nullptr};
  torch::nn::LayerNorm norm_{nullptr};
  Tensor rows_, columns_;  // i < j of every coordinate
};

}  // namespace

RegistryRow rows::causal_grassmann() {
  return {.name = "causal_grassmann",
          .family = "linear_and_recurrent",
          .paper = "Attention Is Not What You Need: Grassmann Flows (arXiv 2512.19428)",
          .year = 2025,
          .patterns = {true, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .cost = "O(N)",
          .parameters = {{"dim", 64, "channels C of the tokens"},
                         {"rank", 32, "r: coordinates are r (r - 1) / 2"},
                         {"lags", {1, 2, 4, 8, 12, 16}, "distances of the pairs; both directions without causal"},
                         {"norm", true, "LayerNorm of the result"},
                         {"causal", true, "token i sees tokens up to i"}},
          .small = {{"dim", 12}, {"rank", 5}, {"lags", {1, 2, 5}}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("causal_grassmann", json);
            GrassmannConfig c;
            c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
            c.rank = reader.integer("rank", c.rank, 2, 1024);
            c.lags = reader.get("lags", c.lags);
            require(!c.lags.empty(), "causal_grassmann: lags is empty; at least one distance is accepted");
            for (const int64_t lag : c.lags)
              require(lag >= 1 && lag <= 1 << 20, "causal_grassmann: a lag of {}; 1 or more is accepted", lag);
            c.norm = reader.get("norm", c.norm);
            c.causal = reader.get("causal", c.causal);
            reader.finish();
            return std::make_shared<CausalGrassmann>(c);
          }};
}

}  // namespace heed
