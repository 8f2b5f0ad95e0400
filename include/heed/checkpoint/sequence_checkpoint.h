// Sequence models in folders of heed's own, and back.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "heed/models/sequence.h"

namespace heed::checkpoint {

inline constexpr const char* kSequenceArchitecture = "HeedForSequences";

/// Writes config.json and model.safetensors with all parameters and buffers, each beside and renamed. Keys of `notes`
/// stand in config.json and change nothing.
void save_sequence_model(const std::filesystem::path& directory, SequenceModel& model,
                         const nlohmann::json& notes = nlohmann::json::object());

/// The model of such a folder. Throws heed::Error as load_image_model does.
SequenceModel load_sequence_model(const std::filesystem::path& directory);

}  // namespace heed::checkpoint
