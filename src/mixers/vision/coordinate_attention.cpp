// Means of rows and of columns, seen by one small perceptron, gate the cells where they cross.
#include "heed/error.h"
#include "heed/nn/shown_norm.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;
using vision::Image;

constexpr int64_t kFewest = 8;  // channels inside, as in the release

class CoordinateAttention final : public vision::ImageMixer {
 public:
  CoordinateAttention(int64_t dim, int64_t reduction) : ImageMixer("coordinate_attention", dim) {
    const auto few = std::max(kFewest, dim / reduction);
    squeeze_ = register_module("squeeze", torch::nn::Linear(dim, few));
    norm_ = register_module("norm", torch::nn::BatchNorm1d(few));
    rows_ = register_module("rows", torch::nn::Linear(few, dim));
    columns_ = register_module("columns", torch::nn::Linear(few, dim));
  }

 protected:
  Tensor mix_image(const Image& image) override {
    const int64_t height = image.height(), width = image.width();
    const auto rows = vision::pool(image, image.cells, height, 1), columns = vision::pool(image, image.cells, 1, width);
    const auto means = torch::cat({rows.cells, columns.cells}, 1);  // [B, height + width, C]
    const auto hidden = rows.hidden.defined() ? torch::cat({rows.hidden, columns.hidden}, 1) : Tensor();
    const auto inner = torch::hardswish(nn::norm_of_shown(norm_, squeeze_(means), hidden));
    const auto row_gate = torch::sigmoid(rows_(inner.narrow(1, 0, height))),
               column_gate = torch::sigmoid(columns_(inner.narrow(1, height, width)));
    return image.cells * row_gate.unsqueeze(2) * column_gate.unsqueeze(1);
  }

 private:
  torch::nn::Linear squeeze_{nullptr}, rows_{nullptr}, columns_{nullptr};
  torch::nn::BatchNorm1d norm_{nullptr};
};

}  // namespace

RegistryRow rows::coordinate_attention() {
  return vision::image_row({.name = "coordinate_attention",
                            .paper = "Coordinate Attention for Efficient Mobile Network Design (arXiv 2103.02907)",
                            .year = 2021,
                            .cost = "O(N)",
                            .parameters = {{"dim", 64, "channels C of the tokens"},
                                           {"reduction", 32, "channels to one inside the gates, which have 8 at least"},
                                           {"causal", false, "only false is accepted"}},
                            .small = {{"dim", 24}},
                            .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
                              ConfigReader reader("coordinate_attention", json);
                              const auto dim = reader.integer("dim", 64, 1, 1 << 20),
                                         reduction = reader.integer("reduction", 32, 1, 1 << 20);
                              require(!reader.get("causal", false),
                                      "coordinate_attention: causal = true is not accepted: cells have no order");
                              reader.finish();
                              return std::make_shared<CoordinateAttention>(dim, reduction);
                            }});
}

}  // namespace heed
