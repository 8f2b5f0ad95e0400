// The words of a manual page without its macros.
#pragma once

#include <string>
#include <string_view>

namespace heed::tasks {

/// Whether the text is the source of a manual page (man or mdoc macros).
bool is_roff(std::string_view text);

/// Headings, paragraphs and examples as plain lines: macros, comments, font changes and the title line are gone,
/// paragraphs are joined and wrapped at 78 bytes.
std::string strip_roff(std::string_view text);

}  // namespace heed::tasks
