// The words around a text that is asked about: heed's own, or a template from a file, as RULER gives its tasks.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "heed/nn/config.h"
#include "heed/registry.h"

namespace heed::tasks {

/// A template: text with `{context}` once and fields of the task, such as `{query}`, anywhere.
class Wording {
 public:
  /// Throws heed::Error for a file that can't be read, is no text of at most 1 MiB, or lacks its one `{context}`.
  static Wording read(const std::string& path);
  /// Of the parameter "template": nothing where it is absent or empty.
  static std::optional<Wording> read(ConfigReader& reader);
  static Parameter parameter() {
    return {"template", "", "file with the words around the text: {context} and the task's fields in braces"};
  }

  /// `{name}` becomes the field; throws heed::Error for one that the task lacks.
  std::string filled(const std::string& context, const std::map<std::string, std::string>& fields) const;
  /// Where the context begins in what `filled` gives.
  int64_t context_begin(const std::map<std::string, std::string>& fields) const;

 private:
  std::string substituted(const std::string& text, const std::map<std::string, std::string>& fields) const;

  std::string path_, before_, after_;
};

/// A text and its question as a prompt, and where the text begins in it.
struct Posed {
  std::string prompt;
  int64_t begin = 0;
  /// The answer behind it: with a blank where the prompt ends in none.
  std::string continued(const std::string& answer) const;
};
Posed pose(const std::optional<Wording>& wording, const std::string& context, const std::string& question,
           const std::map<std::string, std::string>& fields);

}  // namespace heed::tasks
