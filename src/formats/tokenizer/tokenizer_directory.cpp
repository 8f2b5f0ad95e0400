#include <array>

#include "formats/json_node.h"
#include "heed/error.h"
#include "heed/formats/byte_tokenizer.h"
#include "heed/formats/json_file.h"
#include "heed/formats/tokenizer.h"

namespace heed::formats {
namespace fs = std::filesystem;
namespace {

/// The largest files in use have 33 MB.
constexpr size_t kMaxTokenizerBytes = size_t{256} << 20;

struct Role {
  const char *token, *id;
  std::optional<int64_t> SpecialTokens::*member;
};
constexpr std::array<Role, 7> kRoles = {{{"bos_token", "bos_token_id", &SpecialTokens::bos},
                                         {"eos_token", "eos_token_id", &SpecialTokens::eos},
                                         {"unk_token", "unk_token_id", &SpecialTokens::unk},
                                         {"sep_token", "sep_token_id", &SpecialTokens::sep},
                                         {"pad_token", "pad_token_id", &SpecialTokens::pad},
                                         {"cls_token", "cls_token_id", &SpecialTokens::cls},
                                         {"mask_token", "mask_token_id", &SpecialTokens::mask}}};

// The byte tokenizer's roles are ids in config.json; of several the first.
SpecialTokens roles_by_id(const JsonNode& config) {
  SpecialTokens roles;
  for (const auto& role : kRoles) {
    auto id = config.find(role.id);
    if (id && id->json().is_array() && !id->json().empty()) id = id->items().front();
    if (!id || !id->json().is_number_integer()) continue;
    const auto value = id->json().get<int64_t>();
    if (value >= 0 && value < ByteTokenizer::kVocabulary) roles.*role.member = value;
  }
  return roles;
}

// A token is written as a string, or as an object with its content.
void add_roles(const fs::path& path, const Tokenizer& tokenizer, SpecialTokens& roles) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return;
  const auto json = read_json_file(path, kMaxTokenizerBytes);
  const JsonNode node(json, path.string());
  for (const auto& role : kRoles) {
    const auto given = node.find(role.token);
    if (!given || roles.*role.member) continue;
    roles.*role.member = tokenizer.id_of(given->json().is_object() ? given->at("content").text() : given->text());
  }
}

}  // namespace

Tokenizer Tokenizer::open(const fs::path& directory) {
  std::error_code ignored;
  require(fs::is_directory(directory, ignored), "cannot read a tokenizer from '{}': it is no directory",
          directory.string());
  if (const auto path = directory / "config.json"; fs::exists(path, ignored)) {
    const auto json = read_json_file(path);
    const JsonNode config(json, path.string());
    const auto heed = config.find("heed");
    if (heed && heed->text_or("tokenizer", "") == ByteTokenizer::kName) return bytes(roles_by_id(config));
  }
  const auto path = directory / "tokenizer.json";
  require(fs::exists(path, ignored),
          "'{}' has neither a tokenizer.json nor a config.json that asks for heed's tokenizer '{}'; a SentencePiece "
          "tokenizer.model or a vocab.json must be converted to tokenizer.json",
          directory.string(), ByteTokenizer::kName);
  const auto json = read_json_file(path, kMaxTokenizerBytes);
  Tokenizer tokenizer = parse(json, path.string());
  SpecialTokens roles;
  add_roles(directory / "tokenizer_config.json", tokenizer, roles);
  add_roles(directory / "special_tokens_map.json", tokenizer, roles);
  tokenizer.set_roles(roles);
  return tokenizer;
}

}  // namespace heed::formats
