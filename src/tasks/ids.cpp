#include "tasks/ids.h"

#include <cmath>

#include "tasks/words.h"

namespace heed::tasks {

std::string random_symbols(Random& random, std::string_view alphabet, int64_t count) {
  std::string text;
  for (int64_t i = 0; i < count; ++i) text += alphabet[random.below(alphabet.size())];
  return text;
}

std::string random_id(Random& random, IdKind kind, bool tiny) {
  switch (kind) {
    case IdKind::number:
      return random_symbols(random, kDigits, tiny ? 4 : 7);
    case IdKind::uuid: {
      if (tiny) return random_symbols(random, kHex, 4);
      std::string text = random_symbols(random, kHex, 36);
      for (const size_t dash : {8, 13, 18, 23}) text[dash] = '-';
      return text;
    }
    case IdKind::word:
      break;
  }
  if (tiny) return random_symbols(random, kLetters, 4);
  std::string text(adjectives()[random.below(adjectives().size())]);
  return (text += '-') += nouns()[random.below(nouns().size())];
}

double id_count(IdKind kind, bool tiny) {
  switch (kind) {
    case IdKind::number:
      return std::pow(10, tiny ? 4 : 7);
    case IdKind::uuid:
      return std::pow(16, tiny ? 4 : 32);
    case IdKind::word:
      break;
  }
  return tiny ? std::pow(26, 4) : static_cast<double>(adjectives().size() * nouns().size());
}

}  // namespace heed::tasks
