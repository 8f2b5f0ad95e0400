#include "heed/checkpoint/encoder_checkpoint.h"

#include "checkpoint/architectures/encoders.h"
#include "checkpoint/within_files.h"
#include "heed/checkpoint/image_checkpoint.h"
#include "heed/error.h"

namespace heed::checkpoint {
namespace {

void read_common(const formats::ModelConfig& c, TransformerConfig& m) {
  m.dim = c.hidden_size;
  m.heads = c.num_attention_heads;
  m.kv_heads = c.num_key_value_heads;
  m.head_dim = c.head_dim;
  m.hidden = c.intermediate_size;
  m.norm_eps = c.norm_eps;
  m.block = c.block;
  m.attention = c.attention;
  m.layers.resize(size_t(c.num_hidden_layers));
}

/// A lower bound.
double least_parameters(const TransformerConfig& c) {
  return double(c.layers.size()) * double(c.dim) * double(2 * c.hidden + 4 * c.dim);
}

bool holds(const TensorSource& source, const Layout& layout, const std::string& parameter) {
  const auto name = file_name(layout, parameter);
  return source.shape(name) || (name.starts_with(layout.base) && source.shape(name.substr(layout.base.size())));
}

}  // namespace

EncoderConfig encoder_config(const formats::EncoderModelConfig& c) {
  EncoderConfig e;
  read_common(c, e);
  e.max_length = c.max_position_embeddings;
  e.vocab_size = c.vocab_size;
  e.position_rows = c.max_position_embeddings;
  e.token_types = c.type_vocab_size;
  e.position_padding_id = c.position_padding_id;
  e.pooler = c.pooler;
  e.mlm_head = c.mlm_head;
  e.tie_embeddings = c.tie_word_embeddings;
  e.mlm_activation = c.mlm_activation;
  return e;
}

VisionConfig vision_config(const formats::VisionModelConfig& c) {
  VisionConfig v;
  read_common(c, v);
  v.image_height = c.image_height;
  v.image_width = c.image_width;
  v.patch_height = c.patch_height;
  v.patch_width = c.patch_width;
  v.channels = c.num_channels;
  v.pooler = c.pooler;
  v.labels = c.num_labels;
  v.max_length = v.patches() + 1;
  return v;
}

Encoder load_encoder(const std::filesystem::path& directory, torch::ScalarType dtype) {
  const auto file = formats::read_encoder_config(config_path(directory));
  auto config = encoder_config(file);
  const auto layout = file.architecture.starts_with("Roberta") ? roberta_layout(config) : bert_layout(config);
  const auto source = open_safetensors(directory);
  config.pooler = config.pooler || holds(*source, layout, "pooler.weight");
  config.mlm_head = config.mlm_head || holds(*source, layout, "mlm_dense.weight");
  expect_parameters(least_parameters(config) +
                        double(config.dim) * double(config.vocab_size + config.position_rows + config.token_types),
                    *source);
  Encoder model{nullptr};
  within_files(*source, [&] { model = Encoder(config, dtype); });
  fill(*model, layout, *source);
  return model;
}

VisionTransformer load_vision(const std::filesystem::path& directory, torch::ScalarType dtype) {
  if (architecture_of(directory) == kImageArchitecture) {
    const auto image = load_image_model(directory);
    auto* model = image.model->transformer();
    require(model, "{}: a model of backbone {}{}: a plain vision transformer, vit without a reducer, is accepted",
            directory.string(), image.backbone, image.backbone == "vit" ? " with a reducer" : "");
    (*model)->to(dtype);
    return *model;
  }
  const auto file = formats::read_vision_config(config_path(directory));
  auto config = vision_config(file);
  const auto layout = vit_layout(config);
  const auto source = open_safetensors(directory);
  config.pooler = config.pooler || holds(*source, layout, "pooler.weight");
  const double patch = double(config.patch_height) * double(config.patch_width) * double(config.channels);
  expect_parameters(least_parameters(config) + double(config.dim) * (patch + double(config.patches() + config.labels)),
                    *source);
  VisionTransformer model{nullptr};
  within_files(*source, [&] { model = VisionTransformer(config, dtype); });
  fill(*model, layout, *source);
  return model;
}

}  // namespace heed::checkpoint
