// Characters of UTF-8 text: decoding, the classes that tokenizers split by, and the four normal forms.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace heed::formats {

/// Byte offset of the first sequence that is no UTF-8 (overlong forms and surrogates count), or npos.
size_t invalid_utf8_at(std::string_view text);
/// The text with every maximal broken sequence replaced by U+FFFD, as the Unicode standard recommends.
std::string lossy_utf8(std::string bytes);

/// The character at `at`, which is moved behind it. The text must be valid UTF-8.
char32_t next_character(std::string_view text, size_t& at);
/// Start of the character that ends at `end`, which is more than 0.
size_t previous_start(std::string_view text, size_t end);
size_t count_characters(std::string_view text);
void append_utf8(std::string& text, char32_t c);

bool is_white_space(char32_t c);      ///< the property White_Space
bool is_word(char32_t c);             ///< letters, marks, decimal digits, connectors: \w
bool is_numeric(char32_t c);          ///< category N
bool is_punctuation(char32_t c);      ///< category P
bool is_mark(char32_t c);             ///< category M
bool is_nonspacing_mark(char32_t c);  ///< category Mn
bool is_other(char32_t c);            ///< control, format and private use: Cc, Cf, Co

enum class NormalForm { nfc, nfd, nfkc, nfkd };
/// The text, which must be valid UTF-8, in a normal form. Linear up to a factor log of the longest run of marks.
std::string normalized(std::string_view text, NormalForm form);
/// Every character in lower case by itself: a final sigma is not seen.
std::string lower_case(std::string_view text);
std::string upper_case(std::string_view text);

}  // namespace heed::formats
