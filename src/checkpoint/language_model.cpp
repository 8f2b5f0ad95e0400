#include "heed/checkpoint/language_model.h"

#include <algorithm>

#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/error.h"
#include "heed/formats/gguf_config.h"
#include "heed/formats/gguf_tokenizer.h"
#include "heed/formats/json_file.h"

namespace heed::checkpoint {
namespace {

std::vector<int64_t> ending_tokens(const std::filesystem::path& directory) {
  auto eos = formats::read_decoder_config(directory / "config.json").eos_token_ids;
  const auto path = directory / "generation_config.json";
  if (!std::filesystem::exists(path)) return eos;
  const auto json = formats::read_json_file(path);
  if (!json.is_object() || !json.contains("eos_token_id") || json["eos_token_id"].is_null()) return eos;
  const auto& given = json["eos_token_id"];
  for (const auto& id : given.is_array() ? given : nlohmann::json::array({given})) {
    require(id.is_number_integer(), "{}: eos_token_id is {}, accepted: a token id or a list of them", path.string(),
            given.dump());
    if (std::find(eos.begin(), eos.end(), id.get<int64_t>()) == eos.end()) eos.push_back(id.get<int64_t>());
  }
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
