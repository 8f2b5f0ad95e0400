#include "heed/checkpoint/image_checkpoint.h"

#include "checkpoint/own_format.h"
#include "heed/formats/atomic_file.h"

namespace heed::checkpoint {
namespace {

constexpr int64_t kMostPixels = int64_t{1} << 16;

/// Pixels are what a picture's bytes are divided by 255.
constexpr const char* kPixels = R"({"image_mean": [0, 0, 0], "image_std": [1, 1, 1]})";

VisionSpec read_spec(ConfigReader& reader) {
  VisionSpec spec;
  ConfigReader image(reader.owner() + ".image", reader.object("image"));
  spec.image_height = image.integer("height", spec.image_height, 1, kMostPixels);
  spec.image_width = image.integer("width", spec.image_width, 1, kMostPixels);
  spec.channels = image.integer("channels", spec.channels, 1, kMostPixels);
  spec.patch = image.integer("patch", spec.patch, 1, kMostPixels);
  image.finish();
  spec.labels = reader.integer("labels", spec.labels, 1, int64_t{1} << 24);
  spec.dense = reader.get("dense", spec.dense);
  spec.patch_positions = reader.get("patch_positions", spec.patch_positions);
  spec.settings = reader.object("settings");
  spec.reducer = reader.object("reducer");
  read_transformer(reader.object("base"), reader.owner() + ".base", spec.base);
  return spec;
}

}  // namespace

void save_image_model(const std::filesystem::path& directory, const ImageModel& model, const nlohmann::json& notes) {
  const auto& s = model.spec;
  const nlohmann::ordered_json heed{
      {"backbone", model.backbone},
      {"settings", s.settings.is_null() ? nlohmann::json::object() : s.settings},
      {"image", {{"height", s.image_height}, {"width", s.image_width}, {"channels", s.channels}, {"patch", s.patch}}},
      {"labels", s.labels},
      {"dense", s.dense},
      {"patch_positions", s.patch_positions},
      {"reducer", s.reducer.is_null() ? nlohmann::json::object() : s.reducer},
      {"base", to_json(s.base)}};
  save_own(directory, kImageArchitecture, heed, notes, *model.model);
  formats::write_file(directory / "preprocessor_config.json", std::string(kPixels) + "\n");
}

ImageModel load_image_model(const std::filesystem::path& directory) {
  ImageModel image;
  load_own(directory, kImageArchitecture, [&](ConfigReader& reader) -> torch::nn::Module& {
    image.backbone = reader.choice("backbone", "vit", backbone_names());
    image.spec = read_spec(reader);
    image.model = make_backbone(image.backbone, image.spec);
    return *image.model;
  });
  return image;
}

}  // namespace heed::checkpoint
