// This program, started again beside itself.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

namespace heed::cli {

class ChildProcess {
 public:
  /// `heed arguments`, whose two outputs go to a file. Throws heed::Error where it cannot be started.
  ChildProcess(std::vector<std::string> arguments, std::filesystem::path outputs);
  /// Ends it, if it has not ended.
  ~ChildProcess();
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;

  /// Whether it is over. Throws heed::Error with the last line that it said, where it failed.
  bool finished();

 private:
  pid_t id_;
  std::filesystem::path outputs_;
};

}  // namespace heed::cli
