// One softmax over the neighbours of a cell and a pooled image, of cosines scaled by how many keys there are.
#include "heed/attention.h"
#include "heed/error.h"
#include "heed/nn/gelu.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;
using vision::Image;

constexpr int64_t kNear = 9;  // a cell and its neighbours

struct AggregatedConfig {
  vision::WindowHeads heads;
  int64_t reduction = 2, side = 14, bias_hidden = 512;
  bool neighbours = true, pooled = true, table = false;
};

/// What all cells attend to: keys and values on a grid, and which of it is padding.
struct Global {
  Tensor k, v;    ///< [B, heads, M, D]
  Tensor hidden;  ///< bool [B, M] or undefined
  int64_t rows = 0, columns = 0;
};

class AggregatedAttention final : public vision::ImageMixer {
 public:
  explicit AggregatedAttention(const AggregatedConfig& c)
      : ImageMixer("aggregated_attention", c.heads.dim), config_(c), heads_(c.heads.heads) {
    const int64_t size = dim_ / heads_;
    const auto normal = [&](const char* name, std::vector<int64_t> sizes, double deviation) {
      return register_parameter(name, torch::randn(sizes).clamp(-2, 2) * deviation);
    };
    q_ = register_module("q_proj", torch::nn::Linear(dim_, dim_));
    kv_ = register_module("kv_proj", torch::nn::Linear(dim_, 2 * dim_));
    out_ = register_module("o_proj", torch::nn::Linear(dim_, dim_));
    query_ = normal("query_embedding", {heads_, 1, size}, 0.02);
    // softplus of it is 1 / 0.24.
    temperature_ = register_parameter("temperature", torch::full({heads_, 1, 1}, std::log(std::expm1(1 / 0.24))));
    if (c.table) {
      bias_table_ = normal("bias_table", {heads_, 2 * c.side - 1, 2 * c.side - 1}, 0.02);
    } else if (c.pooled) {
      bias_in_ = register_module("bias_in", torch::nn::Linear(2, c.bias_hidden));
      bias_out_ = register_module("bias_out", torch::nn::Linear(c.bias_hidden, heads_));
    }
    if (c.reduction == 1) return;
    if (c.neighbours) {
      near_bias_ = normal("near_bias", {heads_, 1, kNear}, 4e-4);
      tokens_ = normal("tokens", {heads_, size, kNear}, 0.02);
      tokens_bias_ = register_parameter("tokens_bias", torch::zeros({heads_, 1, kNear}));
    }
    if (!c.pooled) return;
    pool_in_ = register_module("pool_in", torch::nn::Linear(dim_, dim_));
    pool_norm_ = register_module("pool_norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({dim_})));
  }

 protected:
  Tensor mix_image(const Image& image) override {
    const auto unit = [](const Tensor& t) { return t / t.norm(2, -1, true).clamp_min(1e-12); };
    const auto q = unit(split_heads(q_(image.cells).flatten(1, 2), heads_));
    const auto kv = kv_(image.cells);
    const bool dense = config_.reduction == 1;
    Global global;
    if (config_.pooled) global = dense ? whole(image, kv, unit) : pooled(image, unit);
    Tensor near;
    if (config_.neighbours && !dense) near = neighbours_shown(image, q.scalar_type());

    auto keys = torch::zeros({1, 1, 1, 1}, q.options());
    if (global.hidden.defined()) {
      keys = global.hidden.logical_not().sum(1).view({-1, 1, 1, 1}).to(q.scalar_type());
    } else if (config_.pooled) {
      keys = keys + double(global.k.size(2));
    }
    // A padded cell far from the image has no key at all.
    if (near.defined()) keys = (keys + near.sum(3, true)).clamp_min(1);
    const auto asked = (q + query_) * torch::softplus(temperature_) * torch::log(keys);

    const auto far = config_.pooled ? attend_far(image, asked, global) : AttentionResult{};
    const auto heads = near.defined() ? with_neighbours(image, kv, q, asked, near, far, unit) : far.out;
    return out_(join_heads(heads)).unflatten(1, {image.height(), image.width()});
  }

 private:
  template <class Unit>
  Global whole(const Image& image, const Tensor& kv, const Unit& unit) const {
    const auto parts = kv.flatten(1, 2).chunk(2, 2);
    return {unit(split_heads(parts[0], heads_)), split_heads(parts[1], heads_),
            image.hidden.defined() ? image.hidden.flatten(1) : Tensor(), image.height(), image.width()};
  }

  template <class Unit>
  Global pooled(const Image& image, const Unit& unit) {
    const int64_t rows = std::max<int64_t>(1, image.height() / config_.reduction),
                  columns = std::max<int64_t>(1, image.width() / config_.reduction);
    const auto regions = vision::pool(image, image.shown(nn::gelu(pool_in_(image.cells))), rows, columns);
    const auto parts = kv_(pool_norm_(regions.cells)).chunk(2, 2);
    return {unit(split_heads(parts[0], heads_)), split_heads(parts[1], heads_), regions.hidden, rows, columns};
  }

  AttentionResult attend_far(const Image& image, const Tensor& asked, const Global& global) {
    AttentionOptions options;
    options.scale = 1;
    options.bias =
        offset_bias(image, global).to(asked.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32);
    if (global.hidden.defined()) {
      options.k_documents = global.hidden.to(torch::kInt32).neg();
      options.q_documents = torch::zeros({asked.size(0), asked.size(2)}, torch::kInt32);
    }
    return attention_with_lse(asked, global.k, global.v, options);
  }

  /// [B or 1, 1, N, 9]: 1 for neighbours that are cells of the image.
  Tensor neighbours_shown(const Image& image, torch::ScalarType type) const {
    const nn::Halos halos(image.height(), image.width(), 1, 1);
    const int64_t batch = image.hidden.defined() ? image.batch() : 1;
    return (halos.key_documents(batch, image.hidden) == 0).to(type).view({batch, 1, halos.count(), kNear});
  }

  template <class Unit>
  Tensor with_neighbours(const Image& image, const Tensor& kv, const Tensor& q, const Tensor& asked, const Tensor& near,
                         const AttentionResult& far, const Unit& unit) const {
    const nn::Halos halos(image.height(), image.width(), 1, 1);
    // [B N, 9, C] -> [B, heads, N, 9, D]
    const auto around = [&](const Tensor& t) {
      return halos.keys(t).view({image.batch(), -1, kNear, heads_, dim_ / heads_}).permute({0, 3, 1, 2, 4});
    };
    const auto parts = kv.chunk(2, 3);
    const auto k = unit(around(parts[0])), v = around(parts[1]);
    const auto lowest = std::numeric_limits<float>::lowest();
    const auto logits = ((asked.unsqueeze(3) * k).sum(4) + near_bias_).masked_fill(near == 0, lowest);
    auto all = torch::logsumexp(logits, 3);
    if (far.out.defined()) all = torch::logaddexp(all, far.lse.to(logits.scalar_type()));
    all = all.unsqueeze(3);
    // What is learned beside the softmax is added behind it: rows need not sum to 1.
    const auto learned = (torch::matmul(q, tokens_) + tokens_bias_) * near;
    const auto weights = torch::exp(logits - all) + learned;
    const auto mean = (weights.unsqueeze(4) * v).sum(3);
    return far.out.defined() ? mean + far.out * torch::exp(far.lse.unsqueeze(3) - all) : mean;
  }

  /// [cells, groups]: rows or columns from the middle of each group, as adaptive pooling makes them, to each cell.
  static Tensor apart(int64_t cells, int64_t groups) {
    const auto g = torch::arange(groups, torch::kFloat64);
    const auto begin = torch::floor(g * double(cells) / double(groups)),
               end = torch::ceil((g + 1) * double(cells) / double(groups));
    return torch::arange(cells, torch::kFloat64).unsqueeze(1) - (begin + end - 1) / 2;
  }

  /// [1, heads, N, M]
  Tensor offset_bias(const Image& image, const Global& global) {
    const auto by_row = apart(image.height(), global.rows), by_column = apart(image.width(), global.columns);
    const auto bias = config_.table ? table_bias(by_row, by_column) : perceptron_bias(by_row, by_column);
    return bias.flatten(3).flatten(1, 2).unsqueeze(0);
  }

  /// A perceptron of the logarithms of row and column distances: [heads, height, width, rows, columns].
  Tensor perceptron_bias(const Tensor& by_row, const Tensor& by_column) {
    const auto logarithm = [&](const Tensor& distance) {
      const auto r = distance * (8 / std::max<double>(1, double(config_.side - 1)));
      return torch::sign(r) * torch::log2(1 + r.abs()) / 3;
    };
    const std::vector<int64_t> sizes{by_row.size(0), by_column.size(0), by_row.size(1), by_column.size(1)};
    const auto offsets = torch::stack({logarithm(by_row).unsqueeze(1).unsqueeze(3).expand(sizes),
                                       logarithm(by_column).unsqueeze(0).unsqueeze(2).expand(sizes)},
                                      4);
    const auto hidden = torch::relu(bias_in_(offsets.to(bias_in_->weight.scalar_type())));
    return bias_out_(hidden).permute({4, 0, 1, 2, 3});
  }

  /// The same from a table of the offsets in an image of `side` cells, to which others are scaled, by linear
  /// interpolation between its entries.
  Tensor table_bias(const Tensor& by_row, const Tensor& by_column) const {
    const auto shares = [&](const Tensor& distance) {  // [cells, groups, 2 side - 1], how much of each entry
      const auto last = double(config_.side - 1);
      const auto at = distance * (last / std::max<double>(1, double(distance.size(0) - 1))) + last;
      const auto off = (at.unsqueeze(2) - torch::arange(2 * config_.side - 1)).abs();
      return (1 - off).clamp_min(0).to(bias_table_.scalar_type());
    };
    return torch::einsum("yiu,huv,xjv->hyxij", {shares(by_row), bias_table_, shares(by_column)});
  }

  AggregatedConfig config_;
  int64_t heads_;
  torch::nn::Linear q_{nullptr}, kv_{nullptr}, out_{nullptr}, bias_in_{nullptr}, bias_out_{nullptr}, pool_in_{nullptr};
  torch::nn::LayerNorm pool_norm_{nullptr};
  Tensor query_, temperature_, near_bias_, tokens_, tokens_bias_;
  Tensor bias_table_;  // [heads, 2 side - 1, 2 side - 1]
};

}  // namespace

RegistryRow rows::aggregated_attention() {
  return vision::image_row(
      {.name = "aggregated_attention",
       .paper = "TransNeXt: Robust Foveal Visual Perception for Vision Transformers (arXiv 2311.17132)",
       .year = 2023,
       .cost = "O(N (9 + N / r^2))",
       .parameters = vision::window_parameters(
           {{"reduction", 2, "r: cells a side that are pooled to a key; 1: every cell is a key, and no neighbours"},
            {"side", 14,
             "cells a side of the images it is trained on (a model of images tells its own), to which distances are "
             "compared"},
            {"bias_hidden", 512, "inner size of the perceptron that makes biases of distances"},
            {"keys", "both", "both; near: the neighbours alone; pooled: the pooled image alone"},
            {"bias", "perceptron",
             "of pooled keys: perceptron, or table, of the offsets in an image of `side` cells, interpolated for "
             "others"}}),
       .small = {{"dim", 24}, {"heads", 3}, {"bias_hidden", 8}},
       .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
         ConfigReader reader("aggregated_attention", json);
         AggregatedConfig c;
         c.heads = vision::WindowHeads::read(reader);
         c.reduction = reader.integer("reduction", c.reduction, 1, 1024);
         c.side = reader.integer("side", c.side, 1, 1 << 14);
         c.bias_hidden = reader.integer("bias_hidden", c.bias_hidden, 1, 1 << 16);
         const auto keys = reader.choice("keys", "both", {"both", "near", "pooled"});
         require(keys == "both" || c.reduction > 1,
                 "aggregated_attention: keys = {}: both is accepted with reduction = 1, whose keys are all cells",
                 keys);
         c.neighbours = keys != "pooled", c.pooled = keys != "near";
         c.table = reader.choice("bias", "perceptron", {"perceptron", "table"}) == "table";
         require(!c.table || c.pooled, "aggregated_attention: bias = table: perceptron is accepted with keys = near");
         reader.finish();
         return std::make_shared<AggregatedAttention>(c);
       }});
}

}  // namespace heed
