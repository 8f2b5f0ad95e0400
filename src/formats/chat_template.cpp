#include "heed/formats/chat_template.h"

#include <array>

#include "formats/jinja/evaluator.h"
#include "formats/json_node.h"
#include "heed/error.h"
#include "heed/formats/gguf.h"
#include "heed/formats/json_file.h"
#include "heed/formats/mapped_file.h"

namespace heed::formats {
namespace fs = std::filesystem;

struct ChatTemplate::Parsed {
  std::string source;
  jinja::Block block;
  jinja::Dict tokens;  // bos_token and the like
};

namespace {

constexpr size_t kMaxTemplateBytes = size_t{1} << 20, kMaxConfigBytes = size_t{256} << 20;
constexpr std::array<const char*, 7> kTokenNames = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                    "pad_token", "cls_token", "mask_token"};
constexpr std::array<std::pair<const char*, const char*>, 4> kGgufRoles = {
    {{"bos_token", "bos"}, {"eos_token", "eos"}, {"unk_token", "unknown"}, {"pad_token", "padding"}}};

std::string read_text(const fs::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  require(bytes.size() <= kMaxTemplateBytes, "{}: {} bytes, accepted for a template: at most {}", path.string(),
          bytes.size(), kMaxTemplateBytes);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// One template, or a list of named ones.
std::optional<std::string> template_of(const JsonNode& config) {
  const auto given = config.find("chat_template");
  if (!given) return std::nullopt;
  if (!given->json().is_array()) return given->text();
  for (const auto& item : given->items()) {
    if (item.at("name").text() == "default") return item.at("template").text();
  }
  given->refuse("a string, or a list with a template named default");
}

}  // namespace

ChatTemplate ChatTemplate::make(std::string_view text, std::string_view source, std::shared_ptr<Parsed> parsed) {
  require(text.size() <= kMaxTemplateBytes, "{}: a template of {} bytes, accepted: at most {}", source, text.size(),
          kMaxTemplateBytes);
  parsed->source = source;
  parsed->block = jinja::parse(text, source);
  return ChatTemplate(std::move(parsed));
}

ChatTemplate ChatTemplate::parse(std::string_view text, std::string_view source) {
  return make(text, source, std::make_shared<Parsed>());
}

std::optional<ChatTemplate> ChatTemplate::of_gguf(const fs::path& path) {
  const auto file = GgufFile::open(path);
  const auto text = file.text("tokenizer.chat_template");
  if (!text) return std::nullopt;
  auto parsed = std::make_shared<Parsed>();
  const auto* tokens = file.find("tokenizer.ggml.tokens");
  for (const auto& [role, key] : kGgufRoles) {
    const auto id = file.whole(fmt::format("tokenizer.ggml.{}_token_id", key));
    if (!id || !tokens || !tokens->is_array() || *id < 0 || *id >= std::ssize(*tokens)) continue;
    const auto& token = (*tokens)[static_cast<size_t>(*id)];
    if (token.is_string()) parsed->tokens.set(role, token.get<std::string>());
  }
  return make(*text, path.string() + ": tokenizer.chat_template", std::move(parsed));
}

std::optional<ChatTemplate> ChatTemplate::open(const fs::path& directory) {
  std::error_code ignored;
  if (fs::is_regular_file(directory, ignored)) return of_gguf(directory);
  std::string source = (directory / "chat_template.jinja").string();
  std::optional<std::string> text;
  if (fs::exists(source, ignored)) text = read_text(source);
  jinja::Dict tokens;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const fs::path path = directory / name;
    if (!fs::exists(path, ignored)) continue;
    const auto json = read_json_file(path, kMaxConfigBytes);
    const JsonNode config(json, path.string());
    if (!text && (text = template_of(config))) source = path.string() + ": chat_template";
    for (const char* key : kTokenNames) {
      const auto token = config.find(key);
      if (token && !tokens.find(key)) {
        tokens.set(key, token->json().is_object() ? token->at("content").text() : token->text());
      }
    }
  }
  if (!text) return std::nullopt;
  auto parsed = std::make_shared<Parsed>();
  parsed->tokens = std::move(tokens);
  return make(*text, source, std::move(parsed));
}

std::string ChatTemplate::render(const nlohmann::ordered_json& messages, bool add_generation_prompt,
                                 const nlohmann::ordered_json& variables) const {
  require(messages.is_array(), "{}: the messages are no list", parsed_->source);
  for (const auto& message : messages) {
    require(message.is_object(), "{}: the message {} is no object with a role and a content", parsed_->source,
            quote(message.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace)));
  }
  require(variables.is_object(), "{}: the variables are no object", parsed_->source);
  jinja::Dict all = parsed_->tokens;
  all.set("tools", jinja::Value());
  all.set("documents", jinja::Value());
  for (auto item = variables.begin(); item != variables.end(); ++item) {
    all.set(item.key(), jinja::Value::from_json(*item));
  }
  all.set("messages", jinja::Value::from_json(messages));
  all.set("add_generation_prompt", add_generation_prompt);
  for (const auto& [name, value] : all.items) {
    require(value.nesting() <= jinja::Value::kMaxNesting, "{}: {} nests deeper than the accepted {} levels",
            parsed_->source, quote(name), jinja::Value::kMaxNesting);
  }
  return jinja::Evaluator(parsed_->source, std::move(all)).render(parsed_->block);
}

}  // namespace heed::formats
