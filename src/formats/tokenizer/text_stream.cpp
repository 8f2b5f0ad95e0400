#include "heed/formats/tokenizer.h"

namespace heed::formats {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";
/// U+FFFD at the end can be a character that is not whole yet, or one that will never be, or the text's own. After so
/// many tokens it is given out as it is.
constexpr int kMostOpen = 32;

}  // namespace

std::string TextStream::take(const std::string& text) {
  // Behind a run of bytes that broke, the context is not what it was; then the new tokens stand alone.
  const std::string piece = text.starts_with(given_)
                                ? text.substr(given_.size())
                                : tokenizer_.decode(std::span(window_).subspan(context_), skip_special_);
  window_.erase(window_.begin(), window_.begin() + static_cast<std::ptrdiff_t>(context_));
  context_ = window_.size();
  given_ = tokenizer_.decode(window_, skip_special_);
  whole_ = given_.size();
  open_ = 0;
  return piece;
}

std::string TextStream::push(int64_t id) {
  if (!tokenizer_.token_of(id) || (skip_special_ && tokenizer_.is_special(id))) return "";
  window_.push_back(id);
  const std::string text = tokenizer_.decode(window_, skip_special_);
  // A token may end one character and begin the next, so only tokens that end none count.
  size_t whole = text.size();
  while (std::string_view(text).substr(0, whole).ends_with(kReplacement)) whole -= kReplacement.size();
  open_ = whole == text.size() ? 0 : whole > whole_ ? 1 : open_ + 1;
  whole_ = whole;
  if ((open_ > 0 && open_ < kMostOpen) || text.size() <= given_.size()) return "";
  return take(text);
}

std::string TextStream::finish() {
  const std::string piece = take(tokenizer_.decode(window_, skip_special_));
  window_.clear();
  context_ = 0;
  given_.clear();
  return piece;
}

}  // namespace heed::formats
