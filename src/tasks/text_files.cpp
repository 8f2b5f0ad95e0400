#include "tasks/text_files.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "heed/error.h"

namespace heed::tasks {
namespace fs = std::filesystem;
namespace {

std::string name_without_compression(std::string name) {
  for (const std::string_view suffix : {".gz", ".dz"}) {
    if (name.size() > suffix.size() && name.ends_with(suffix)) name.resize(name.size() - suffix.size());
  }
  return name;
}

void find_below(const fs::path& folder, std::vector<TextFile>& files) {
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, fs::directory_options::skip_permission_denied, error), end;
  require(!error, "cannot read the folder '{}': {}", folder.string(), error.message());
  for (; entry != end; entry.increment(error)) {
    require(!error, "cannot read the folder '{}': {}", folder.string(), error.message());
    const bool hidden = entry->path().filename().string().starts_with('.');
    if (hidden || entry->is_symlink()) {
      entry.disable_recursion_pending();
    } else if (entry->is_regular_file(error)) {
      files.push_back(
          {entry->path(), name_without_compression(entry->path().lexically_relative(folder).generic_string())});
    }
  }
}

}  // namespace

std::vector<TextFile> find_files(const std::vector<fs::path>& inputs) {
  std::vector<TextFile> files;
  for (const auto& input : inputs) {
    std::error_code error;
    const auto status = fs::status(input, error);
    require(fs::exists(status), "'{}' does not exist; accepted: text files and folders of them", input.string());
    if (fs::is_directory(status)) {
      find_below(input, files);
    } else {
      files.push_back({input, name_without_compression(input.filename().string())});
    }
  }
  std::sort(files.begin(), files.end(),
            [](const TextFile& a, const TextFile& b) { return std::tie(a.name, a.path) < std::tie(b.name, b.path); });
  return files;
}

std::string read_maybe_gzip(const fs::path& path, size_t max_bytes) {
  // gzread passes what is no gzip through unchanged.
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(::gzopen(path.c_str(), "rbe"), ::gzclose);
  require(file != nullptr, "cannot open '{}': {}", path.string(), std::strerror(errno));
  std::string text;
  std::string buffer(size_t{1} << 18, '\0');
  for (;;) {
    const int count = ::gzread(file.get(), buffer.data(), static_cast<unsigned>(buffer.size()));
    if (count <= 0) {
      int code = Z_OK;
      const char* message = ::gzerror(file.get(), &code);
      require(count == 0 && (code == Z_OK || code == Z_STREAM_END), "cannot read '{}': {}", path.string(),
              code == Z_ERRNO ? std::strerror(errno) : message);
      return text;
    }
    require(text.size() + static_cast<size_t>(count) <= max_bytes, "'{}' holds more than the accepted {} bytes",
            path.string(), max_bytes);
    text.append(buffer, 0, static_cast<size_t>(count));
  }
}

bool is_text(std::string_view bytes) {
  const auto sample = bytes.substr(0, 64 * 1024);
  size_t control = 0;
  for (const char c : sample) {
    if (c == 0) return false;
    control += static_cast<unsigned char>(c) < 0x20 && std::strchr("\t\n\r\f\b\x1b", c) == nullptr;
  }
  return control * 100 <= sample.size();
}

}  // namespace heed::tasks
