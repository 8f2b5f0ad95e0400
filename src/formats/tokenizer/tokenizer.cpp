#include "heed/formats/tokenizer.h"

#include "formats/tokenizer/interface.h"

namespace heed::formats {

Tokenizer Tokenizer::parse(const nlohmann::json& json, std::string_view source) {
  return Tokenizer(make_file_tokenizer(json, source));
}
Tokenizer Tokenizer::bytes(SpecialTokens roles) { return Tokenizer(make_byte_tokenizer(roles), roles); }

std::vector<int64_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  return tokenizer_->encode(text, add_special);
}
Encoding Tokenizer::encode_pair(std::string_view first, std::string_view second, bool add_special) const {
  return tokenizer_->encode_pair(first, second, add_special);
}
std::string Tokenizer::decode(std::span<const int64_t> ids, bool skip_special) const {
  return tokenizer_->decode(ids, skip_special);
}
std::optional<int64_t> Tokenizer::id_of(std::string_view token) const { return tokenizer_->id_of(token); }
std::optional<std::string> Tokenizer::token_of(int64_t id) const { return tokenizer_->token_of(id); }
bool Tokenizer::is_special(int64_t id) const { return tokenizer_->is_special(id); }
int64_t Tokenizer::vocab_size() const { return tokenizer_->vocab_size(); }

}  // namespace heed::formats
