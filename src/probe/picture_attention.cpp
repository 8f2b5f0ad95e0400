#include "heed/probe/picture_attention.h"

#include <cmath>

#include "heed/error.h"
#include "heed/formats/json_file.h"
#include "heed/nn/rollout.h"

namespace heed::probe {
namespace {

using formats::Picture;
using torch::Tensor;

constexpr std::array<double, 3> kWarm{235, 70, 20}, kGrey{0.299, 0.587, 0.114};
constexpr double kStrongest = 0.75;  // share of the warm colour where most is looked at

/// float [1, 3, height, width] of values from 0 to 255.
Tensor tensor_of(const Picture& picture) {
  const auto bytes = torch::tensor(at::ArrayRef<uint8_t>(picture.rgb), torch::kUInt8);
  return bytes.view({1, picture.height, picture.width, 3}).permute({0, 3, 1, 2}).to(torch::kFloat32).contiguous();
}

Tensor resized(const Tensor& image, int64_t height, int64_t width) {
  return at::_upsample_bilinear2d_aa(image, {height, width}, false);
}

/// Mean maps for the rollout, and of every layer the row that stands for the image, head by head.
class RowTaps final : public nn::WeightTaps {
 public:
  explicit RowTaps(bool class_token) : class_token_(class_token) {}
  void core_input(const LayerContext& layer, CoreInput& in) override {
    WeightTaps::core_input(layer, in);
    const auto k = in.k.repeat_interleave(in.q.size(1) / in.k.size(1), 1);
    const auto q = class_token_ ? in.q.narrow(2, 0, 1) : in.q;
    const auto weights = torch::softmax(torch::matmul(q, k.transpose(2, 3)) / std::sqrt(double(q.size(3))), 3);
    rows.push_back(weights.mean(2).squeeze(0));  // [heads, tokens]
  }
  std::vector<Tensor> rows;

 private:
  bool class_token_;
};

}  // namespace

PictureNorm PictureNorm::of(const std::filesystem::path& checkpoint) {
  PictureNorm norm;
  const auto path = checkpoint / "preprocessor_config.json";
  if (!std::filesystem::exists(path)) return norm;
  const nlohmann::json file = formats::read_json_file(path);
  for (const auto& [key, values] : {std::pair{"image_mean", &norm.mean}, {"image_std", &norm.deviation}}) {
    if (!file.contains(key)) continue;
    const auto& given = file.at(key);
    require(given.is_array() && given.size() == 3 &&
                std::all_of(given.begin(), given.end(), [](const auto& v) { return v.is_number(); }),
            "{}: {} = {}: three numbers are accepted", path.string(), key, given.dump());
    for (size_t c = 0; c < 3; ++c) (*values)[c] = given[c].get<double>();
  }
  for (const double deviation : norm.deviation)
    require(deviation > 0, "{}: image_std has {}; numbers above 0 are accepted", path.string(), deviation);
  return norm;
}

Tensor pixels_of(const Picture& picture, const VisionConfig& config, const PictureNorm& norm) {
  require(config.channels == 3 || config.channels == 1,
          "a model of {} channels: a picture is taken by models of 3 colours or one grey", config.channels);
  const auto numbers = [](const std::array<double, 3>& values) {
    return torch::tensor({values[0], values[1], values[2]}, torch::kFloat32).view({1, 3, 1, 1});
  };
  const auto image = resized(tensor_of(picture), config.image_height, config.image_width) / 255;
  const auto colours = (image - numbers(norm.mean)) / numbers(norm.deviation);
  return config.channels == 3 ? colours : (colours * numbers(kGrey)).sum(1, true);
}

PictureMaps picture_maps(VisionTransformer& model, const Tensor& pixels) {
  torch::NoGradGuard no_grad;
  const auto& c = model->config();
  for (const auto& layer : c.layers) {
    const bool plain = layer.mixer == "dense" && !(layer.config.is_object() && layer.config.contains("positions"));
    require(plain && c.attention.scale == 0 && c.attention.softcap == 0,
            "maps over a picture: a layer of {} {}: only dense attention by queries and keys alone has them", layer.mixer,
            layer.config.dump());
  }
  RowTaps taps(c.class_token);
  model->eval();
  const auto hidden = model->forward(pixels, 0, &taps);
  const int64_t first = int64_t(c.class_token), rows = c.image_height / c.patch_height,
                columns = c.image_width / c.patch_width;
  PictureMaps maps;
  maps.heads = torch::stack(taps.rows).slice(2, first).unflatten(2, {rows, columns}).contiguous();
  const auto flow = c.class_token ? nn::rollout_row(taps.maps, 0) : nn::rollout(taps.maps).mean(1);
  maps.rollout = flow.squeeze(0).slice(0, first).view({rows, columns});
  if (c.labels) maps.probabilities = torch::softmax(model->logits(hidden), 1).squeeze(0);
  return maps;
}

Picture overlay(const Picture& picture, const Tensor& map, int64_t most) {
  require(map.dim() == 2 && most > 0, "a map of rows and columns, and a size of 1 pixel or more are accepted");
  const double shrink = std::min(1.0, double(most) / double(std::max(picture.height, picture.width)));
  Picture out;
  out.height = std::max<int64_t>(1, std::llround(shrink * double(picture.height)));
  out.width = std::max<int64_t>(1, std::llround(shrink * double(picture.width)));
  const auto colours = resized(tensor_of(picture), out.height, out.width)[0];
  const auto largest = map.max().clamp_min(1e-30);
  const auto share =
      resized((map / largest).to(torch::kFloat32).view({1, 1, map.size(0), map.size(1)}), out.height, out.width)[0][0] *
      kStrongest;
  const auto grey = kGrey[0] * colours[0] + kGrey[1] * colours[1] + kGrey[2] * colours[2];
  std::vector<Tensor> parts;
  for (const double warm : kWarm) parts.push_back(grey * (1 - share) + warm * share);
  const auto bytes = torch::stack(parts, 2).round().clamp(0, 255).to(torch::kUInt8).contiguous();
  out.rgb.assign(bytes.data_ptr<uint8_t>(), bytes.data_ptr<uint8_t>() + bytes.numel());
  return out;
}

}  // namespace heed::probe
