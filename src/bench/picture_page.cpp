#include "heed/bench/picture_page.h"

#include <fmt/format.h>

#include "bench/page.h"
#include "bench/svg.h"

namespace heed::bench {
namespace {

constexpr int64_t kLarge = 640, kSmall = 224;  // pixels of the pictures on a page
constexpr int64_t kClasses = 5;

std::string base64(std::string_view bytes) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j)
      group = group << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0u);
    for (size_t j = 0; j < 4; ++j) text += i + j > bytes.size() ? '=' : kDigits[group >> (18 - 6 * j) & 63];
  }
  return text;
}

std::string figure(const formats::Picture& picture, const torch::Tensor& map, int64_t size, const std::string& text) {
  return fmt::format(
      "<figure style=\"display:inline-block;margin:.3rem\"><img alt=\"{0}\" src=\"data:image/png;"
      "base64,{1}\"><figcaption>{0}</figcaption></figure>\n",
      escape_xml(text), base64(formats::png_of(probe::overlay(picture, map, size))));
}

nlohmann::ordered_json rows_of(const torch::Tensor& map) {
  auto rows = nlohmann::ordered_json::array();
  const auto all = map.to(torch::kFloat64).contiguous();
  for (int64_t r = 0; r < all.size(0); ++r) {
    const auto* row = all[r].data_ptr<double>();
    rows.push_back(std::vector<double>(row, row + all.size(1)));
  }
  return rows;
}

nlohmann::ordered_json classes_of(const torch::Tensor& probabilities) {
  auto classes = nlohmann::ordered_json::array();
  if (!probabilities.defined()) return classes;
  const auto [values, indices] = probabilities.topk(std::min<int64_t>(kClasses, probabilities.size(0)));
  for (int64_t i = 0; i < values.size(0); ++i)
    classes.push_back({{"class", indices[i].item<int64_t>()}, {"probability", values[i].item<double>()}});
  return classes;
}

}  // namespace

nlohmann::ordered_json to_json(const probe::PictureMaps& maps) {
  auto layers = nlohmann::ordered_json::array();
  for (int64_t l = 0; l < maps.heads.size(0); ++l) {
    auto heads = nlohmann::ordered_json::array();
    for (int64_t h = 0; h < maps.heads.size(1); ++h) heads.push_back(rows_of(maps.heads[l][h]));
    layers.push_back(heads);
  }
  return {{"rollout", rows_of(maps.rollout)}, {"heads", layers}, {"classes", classes_of(maps.probabilities)}};
}

std::string picture_html(const formats::Picture& picture, const probe::PictureMaps& maps, const std::string& title) {
  auto body = figure(picture, maps.rollout, kLarge, "rollout through all layers");
  for (const auto& c : classes_of(maps.probabilities))
    body += fmt::format("<p>class {}: {:.3f}</p>\n", c["class"].get<int64_t>(), c["probability"].get<double>());
  body += "<h2>Layers, mean of heads</h2>\n";
  for (int64_t l = 0; l < maps.heads.size(0); ++l)
    body += figure(picture, maps.heads[l].mean(0), kSmall, fmt::format("layer {}", l));
  body += "<h2>Heads of the last layer</h2>\n";
  for (int64_t h = 0; h < maps.heads.size(1); ++h)
    body += figure(picture, maps.heads[-1][h], kSmall, fmt::format("head {}", h));
  return page(
      title, title,
      "Warm where a patch has weight: as strong as its share of the largest weight. Rows of the class token, or, "
      "of a model without one, the mean of all rows.",
      body, "heed probe picture");
}

}  // namespace heed::bench
