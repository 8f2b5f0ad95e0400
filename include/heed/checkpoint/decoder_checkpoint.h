// A directory on disk becomes a decoder and back, in Hugging Face's Llama layout.
#pragma once

#include <filesystem>
#include <string>

#include "heed/formats/model_config.h"
#include "heed/models/decoder_lm.h"

namespace heed::checkpoint {

DecoderConfig decoder_config(const formats::LlamaConfig& config);
formats::LlamaConfig llama_config(const DecoderConfig& config);

/// Name of a decoder's parameter in a checkpoint: `layers_0.gate_proj.weight` -> `model.layers.0.mlp.gate_proj.weight`.
std::string checkpoint_name(const std::string& parameter);

/// A decoder with the weights of `directory` (config.json, and model.safetensors or shards with an index), in float32
/// unless `dtype` says otherwise. Throws heed::Error for a missing file, a tensor that is missing, left over or of
/// another shape.
DecoderLm load_decoder(const std::filesystem::path& directory, torch::ScalarType dtype = torch::kFloat32);

/// Writes config.json and model.safetensors, each beside and renamed. Weights are rounded to `dtype`.
void save_decoder(const std::filesystem::path& directory, DecoderLm& model, torch::ScalarType dtype = torch::kBFloat16);

}  // namespace heed::checkpoint
