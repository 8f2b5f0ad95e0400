// Text to token ids and back: what Hugging Face's `tokenizers` gives for the same tokenizer.json, id for id.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace heed::formats {

/// Tokens with a role; absent where the files name none, or one that the vocabulary lacks.
struct SpecialTokens {
  std::optional<int64_t> bos, eos, unk, sep, pad, cls, mask;
};

/// Tokens, and the segment that each belongs to.
struct Encoding {
  std::vector<int64_t> ids, type_ids;  ///< equally many
};

/// A tokenizer, cheap to copy and safe to use from several threads.
///
/// Models: BPE (byte-level, with byte fallback, or plain) and WordPiece. Truncation and padding in the file are left to
/// the caller. Unicode's classes are those of the installed PCRE2 and utf8proc, which can differ from the reference's
/// in characters that younger versions of Unicode have added.
class Tokenizer {
 public:
  /// Reads a model directory: tokenizer.json, and from tokenizer_config.json and special_tokens_map.json, where they
  /// exist, the tokens with a role. A config.json that says "heed": {"tokenizer": "bytes"} asks for `bytes`, and then
  /// no other file is needed. Throws heed::Error naming the file, the place in it and what is accepted.
  static Tokenizer open(const std::filesystem::path& directory);
  /// The contents of a tokenizer.json. `source` begins the message of a heed::Error.
  static Tokenizer parse(const nlohmann::json& json, std::string_view source);
  /// Token i, 0 to 255, is byte i (byte_tokenizer.h); those with a role are special, and text begins with `bos`.
  static Tokenizer bytes(SpecialTokens roles = {});

  /// `add_special` adds what the file puts around a sequence, such as <s> or [CLS] and [SEP]. Special tokens written
  /// out in the text are found either way. Text that is no UTF-8 is a heed::Error with the byte where it breaks;
  /// only `bytes` takes any text.
  std::vector<int64_t> encode(std::string_view text, bool add_special = true) const;

  /// Two texts as one input, as encoders for pairs read them: [CLS] first [SEP] second [SEP] with types 0 and 1, or
  /// whatever the file puts around a pair; without such a rule the second follows the first.
  Encoding encode_pair(std::string_view first, std::string_view second, bool add_special = true) const;

  /// Valid UTF-8: what is none is U+FFFD. `skip_special` leaves special tokens out. An id that no token has gives no
  /// text, as models pad their vocabularies.
  std::string decode(std::span<const int64_t> ids, bool skip_special = true) const;

  /// By a token's own spelling, as in the vocabulary: "Ġthe", "▁the", "##ing", "<0x0A>", "<|eot_id|>".
  std::optional<int64_t> id_of(std::string_view token) const;
  std::optional<std::string> token_of(int64_t id) const;
  /// Whether `skip_special` leaves the token out.
  bool is_special(int64_t id) const;
  /// One more than the largest id.
  int64_t vocab_size() const;
  const SpecialTokens& roles() const { return roles_; }
  void set_roles(const SpecialTokens& roles) { roles_ = roles; }

  /// What a tokenizer must do, for the two that there are.
  class Interface;

 private:
  explicit Tokenizer(std::shared_ptr<const Interface> tokenizer, SpecialTokens roles = {})
      : tokenizer_(std::move(tokenizer)), roles_(roles) {}
  std::shared_ptr<const Interface> tokenizer_;
  SpecialTokens roles_;
};

/// Tokens to text as they come. The pieces are valid UTF-8 and, joined, are `decode` of all ids, as long as the tokens
/// form UTF-8; bytes that break it are held back for 32 tokens at most.
class TextStream {
 public:
  explicit TextStream(Tokenizer tokenizer, bool skip_special = true)
      : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

  /// The text that is now certain; empty in the middle of a character.
  std::string push(int64_t id);
  /// What is left at the end; a character that never became whole is U+FFFD.
  std::string finish();

 private:
  std::string take(const std::string& text);

  Tokenizer tokenizer_;
  bool skip_special_;
  std::vector<int64_t> window_;  // the tokens of the piece before, for their context, and those that still wait
  size_t context_ = 0;           // how many of them have been given out
  std::string given_;            // decode of those
  size_t whole_ = 0;             // bytes of the window's text up to the character that is open
  int open_ = 0;                 // tokens in a row that added to it and did not end it
};

}  // namespace heed::formats
