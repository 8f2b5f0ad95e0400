// A directory on disk becomes a decoder, from any of Hugging Face's layouts that heed knows, and back.
#pragma once

#include <filesystem>
#include <string>

#include "heed/formats/model_config.h"
#include "heed/models/decoder_lm.h"

namespace heed::checkpoint {

DecoderConfig decoder_config(const formats::DecoderModelConfig& config);
/// What is written beside a decoder's weights: LlamaForCausalLM where it is one, HeedForCausalLM otherwise.
formats::DecoderModelConfig model_config(const DecoderConfig& config);

/// A decoder with the weights of `path`, a directory (config.json, and model.safetensors or shards with an index) or a
/// GGUF file, in float32 unless `dtype` says otherwise. Throws heed::Error for a missing file, an architecture that is
/// unknown or no decoder, a tensor that is missing, left over or of another shape.
DecoderLm load_decoder(const std::filesystem::path& path, torch::ScalarType dtype = torch::kFloat32);

/// Writes config.json and model.safetensors, each beside and renamed, under Llama's names. Weights are rounded to
/// `dtype`.
void save_decoder(const std::filesystem::path& directory, DecoderLm& model, torch::ScalarType dtype = torch::kBFloat16);

/// The same, for a model that was made from the directory `like`: with its tokenizer, special tokens and other keys of
/// its configuration. Throws heed::Error for a GGUF file, whose tokenizer is not written, and for `like` itself.
void save_decoder_like(const std::filesystem::path& directory, DecoderLm& model, const std::filesystem::path& like,
                       torch::ScalarType dtype = torch::kBFloat16);

}  // namespace heed::checkpoint
