// Mixing without attention: pairs of tokens at fixed lags as planes, by their Pluecker coordinates.
#include <cmath>

#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/gelu.h"
#include "heed/nn/pluecker.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

struct GrassmannConfig {
  int64_t dim = 64, rank = 32;
  std::vector<int64_t> lags{1, 2, 4, 8, 12, 16};
  std::string pairs = "planes";  ///< concatenated: the reduced tokens side by side through an MLP, to compare with
  int64_t hidden = 0;            ///< of that MLP
  bool causal = true, norm = true, residual = false;

  int64_t reach() const { return *std::max_element(lags.begin(), lags.end()); }
  int64_t coordinates() const { return rank * (rank - 1) / 2; }
  /// Reduced tokens side by side: the own one and those at all lags.
  int64_t joined() const { return rank * (1 + static_cast<int64_t>(lags.size()) * (causal ? 1 : 2)); }
  /// Inner channels that give the MLP about as many parameters as the map of planes has.
  int64_t equal_hidden() const {
    const double parameters = static_cast<double>(dim * coordinates());
    return std::max<int64_t>(1, std::llround(parameters / static_cast<double>(joined() + dim + 1)));
  }
};

class CausalGrassmann final : public RecurrentMixer {
 public:
  explicit CausalGrassmann(const GrassmannConfig& config)
      : RecurrentMixer("causal_grassmann", config.dim, config.causal), config_(config) {
    const auto drawn = [&](const char* name, int64_t in, int64_t out) {
      auto linear = project(name, in, out, true);
      torch::nn::init::xavier_uniform_(linear->weight);
      return linear;
    };
    reduce_ = drawn("reduce", config.dim, config.rank);
    if (config.pairs == "planes") {
      lift_ = drawn("lift", config.coordinates(), config.dim);
    } else {
      up_ = drawn("up", config.joined(), config.hidden);
      down_ = drawn("down", config.hidden, config.dim);
    }
    gate_ = drawn("gate_proj", 2 * config.dim, config.dim);
    if (config.norm) norm_ = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({config.dim})));
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    require(!call.input.cu_seqlens, "causal_grassmann: cu_seqlens is not accepted");
    const auto& x = call.x;
    const auto z = reduce_(x);
    const auto others = at_lags(call, z);
    const auto g = lift_.is_empty() ? side_by_side(z, others) : mean_plane(z, others);
    const auto alpha = torch::sigmoid(gate_(torch::cat({x, g}, 2)));
    auto mixed = alpha * x + (1 - alpha) * g;
    if (config_.residual) mixed = x + mixed;
    return norm_.is_empty() ? mixed : norm_(mixed);
  }

 private:
  /// What stands at one lag of every token: its reduced state, 0 where there is none, and 1 where there is one.
  struct Other {
    Tensor z, valid;  ///< [B, N, r], [B, N, 1]
  };

  std::vector<Other> at_lags(RecurrentCall& call, const Tensor& z) const {
    const int64_t n = z.size(1), reach = config_.reach();
    const auto real = call.without_padding(torch::ones({z.size(0), n, 1}, z.options()));
    // The last `reach` tokens of earlier calls, and whether each is one, stand in front.
    auto& held = call.slot(0);
    const auto rows = torch::cat({z * real, real}, 2);
    const auto before = held.defined() ? held : rows.new_zeros({z.size(0), reach, rows.size(2)});
    auto all = torch::cat({before, rows}, 1);
    if (call.carries()) held = all.narrow(1, n, reach).clone();
    if (!causal_) all = torch::constant_pad_nd(all, {0, 0, 0, reach});
    std::vector<Other> others;
    const auto add = [&](int64_t lag) {
      const auto parts = all.narrow(1, reach - lag, n).split_with_sizes({config_.rank, 1}, 2);
      others.push_back({parts[0], parts[1]});
    };
    for (const int64_t lag : config_.lags) {
      add(lag);
      if (!causal_) add(-lag);
    }
    return others;
  }

  /// The mean over lags is taken before the map: it is linear.
  Tensor mean_plane(const Tensor& z, const std::vector<Other>& others) {
    Tensor sum, count;
    for (const auto& other : others) {
      const auto plane = nn::plane_coordinates(z, other.z) * other.valid;
      sum = sum.defined() ? sum + plane : plane;
      count = count.defined() ? count + other.valid : other.valid;
    }
    return lift_(sum / count.clamp_min(1)) * (count > 0);
  }

  Tensor side_by_side(const Tensor& z, const std::vector<Other>& others) {
    std::vector<Tensor> parts{z};
    for (const auto& other : others) parts.push_back(other.z);
    return down_(nn::gelu(up_(torch::cat(parts, 2))));
  }

  GrassmannConfig config_;
  torch::nn::Linear reduce_{nullptr}, lift_{nullptr}, up_{nullptr}, down_{nullptr}, gate_{nullptr};
  torch::nn::LayerNorm norm_{nullptr};
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
                         {"pairs", "planes",
                          "planes (Pluecker coordinates of a token and one before) or concatenated (the tokens at all "
                          "lags through an MLP, to compare with)"},
                         {"hidden", 0, "inner channels of that MLP; 0: as many parameters as the map of planes"},
                         {"residual", false, "the token is added to what is mixed"},
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
            c.pairs = reader.choice("pairs", c.pairs, {"planes", "concatenated"});
            c.residual = reader.get("residual", c.residual);
            c.norm = reader.get("norm", c.norm);
            c.causal = reader.get("causal", c.causal);
            c.hidden = reader.integer("hidden", 0, 0, 1 << 20);
            require(c.hidden == 0 || c.pairs == "concatenated",
                    "causal_grassmann: hidden = {} with pairs = planes, which have no hidden channels", c.hidden);
            if (c.hidden == 0) c.hidden = c.equal_hidden();
            reader.finish();
            return std::make_shared<CausalGrassmann>(c);
          }};
}

}  // namespace heed
