// A conversation as the one text that a model was trained on: Jinja templates as models ship them.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace heed::formats {

/// A parsed template, cheap to copy and safe to use from several threads.
///
/// The part of Jinja that the templates of Llama 2 and 3, Mistral, Qwen2 and Qwen3, Gemma 2 and Phi-3 need, with the
/// settings that transformers gives it: if, for (with a filter, unpacking, break and continue), set (also of blocks and
/// of namespaces), generation; every expression but calls with '*'; raise_exception, strftime_now, range, namespace.
/// Macros, includes and inheritance are refused.
class ChatTemplate {
 public:
  /// `source` begins the message of a heed::Error, which gives line and column of what is not supported.
  static ChatTemplate parse(std::string_view text, std::string_view source);

  /// The template of a model directory: chat_template.jinja or, failing that, "chat_template" of tokenizer_config.json,
  /// of several the one named "default". Of a GGUF file: "tokenizer.chat_template". Absent when the model has none.
  /// Tokens with a role, such as bos_token, are variables of the template. Throws heed::Error naming the file.
  static std::optional<ChatTemplate> open(const std::filesystem::path& directory_or_gguf);

  /// `messages`: a list of {"role": ..., "content": ...}, as the template expects them. `add_generation_prompt` ends
  /// with what introduces the model's answer. `variables`: others that the template knows, such as tools or
  /// enable_thinking. The result holds the special tokens written out, so encode it with add_special = false.
  /// Throws heed::Error when the template refuses the conversation, takes too many steps, or makes more than 64 MiB.
  std::string render(const nlohmann::ordered_json& messages, bool add_generation_prompt = true,
                     const nlohmann::ordered_json& variables = nlohmann::ordered_json::object()) const;

 private:
  struct Parsed;
  static std::optional<ChatTemplate> of_gguf(const std::filesystem::path& path);
  static ChatTemplate make(std::string_view text, std::string_view source, std::shared_ptr<Parsed> parsed);
  explicit ChatTemplate(std::shared_ptr<const Parsed> parsed) : parsed_(std::move(parsed)) {}
  std::shared_ptr<const Parsed> parsed_;
};

}  // namespace heed::formats
