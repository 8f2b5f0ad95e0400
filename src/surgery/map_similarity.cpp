#include "heed/error.h"
#include "heed/mixers/attention_mixer.h"
#include "heed/mixers/taps.h"
#include "heed/surgery/echo_att.h"

namespace heed::surgery {
namespace {

using torch::Tensor;

constexpr int64_t kRowsAtOnce = 64;  // of the maps of all layers

/// What makes the map of a layer.
struct Map {
  Tensor q, k, lse;
  AttentionOptions options;
};

class Maps : public Taps {
 public:
  explicit Maps(const DecoderLm& model) : model_(model), maps(model->blocks.size()) {}

  void core_input(const LayerContext& layer, CoreInput& core) override {
    const auto l = size_t(layer.index);
    if (model_->config().layers[l].mixer != "dense") return;
    const auto& config = dynamic_cast<const AttentionMixer&>(*model_->blocks[l]->mixer).config();
    auto& map = maps[l];
    map.q = core.q;
    map.k = core.k;
    map.options.mask = Causal{};
    map.options.scale = config.scale;
    map.options.softcap = config.softcap;
    map.lse = attention_with_lse(core.q, core.k, core.v, map.options).lse;
  }

 private:
  const DecoderLm& model_;

 public:
  std::vector<Map> maps;
};

/// x [L, B, H, ...] -> products of layers, double [B, H, L, L].
Tensor products(const Tensor& x) {
  const auto rows = x.permute({1, 2, 0, 3, 4}).flatten(3).to(torch::kFloat64);
  return torch::matmul(rows, rows.transpose(2, 3));
}

/// Products [B, H, L, L] -> cosines, summed over texts and heads.
Tensor cosines(const Tensor& gram) {
  const auto norm = gram.diagonal(0, 2, 3).sqrt();
  return (gram / (norm.unsqueeze(3) * norm.unsqueeze(2))).flatten(0, 1).sum(0);
}

}  // namespace

MapSimilarity map_similarity(DecoderLm& model, const std::vector<Tensor>& texts,
                             const std::function<void(int64_t done, int64_t total)>& progress) {
  torch::NoGradGuard no_grad;
  const auto& config = model->config();
  require(config.positions.kind != "alibi" && config.positions.kind != "t5",
          "similarity of maps: {} positions are score terms; others are accepted", config.positions.kind);
  require(!texts.empty(), "similarity of maps: one text or more is accepted");
  const int64_t layers = int64_t(config.layers.size());
  std::vector<int64_t> dense;
  for (int64_t l = 0; l < layers; ++l)
    if (config.layers[size_t(l)].mixer == "dense") dense.push_back(l);
  require(!dense.empty(), "similarity of maps: no layer is plain dense attention");
  model->eval();
  auto whole = torch::zeros({int64_t(dense.size()), int64_t(dense.size())}, torch::kFloat64);
  auto rest = torch::zeros_like(whole);
  int64_t heads = 0, done = 0;
  for (const auto& text : texts) {
    require(text.dim() == 2 && text.size(1) >= 2, "similarity of maps: texts of two tokens or more are accepted");
    Maps seen(model);
    model->hidden(text, nullptr, 0, &seen);
    Tensor gram, gram_rest;
    for (const auto& rows : torch::arange(text.size(1)).split(kRowsAtOnce)) {
      std::vector<Tensor> weights;
      for (const int64_t l : dense) {
        const auto& map = seen.maps[size_t(l)];
        weights.push_back(attention_weights(map.q, map.k, map.lse, rows, map.options));
      }
      const auto tile = torch::stack(weights);  // [L, B, H, R, M]
      const auto all = products(tile), others = products(tile.slice(4, 1));
      gram = gram.defined() ? gram + all : all;
      gram_rest = gram_rest.defined() ? gram_rest + others : others;
    }
    whole += cosines(gram);
    rest += cosines(gram_rest);
    heads += gram.size(0) * gram.size(1);
    if (progress) progress(++done, int64_t(texts.size()));
  }
  const auto index = torch::tensor(dense);
  const auto spread = [&](const Tensor& sum) {
    auto all = torch::eye(layers, torch::kFloat64);
    all.index_put_({index.unsqueeze(1), index.unsqueeze(0)}, sum / double(heads));
    all.fill_diagonal_(1);
    return all;
  };
  return {spread(whole), spread(rest)};
}

}  // namespace heed::surgery
