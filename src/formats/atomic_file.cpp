#include "heed/formats/atomic_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "heed/error.h"

namespace heed::formats {
namespace fs = std::filesystem;
namespace {

std::string reason() { return std::strerror(errno); }

// A name beside `target` that no other process or thread uses at the same time.
fs::path beside(const fs::path& target) {
  static std::atomic<unsigned> counter{0};
  return target.parent_path() /
         fmt::format(".{}.heed-{}-{}", target.filename().string(), ::getpid(), counter.fetch_add(1));
}

fs::path absolute_target(const fs::path& path) {
  require(!path.empty(), "cannot write to a file without a name");
  std::error_code ignored;
  fs::path target = fs::is_symlink(path, ignored) ? fs::weakly_canonical(path, ignored) : fs::absolute(path, ignored);
  if (target.filename().empty()) target = target.parent_path();  // a trailing slash
  const fs::path folder = target.parent_path();
  require(fs::is_directory(folder, ignored), "cannot write '{}': there is no directory '{}'", path.string(),
          folder.string());
  return target;
}

// A rename survives a crash only once the directory that holds the name is on the disk as well. Some file systems
// refuse to flush directories; the rename itself has happened by then, so that is no failure.
void flush_directory(const fs::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

void flush_file(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(descriptor >= 0, "cannot open '{}' to flush it: {}", path.string(), reason());
  const int failed = ::fsync(descriptor);
  const std::string why = reason();
  ::close(descriptor);
  require(failed == 0, "cannot flush '{}' to the disk: {}", path.string(), why);
}

}  // namespace

AtomicFile::AtomicFile(const fs::path& path) : target_(absolute_target(path)) {
  struct stat info {};
  const bool exists = ::stat(target_.c_str(), &info) == 0;
  require(!exists || !S_ISDIR(info.st_mode), "cannot write '{}': it is a directory", target_.string());
  if (exists && !S_ISREG(info.st_mode)) {
    descriptor_ = ::open(target_.c_str(), O_WRONLY | O_CLOEXEC);
  } else {
    temporary_ = beside(target_);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor_ >= 0 && exists) (void)::fchmod(descriptor_, info.st_mode & 07777);
  }
  require(descriptor_ >= 0, "cannot write '{}': {}", target_.string(), reason());
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  require(descriptor_ >= 0, "cannot write '{}': it is already committed", target_.string());
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    require(written >= 0, "cannot write '{}': {}", target_.string(), reason());
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void AtomicFile::commit() {
  require(descriptor_ >= 0, "cannot commit '{}' twice", target_.string());
  if (temporary_.empty()) {
    ::close(descriptor_);
    descriptor_ = -1;
    return;
  }
  require(::fsync(descriptor_) == 0, "cannot flush '{}' to the disk: {}", target_.string(), reason());
  require(::rename(temporary_.c_str(), target_.c_str()) == 0, "cannot rename to '{}': {}", target_.string(), reason());
  ::close(descriptor_);
  descriptor_ = -1;
  flush_directory(target_.parent_path());
}

void write_file(const fs::path& path, std::string_view contents) {
  AtomicFile file(path);
  file.write(contents);
  file.commit();
}

void check_writable(const fs::path& path) {
  const fs::path target = absolute_target(path);
  struct stat info {};
  // A pipe's reader would take an opening that is closed again for the end.
  if (::stat(target.c_str(), &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode))
    require(::access(target.c_str(), W_OK) == 0, "cannot write '{}': {}", target.string(), reason());
  else
    AtomicFile(target).write(std::string_view());
}

void check_writable_directory(const fs::path& path) {
  require(!path.empty(), "cannot write to a directory without a name");
  std::error_code ignored;
  fs::path folder = fs::absolute(path, ignored);
  while (!fs::exists(fs::symlink_status(folder, ignored)) && folder.has_relative_path()) folder = folder.parent_path();
  require(fs::is_directory(folder, ignored), "cannot write the directory '{}': '{}' is none", path.string(),
          folder.string());
  AtomicFile(folder / ".heed-check").write(std::string_view());
}

AtomicDirectory::AtomicDirectory(const fs::path& path) : target_(absolute_target(path)) {
  std::error_code error;
  require(!fs::exists(target_, error) || fs::is_directory(target_, error),
          "cannot write the directory '{}': a file of that name exists", target_.string());
  staging_ = beside(target_);
  fs::remove_all(staging_, error);
  require(::mkdir(staging_.c_str(), 0777) == 0, "cannot make a directory beside '{}': {}", target_.string(), reason());
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!staging_.empty()) fs::remove_all(staging_, ignored);
}

void AtomicDirectory::commit() {
  require(!staging_.empty(), "cannot commit '{}' twice", target_.string());
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(staging_)) {
    if (entry.is_regular_file()) flush_file(entry.path());
  }
  flush_directory(staging_);
  if (!fs::exists(target_, error)) {
    require(::rename(staging_.c_str(), target_.c_str()) == 0, "cannot rename to '{}': {}", target_.string(), reason());
    staging_.clear();
  } else {
    for (const auto& entry : fs::directory_iterator(target_)) {
      require(
          fs::exists(staging_ / entry.path().filename(), error),
          "cannot replace '{}': it holds '{}', which the new one does not; move it away or choose another directory",
          target_.string(), entry.path().filename().string());
    }
    // After the exchange staging_ names the old directory, which the last line removes.
    if (::renameat2(AT_FDCWD, staging_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) != 0) {
      const fs::path old = beside(target_);
      require(::rename(target_.c_str(), old.c_str()) == 0, "cannot move '{}' away: {}", target_.string(), reason());
      if (::rename(staging_.c_str(), target_.c_str()) != 0) {
        const std::string why = reason();
        (void)::rename(old.c_str(), target_.c_str());
        fail("cannot rename to '{}': {}", target_.string(), why);
      }
      staging_ = old;
    }
    fs::remove_all(staging_, error);
    staging_.clear();
  }
  flush_directory(target_.parent_path());
}

}  // namespace heed::formats
