// Blocks of queries, each with the keys around it in one dense product.
#include "heed/attention.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;
using vision::Image;

struct HaloConfig {
  vision::WindowHeads heads;
  int64_t block = 8, halo = 3, stride = 1;
  bool mask_border = true;
};

class HaloAttention final : public vision::ImageMixer {
 public:
  explicit HaloAttention(const HaloConfig& config) : ImageMixer("halo_attention", config.heads.dim), config_(config) {
    const int64_t dim = config.heads.dim, size = dim / config.heads.heads;
    q_ = project("q_proj", dim, dim);
    kv_ = project("kv_proj", dim, 2 * dim);
    out_ = project("o_proj", dim, dim, true);
    const auto offsets = [&](const char* name) {
      return register_parameter(name, torch::randn({offset_count(), size}) / std::sqrt(double(size)));
    };
    row_offsets_ = offsets("row_offsets"), column_offsets_ = offsets("column_offsets");
  }

 protected:
  Tensor mix_image(const Image& image) override {
    const int64_t heads = config_.heads.heads;
    const nn::Halos halos(image.height(), image.width(), config_.block, config_.halo);
    // What asks: of every block the cells a stride apart, in smaller blocks.
    const auto asking = every(image.cells, config_.stride);
    const nn::Halos asked(asking.size(1), asking.size(2), config_.block / config_.stride, 0);
    const auto parts = kv_(image.cells).chunk(2, 3);
    const auto q = split_heads(asked.queries(q_(asking)), heads);
    const auto k = split_heads(halos.keys(parts[0]), heads), v = split_heads(halos.keys(parts[1]), heads);
    AttentionOptions options;
    options.bias = offset_bias(q);
    if (config_.mask_border || image.hidden.defined()) {
      // Without the mask what lies outside is a key of zeros, as the paper has it; padding is hidden all the same.
      auto keys = halos.key_documents(image.batch(), image.hidden);
      if (!config_.mask_border) {
        const auto outside = halos.key_documents(image.batch(), {}) < 0;
        keys = keys.masked_fill(outside, 0);
      }
      options.k_documents = keys;
      options.q_documents = torch::zeros({q.size(0), q.size(2)}, torch::kInt32);
    }
    return out_(asked.join(join_heads(attention(q, k, v, options))));
  }

 private:
  /// Cells 0, stride, 2 stride, ... of either axis of [B, H, W, C].
  static Tensor every(const Tensor& cells, int64_t stride) {
    return cells.slice(1, 0, INT64_MAX, stride).slice(2, 0, INT64_MAX, stride);
  }

  int64_t side() const { return config_.block + 2 * config_.halo; }
  int64_t offset_count() const { return 2 * side() - 1; }

  /// Scaled queries on vectors of row and column offsets: [B, heads, block^2, side^2].
  Tensor offset_bias(const Tensor& q) const {
    const int64_t b = config_.block / config_.stride, s = side();
    // Where a key stands from a query, from the least offset there is.
    const auto apart =
        torch::arange(s).unsqueeze(0) - (torch::arange(b).unsqueeze(1) * config_.stride + config_.halo) + s - 1;
    const auto vectors = [&](const Tensor& table) {
      return table.index_select(0, apart.flatten()).view({b, s, table.size(1)});
    };
    const auto scaled = (q / std::sqrt(double(q.size(3)))).unflatten(2, {b, b});  // [B, heads, row, column, D]
    const auto by_row = torch::einsum("nhijd,ird->nhijr", {scaled, vectors(row_offsets_)}).unsqueeze(5),
               by_column = torch::einsum("nhijd,jcd->nhijc", {scaled, vectors(column_offsets_)}).unsqueeze(4);
    return (by_row + by_column).flatten(4).flatten(2, 3);
  }

  HaloConfig config_;
  torch::nn::Linear q_{nullptr}, kv_{nullptr}, out_{nullptr};
  Tensor row_offsets_, column_offsets_;  // [2 side - 1, head size]
};

}  // namespace

RegistryRow rows::halo_attention() {
  return vision::image_row(
      {.name = "halo_attention",
       .paper = "Scaling Local Self-Attention for Parameter Efficient Visual Backbones (arXiv 2103.12731)",
       .year = 2021,
       .cost = "O(N (b + 2h)^2)",
       .parameters =
           vision::window_parameters({{"block", 8, "b: queries come in blocks of b x b cells"},
                                      {"halo", 3, "h: cells around a block that are keys, too"},
                                      {"stride", 1,
                                       "above 1, a divisor of block: only cells so many apart ask, and as many fewer "
                                       "tokens come out, for downsampling"},
                                      {"mask_border", true, "false: what lies outside the image is keys of zeros"}}),
       .small = {{"dim", 24}, {"heads", 3}, {"block", 3}, {"halo", 1}},
       .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
         ConfigReader reader("halo_attention", json);
         HaloConfig c;
         c.heads = vision::WindowHeads::read(reader);
         c.block = reader.integer("block", c.block, 1, 1024);
         c.halo = reader.integer("halo", c.halo, 0, 1024);
         c.stride = reader.integer("stride", c.stride, 1, 1024);
         require(c.block % c.stride == 0, "halo_attention: stride = {}: a divisor of block = {} is accepted", c.stride,
                 c.block);
         c.mask_border = reader.get("mask_border", true);
         reader.finish();
         return std::make_shared<HaloAttention>(c);
       }});
}

}  // namespace heed
