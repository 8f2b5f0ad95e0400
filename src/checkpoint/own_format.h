// Folders of heed's own: config.json with one object, "heed", that says what a model is made of, and model.safetensors
// with its parameters and buffers under heed's names.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "heed/models/transformer.h"
#include "heed/nn/config.h"

namespace heed::checkpoint {

/// What blocks are made of, but for `grid`, which models give their layers.
nlohmann::ordered_json to_json(const TransformerConfig& config);
/// Reads what `to_json` gives. Throws heed::Error, beginning with `source`, for keys and values that are not accepted.
void read_transformer(const nlohmann::json& json, const std::string& source, TransformerConfig& config);

/// Writes config.json, of an architecture of that name, and the weights, each beside and renamed. Keys of `notes` stand
/// beside "heed".
void save_own(const std::filesystem::path& directory, const char* architecture, const nlohmann::ordered_json& heed,
              const nlohmann::json& notes, torch::nn::Module& model);

/// Reads such a folder: `make` gives the module that the object "heed" describes, which gets the weights. Throws
/// heed::Error for a folder of another architecture, and for a tensor that is missing, left over or of another shape.
void load_own(const std::filesystem::path& directory, const char* architecture,
              const std::function<torch::nn::Module&(ConfigReader&)>& make);

}  // namespace heed::checkpoint
