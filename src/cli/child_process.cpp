#include "cli/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <utility>

#include "heed/error.h"

namespace heed::cli {
namespace {

std::string last_line(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::string line, last;
  while (std::getline(in, line))
    if (!line.empty()) last = line;
  return last;
}

}  // namespace

ChildProcess::ChildProcess(std::vector<std::string> arguments, std::filesystem::path outputs)
    : id_(0), outputs_(std::move(outputs)) {
  arguments.insert(arguments.begin(), "heed");
  std::vector<char*> pointers;
  for (auto& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, outputs_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  const int error = posix_spawn(&id_, "/proc/self/exe", &actions, nullptr, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  require(error == 0, "heed can't be started again: {}", std::strerror(error));
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : id_(std::exchange(other.id_, 0)), outputs_(std::move(other.outputs_)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(id_, other.id_);
  std::swap(outputs_, other.outputs_);
  return *this;
}

ChildProcess::~ChildProcess() {
  if (id_ == 0) return;
  kill(id_, SIGTERM);
  waitpid(id_, nullptr, 0);
}

bool ChildProcess::finished() {
  if (id_ == 0) return true;
  int status = 0;
  const pid_t ended = waitpid(id_, &status, WNOHANG);
  if (ended == 0) return false;
  id_ = 0;
  require(ended > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0, "{}",
          WIFSIGNALED(status) ? std::string("ended by ") + strsignal(WTERMSIG(status)) : last_line(outputs_));
  return true;
}

}  // namespace heed::cli
