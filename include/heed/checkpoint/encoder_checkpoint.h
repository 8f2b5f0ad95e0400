// A directory on disk becomes an encoder of text or of images, from Hugging Face's layouts of BERT, RoBERTa and ViT.
#pragma once

#include <filesystem>

#include "heed/formats/model_config.h"
#include "heed/models/encoder.h"
#include "heed/models/vision.h"

namespace heed::checkpoint {

EncoderConfig encoder_config(const formats::EncoderModelConfig& config);
VisionConfig vision_config(const formats::VisionModelConfig& config);

/// An encoder with the weights of `directory` (config.json, and model.safetensors or shards with an index), in float32
/// unless `dtype` says otherwise; with a pooler or a masked-token head where the files hold one. BERT's next-sentence
/// head is passed over. Throws heed::Error as load_decoder does.
Encoder load_encoder(const std::filesystem::path& directory, torch::ScalarType dtype = torch::kFloat32);

/// The same for a vision transformer, also one that save_image_model wrote.
VisionTransformer load_vision(const std::filesystem::path& directory, torch::ScalarType dtype = torch::kFloat32);

}  // namespace heed::checkpoint
