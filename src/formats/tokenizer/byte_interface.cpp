#include <algorithm>
#include <array>

#include "formats/tokenizer/interface.h"
#include "formats/unicode.h"
#include "heed/formats/byte_tokenizer.h"

namespace heed::formats {
namespace {

// A byte with a role stands for no text, so it is special.
class Bytes final : public Tokenizer::Interface {
 public:
  explicit Bytes(const SpecialTokens& r) : bos_(r.bos), special_{r.bos, r.eos, r.unk, r.sep, r.pad, r.cls, r.mask} {}

  std::vector<int64_t> encode(std::string_view text, bool add_special) const override {
    auto ids = ByteTokenizer::encode(text);
    if (add_special && bos_) ids.insert(ids.begin(), *bos_);
    return ids;
  }

  Encoding encode_pair(std::string_view first, std::string_view second, bool add_special) const override {
    auto ids = encode(first, add_special);
    std::vector<int64_t> types(ids.size(), 0);
    const auto behind = ByteTokenizer::encode(second);
    ids.insert(ids.end(), behind.begin(), behind.end());
    types.resize(ids.size(), 1);
    return {std::move(ids), std::move(types)};
  }

  std::string decode(std::span<const int64_t> ids, bool skip_special) const override {
    std::vector<int64_t> shown;
    for (const int64_t id : ids) {
      if (token_of(id) && !(skip_special && is_special(id))) shown.push_back(id);
    }
    return lossy_utf8(ByteTokenizer::decode(shown));
  }

  std::optional<int64_t> id_of(std::string_view token) const override {
    if (token.size() != 1) return std::nullopt;
    return static_cast<unsigned char>(token[0]);
  }

  std::optional<std::string> token_of(int64_t id) const override {
    if (id < 0 || id >= ByteTokenizer::kVocabulary) return std::nullopt;
    return std::string(1, static_cast<char>(id));
  }

  bool is_special(int64_t id) const override {
    return std::find(special_.begin(), special_.end(), std::optional(id)) != special_.end();
  }

  int64_t vocab_size() const override { return ByteTokenizer::kVocabulary; }

 private:
  std::optional<int64_t> bos_;
  std::array<std::optional<int64_t>, 7> special_;
};

}  // namespace

std::shared_ptr<const Tokenizer::Interface> make_byte_tokenizer(const SpecialTokens& roles) {
  return std::make_shared<Bytes>(roles);
}

}  // namespace heed::formats
