// Models of images in folders of heed's own, and back.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "heed/models/vision_backbone.h"

namespace heed::checkpoint {

inline constexpr const char* kImageArchitecture = "HeedForImages";

/// A backbone and what it is made of.
struct ImageModel {
  std::string backbone;  ///< a name of make_backbone
  VisionSpec spec;       ///< as it was given to make_backbone
  std::shared_ptr<VisionBackbone> model;
};

/// Writes config.json, model.safetensors with all parameters and buffers, and preprocessor_config.json, which says that
/// pixels lie between 0 and 1; each beside and renamed. Keys of `notes` stand in config.json and change nothing.
void save_image_model(const std::filesystem::path& directory, const ImageModel& model,
                      const nlohmann::json& notes = nlohmann::json::object());

/// The model of such a folder: its outputs are those of the one that was saved. Throws heed::Error for a missing file,
/// a folder of another architecture, values that are not accepted, and a tensor that is missing, left over or of
/// another shape.
ImageModel load_image_model(const std::filesystem::path& directory);

/// The architecture that a folder's config.json names; empty where it names none. Throws heed::Error for a missing
/// file.
std::string architecture_of(const std::filesystem::path& directory);

}  // namespace heed::checkpoint
