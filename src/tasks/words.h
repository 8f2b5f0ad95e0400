// Words of which prose and names are made: 200 adjectives, 200 nouns, 60 verbs in the third person, lower case ASCII.
#pragma once

#include <span>
#include <string_view>

namespace heed::tasks {

std::span<const std::string_view> adjectives();
std::span<const std::string_view> nouns();
std::span<const std::string_view> verbs();

}  // namespace heed::tasks
