// Runs the built binary as a person would.
#pragma once

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>

#include "support/temporary_directory.h"

namespace heed::test {

struct CommandResult {
  int status = -1;
  std::string out, err;
};

/// `heed arguments`, through the shell, with its two outputs apart.
inline CommandResult heed(const std::string& arguments) {
  const TemporaryDirectory folder;
  const auto err = folder / "err";
  const std::string command = std::string(HEED_BINARY) + " " + arguments + " 2>" + err.string();
  CommandResult result;
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return result;
  std::array<char, 4096> buffer;
  for (size_t n; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) result.out.append(buffer.data(), n);
  const int status = pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  result.err = slurp(err);
  return result;
}

}  // namespace heed::test
