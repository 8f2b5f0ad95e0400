#include "heed/checkpoint/language_model.h"

#include <algorithm>

#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/error.h"
#include "heed/formats/generation_config.h"
#include "heed/formats/gguf_config.h"
#include "heed/formats/gguf_tokenizer.h"
#include "heed/formats/json_file.h"

namespace heed::checkpoint {
namespace {

std::vector<int64_t> ending_tokens(const std::filesystem::path& directory) {
  auto eos = formats::read_decoder_config(directory / "config.json").eos_token_ids;
  const auto path = directory / "generation_config.json";
  if (!std::filesystem::exists(path)) return eos;
  for (const int64_t id : formats::parse_ending_tokens(formats::read_json_file(path), path.string()))
    if (std::find(eos.begin(), eos.end(), id) == eos.end()) eos.push_back(id);
  return eos;
}

}  // namespace

LanguageModel load_language_model(const std::filesystem::path& path, torch::ScalarType dtype) {
  auto model = load_decoder(path, dtype);
  const bool one_file = std::filesystem::is_regular_file(path);
  auto tokenizer = one_file ? formats::gguf_tokenizer(formats::GgufFile::open(path)) : formats::Tokenizer::open(path);
  require(tokenizer.vocab_size() <= model->config().vocab_size,
          "{}: the tokenizer has ids up to {}, the model's vocabulary {} entries", path.string(),
          tokenizer.vocab_size() - 1, model->config().vocab_size);
  auto eos = one_file ? formats::gguf_decoder_config(formats::GgufFile::open(path)).eos_token_ids : ending_tokens(path);
  return {std::move(model), std::move(tokenizer), std::move(eos)};
}

}  // namespace heed::checkpoint
