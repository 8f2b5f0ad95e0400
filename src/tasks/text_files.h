// Finding and reading text files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace heed::tasks {

/// A file to be read and the name it is known by: its path inside the given folder, without .gz or .dz.
struct TextFile {
  std::filesystem::path path;
  std::string name;
};

/// The regular files among `inputs` and below those that are folders, sorted by name. Below a folder, names that begin
/// with a dot and symbolic links are passed over. Throws heed::Error for an input that does not exist.
std::vector<TextFile> find_files(const std::vector<std::filesystem::path>& inputs);

/// The bytes of a file, decompressed if it is a gzip (.gz, .dz). Throws heed::Error for a damaged one or more than
/// `max_bytes`.
std::string read_maybe_gzip(const std::filesystem::path& path, size_t max_bytes);

/// Whether the bytes are text: no NUL, and hardly a control character, among the first 64 KiB.
bool is_text(std::string_view bytes);

}  // namespace heed::tasks
