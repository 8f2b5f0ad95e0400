// Files and directories that appear whole or not at all: written beside under a temporary name, flushed to the disk,
// renamed.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace heed::formats {

/// A file that replaces `path` when `commit` is called, and leaves no trace when it is not.
///
/// A symbolic link is followed, so the file it names is the one replaced. A target that is no regular file (a pipe,
/// /dev/stdout) cannot be renamed over and is written directly. Throws heed::Error naming the path and the system's
/// reason.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// Flushes to the disk and renames. At most once; nothing may be written afterwards.
  void commit();

 private:
  std::filesystem::path target_, temporary_;  // temporary_ is empty when the target is written directly
  int descriptor_ = -1;
};

/// Replaces the file at `path` by `contents`, whole or not at all.
void write_file(const std::filesystem::path& path, std::string_view contents);

/// Throws heed::Error where no file could be written at `path`, or none into a directory there, which need not exist
/// yet. Leaves nothing behind.
void check_writable(const std::filesystem::path& path);
void check_writable_directory(const std::filesystem::path& path);

/// A directory of files that appears under `path` when `commit` is called: fill `staging()`, which lies beside it.
///
/// An existing directory is replaced only if every entry it holds is also in the new one; otherwise the constructor's
/// caller could lose files that are none of a checkpoint's business, so `commit` throws and names the entry.
/// Where the system can exchange two directories in one step (Linux), there is no moment without a complete one.
class AtomicDirectory {
 public:
  explicit AtomicDirectory(const std::filesystem::path& path);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  const std::filesystem::path& staging() const { return staging_; }
  void commit();

 private:
  std::filesystem::path target_, staging_;
};

}  // namespace heed::formats
