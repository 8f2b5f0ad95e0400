// Linear attention with keys weighed by what the mean query asks for, and an output modulated token by token.
#include "heed/nn/feature_map.h"
#include "mixers/linear/image_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Cells;
using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

/// (attention + conv5x5(v)) * (x W), projected: what RALA and MALA have around their cores.
class ModulatedAttention : public linear::ImageAttention {
 protected:
  ModulatedAttention(std::string name, const HeadsConfig& config, bool rotary)
      : ImageAttention(std::move(name), config), rotary_(rotary) {
    gate_proj_ = project("gate_proj", config.dim, config.values(), true);
    conv_ = register_module("conv", nn::GridConv(config.values(), 5));
  }

  Tensor before_output(RecurrentCall& call, Tensor joined) override {
    const auto cells = cells_of(call);
    const auto v = call.without_padding(v_proj_(call.x));
    return (joined + conv_(v, cells.height, cells.width)) * gate_proj_(call.x);
  }

  Tensor rotated(const Cells& cells, const Tensor& t) const {
    return rotary_ ? nn::rotate_by_cell(t, cells.height, cells.width) : t;
  }

 private:
  bool rotary_;
  torch::nn::Linear gate_proj_{nullptr};
  nn::GridConv conv_{nullptr};
};

class Rala final : public ModulatedAttention {
 public:
  Rala(const HeadsConfig& config, bool rotary) : ModulatedAttention("rala", config, rotary) {}

 protected:
  Tensor attend_cells(const Cells& cells, const Heads& heads) override {
    const Heads wide = linear::wide(heads);
    const auto q = nn::apply(nn::FeatureMap::elu_plus_one, wide.q), k = nn::apply(nn::FeatureMap::elu_plus_one, wide.k);
    const double scale = 1 / std::sqrt(static_cast<double>(config_.key_dim));
    auto logits = (cells.mean(q) * k).sum(-1, true) * scale;
    if (cells.hidden.defined()) logits = logits.masked_fill(cells.hidden, std::numeric_limits<float>::lowest());
    const auto keys = cells.shown(k * (cells.count * torch::softmax(logits, 2)));
    const auto denominator = (q * cells.mean(keys)).sum(-1, true) + 1e-6;
    return ops::linear_noncausal(rotated(cells, q), rotated(cells, keys) / cells.count, wide.v) / denominator;
  }
};

class Mala final : public ModulatedAttention {
 public:
  Mala(const HeadsConfig& config, bool rotary, nn::FeatureMap map)
      : ModulatedAttention("mala", config, rotary), map_(map) {}

 protected:
  // Weights beta s - gamma with beta = 1 + 1 / S and gamma = S / N: they add up to 1 and follow the length of q.
  Tensor attend_cells(const Cells& cells, const Heads& heads) override {
    const Heads wide = linear::wide(heads);
    const auto q = nn::apply(map_, wide.q), k = cells.shown(nn::apply(map_, wide.k));
    const auto scale = score_scale(cells);
    const auto sum = (q * cells.sum(k)).sum(-1, true) * scale;
    const auto attended = ops::linear_noncausal(rotated(cells, q), rotated(cells, k) * scale, wide.v);
    return (1 + 1 / (sum + 1e-6)) * attended - sum * cells.mean(wide.v);
  }

 private:
  nn::FeatureMap map_;
};

const Parameter kRotary{"rotary", true, "numerators turn q and k by the angles of their row and column"};

}  // namespace

RegistryRow rows::rala() {
  return linear::image_row({.name = "rala",
                            .paper = "Breaking the Low-Rank Dilemma of Linear Attention (arXiv 2411.07635)",
                            .year = 2024,
                            .cost = "O(N)",
                            .parameters = linear::heads_parameters({kRotary}, false),
                            .small = {{"dim", 24}, {"heads", 3}},
                            .make = linear::heads_maker(
                                "rala",
                                [](const HeadsConfig& config, ConfigReader& reader) {
                                  return std::make_shared<Rala>(config, reader.get("rotary", true));
                                },
                                false)});
}

RegistryRow rows::mala() {
  return linear::image_row(
      {.name = "mala",
       .paper = "Rectifying Magnitude Neglect in Linear Attention (arXiv 2507.00698)",
       .year = 2025,
       .cost = "O(N)",
       .parameters = linear::heads_parameters(
           {kRotary, {"feature_map", "elu_plus_one", "of q and k; none of its values may be negative"}}, false),
       .small = {{"dim", 24}, {"heads", 3}},
       .make = linear::heads_maker(
           "mala",
           [](const HeadsConfig& config, ConfigReader& reader) {
             const auto map = nn::feature_map(reader.choice("feature_map", "elu_plus_one", nn::feature_map_names()));
             require(nn::is_positive(map),
                     "mala: a feature map of both signs; elu_plus_one, relu, sigmoid, exp and "
                     "softmax are accepted");
             return std::make_shared<Mala>(config, reader.get("rotary", true), map);
           },
           false)});
}

}  // namespace heed
