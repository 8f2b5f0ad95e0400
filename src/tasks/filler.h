// Text in which needles are hidden.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "heed/tasks/random.h"

namespace heed::tasks {

/// Words, each known to end a sentence or not. Any prefix of them, closed by a period, is a filler.
class Filler {
 public:
  /// One paragraph of five sentences, over and over.
  static Filler noise(size_t bytes);
  /// Sentences of a small grammar.
  static Filler prose(size_t bytes, Random& random);
  /// The words of a text given by the caller, in lines as they are.
  static Filler given(std::string_view text);
  /// Whole sentences, each with its separator behind it, as units that are never cut.
  static Filler lines(std::vector<std::string> lines);

  size_t words() const { return words_.size(); }
  /// All of it.
  std::string text() const;
  /// The first `count` words as sentences, each with its separator behind it: joined, they are the filler.
  std::vector<std::string> sentences(size_t count) const;

 private:
  std::vector<std::string> words_;  // each with what separates it from the next
};

}  // namespace heed::tasks
