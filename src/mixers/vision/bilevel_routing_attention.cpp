// Regions of an image choose the few regions that their cells attend to.
#include <algorithm>
#include <cmath>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/ops/select_blocks.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using nn::Windows;
using torch::Tensor;
using vision::Image;

struct RoutingConfig {
  vision::WindowHeads heads;
  int64_t regions = 7, top = 4;
  bool soft = false;
};

class BilevelRoutingAttention final : public vision::ImageMixer {
 public:
  explicit BilevelRoutingAttention(const RoutingConfig& c)
      : ImageMixer("bilevel_routing_attention", c.heads.dim), config_(c) {
    qkv_ = register_module("qkv", torch::nn::Linear(dim_, 3 * dim_));
    out_ = register_module("o_proj", torch::nn::Linear(dim_, dim_));
    local_ = register_module("local", nn::GridConv(dim_, 5));
  }

 protected:
  Tensor mix_image(const Image& image) override {
    const auto cells_of = [&](int64_t size) { return (size + config_.regions - 1) / config_.regions; };
    const Windows regions(Windows::Kind::block, image.height(), image.width(), cells_of(image.height()),
                          cells_of(image.width()));
    const auto parts = qkv_(image.cells).chunk(3, 3);
    const auto shown = shown_cells(regions, image);
    const auto routed = route(regions, image, parts[0], parts[1], shown);
    const auto heads = config_.soft ? attend_softly(regions, image, parts, routed, shown)
                                    : attend(regions, image, parts, routed, shown);
    const auto v = image.shown(parts[2]);
    return out_(regions.join(heads) + vision::convolve(local_, v));
  }

 private:
  struct Route {
    Tensor regions;  ///< int64 [B, R, k], the chosen ones in rising order
    Tensor scores;   ///< [B, R, k], of their means
  };

  /// bool [B R, n]: cells that are neither padding of the image nor of its regions.
  static Tensor shown_cells(const Windows& regions, const Image& image) {
    auto documents = regions.documents(image.hidden);
    if (!documents.defined()) return {};
    if (!image.hidden.defined()) documents = documents.repeat({image.batch(), 1});
    return documents >= 0;
  }

  /// Which regions the cells of a region attend to, by the means of their queries and keys. All heads share it.
  Route route(const Windows& regions, const Image& image, const Tensor& q, const Tensor& k, const Tensor& shown) const {
    const auto mean = [&](const Tensor& t) {
      auto cells = regions.split(t);
      if (!shown.defined()) return cells.mean(1).view({image.batch(), -1, dim_});
      const auto counted = shown.unsqueeze(2).to(cells.scalar_type());
      return ((cells * counted).sum(1) / counted.sum(1).clamp_min(1)).view({image.batch(), -1, dim_});
    };
    auto scores = torch::matmul(mean(q), mean(k).transpose(1, 2));
    auto ranked = scores.detach();
    if (shown.defined())
      ranked = ranked.masked_fill(shown.any(1).logical_not().view({image.batch(), 1, -1}),
                                  -std::numeric_limits<double>::infinity());
    const int64_t top = std::min(config_.top, regions.count());
    // A stable order: of equal scores the region in front is chosen.
    const auto best = std::get<1>(ranked.sort(true, -1, true)).narrow(2, 0, top);
    const auto chosen = std::get<0>(best.sort(2));
    return {chosen, scores.gather(2, chosen)};
  }

  /// Cells region by region as heads: [B, heads, R n, D].
  Tensor region_heads(const Windows& regions, const Image& image, const Tensor& t) const {
    return split_heads(regions.split(t).view({image.batch(), -1, dim_}), config_.heads.heads);
  }

  /// The paper's scale is of all channels, not of a head's.
  double scale() const { return 1 / std::sqrt(static_cast<double>(dim_)); }

  Tensor attend(const Windows& regions, const Image& image, const std::vector<Tensor>& parts, const Route& routed,
                const Tensor& shown) const {
    const auto q = region_heads(regions, image, parts[0]), k = region_heads(regions, image, parts[1]),
               v = region_heads(regions, image, parts[2]);
    const int64_t cells = q.size(2) / regions.count();
    AttentionOptions options;
    options.scale = scale();
    const kernels::BlockGrid grid{q.size(2), q.size(2), cells, cells};
    const auto lists = routed.regions.to(torch::kInt32).unsqueeze(1).expand({-1, config_.heads.heads, -1, -1});
    options.blocks = ops::block_list_of_rows(lists.contiguous(), grid);
    if (shown.defined()) {
      const auto documents = (shown.to(torch::kInt32) - 1).view({image.batch(), -1});
      options.q_documents = options.k_documents = documents;
    }
    return join_heads(attention(q, k, v, options)).view({-1, cells, dim_});
  }

  /// Keys and values times the softmax of what their regions scored, so that routing has a gradient.
  Tensor attend_softly(const Windows& regions, const Image& image, const std::vector<Tensor>& parts,
                       const Route& routed, const Tensor& shown) const {
    const int64_t batch = image.batch(), count = regions.count(), top = routed.regions.size(2);
    const auto weights = torch::softmax(routed.scores * scale(), 2).view({batch * count, top, 1, 1});
    const auto first = torch::arange(batch).view({batch, 1, 1}) * count;
    const auto rows = (routed.regions + first).flatten();
    const auto gathered = [&](const Tensor& t) {
      const auto cells = regions.split(t);
      const auto chosen = cells.index_select(0, rows).view({batch * count, top, cells.size(1), dim_}) * weights;
      return split_heads(chosen.flatten(1, 2), config_.heads.heads);
    };
    AttentionOptions options;
    options.scale = scale();
    if (shown.defined()) {
      const auto documents = shown.to(torch::kInt32) - 1;
      options.q_documents = documents;
      options.k_documents = documents.index_select(0, rows).view({batch * count, -1});
    }
    const auto q = split_heads(regions.split(parts[0]), config_.heads.heads);
    return join_heads(attention(q, gathered(parts[1]), gathered(parts[2]), options));
  }

  RoutingConfig config_;
  torch::nn::Linear qkv_{nullptr}, out_{nullptr};
  nn::GridConv local_{nullptr};
};

}  // namespace

RegistryRow rows::bilevel_routing_attention() {
  return vision::image_row(
      {.name = "bilevel_routing_attention",
       .paper = "BiFormer: Vision Transformer with Bi-Level Routing Attention (arXiv 2303.08810)",
       .year = 2023,
       .cost = "O(N k N / S^2 + S^4)",
       .parameters = vision::window_parameters(
           {{"regions", 7, "S: the image is S x S regions"},
            {"top", 4, "k: regions that the cells of a region attend to; all where there are fewer"},
            {"soft", false, "keys and values are weighed by what their regions scored, so that routing learns"}}),
       .small = {{"dim", 24}, {"heads", 3}, {"regions", 3}, {"top", 2}},
       .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
         ConfigReader reader("bilevel_routing_attention", json);
         RoutingConfig c;
         c.heads = vision::WindowHeads::read(reader);
         c.regions = reader.integer("regions", c.regions, 1, 1024);
         c.top = reader.integer("top", c.top, 1, 1 << 20);
         c.soft = reader.get("soft", false);
         reader.finish();
         return std::make_shared<BilevelRoutingAttention>(c);
       }});
}

}  // namespace heed
