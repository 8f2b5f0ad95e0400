// The two kinds of tokenizer behind heed/formats/tokenizer.h.
#pragma once

#include "heed/formats/tokenizer.h"

namespace heed::formats {

class Tokenizer::Interface {
 public:
  virtual ~Interface() = default;

  virtual std::vector<int64_t> encode(std::string_view text, bool add_special) const = 0;
  virtual Encoding encode_pair(std::string_view first, std::string_view second, bool add_special) const = 0;
  virtual std::string decode(std::span<const int64_t> ids, bool skip_special) const = 0;
  virtual std::optional<int64_t> id_of(std::string_view token) const = 0;
  virtual std::optional<std::string> token_of(int64_t id) const = 0;
  virtual bool is_special(int64_t id) const = 0;
  virtual int64_t vocab_size() const = 0;
};

/// The file's own tokenizer; the bytes.
std::shared_ptr<const Tokenizer::Interface> make_file_tokenizer(const nlohmann::json& json, std::string_view source);
std::shared_ptr<const Tokenizer::Interface> make_byte_tokenizer(const SpecialTokens& roles);

}  // namespace heed::formats
