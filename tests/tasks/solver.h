// Programs that solve the text tasks from the text alone, with regular expressions and hash maps.
#pragma once

#include <gtest/gtest.h>

#include <string>

namespace heed::tasks {

/// Reads the prompt as a person would, with nothing but the text to go by.
std::string solve(const std::string& task, const std::string& prompt);

}  // namespace heed::tasks
