// GGUF: the one-file format of llama.cpp, with metadata and quantised tensors. Versions 2 and 3, little-endian.
//
// Layout: "GGUF", version, number of tensors, number of metadata values; the metadata, each a key, a type and a value;
// a table of tensors with sizes, type and offset; then, aligned, the data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "heed/formats/mapped_file.h"

namespace heed::formats {

/// How a tensor's values are stored, by the number in the file. Quantised types hold rows in blocks: of 32 values
/// (q8_0, q4_0) or of 256 (q4_k, q6_k).
enum class GgufType : uint32_t { f32 = 0, f16 = 1, q4_0 = 2, q8_0 = 8, q4_k = 12, q6_k = 14, bf16 = 30 };

std::string_view name_of(GgufType type);
/// Values of a block, and its bytes.
int64_t block_values(GgufType type);
int64_t block_bytes(GgufType type);

struct GgufTensor {
  GgufType type = GgufType::f32;
  std::vector<int64_t> shape;     ///< the last size varies fastest: the reverse of the file's order
  int64_t elements = 0;           ///< product of shape
  uint64_t begin = 0, bytes = 0;  ///< from the start of the data
};

using GgufTable = std::map<std::string, GgufTensor, std::less<>>;

/// A checked header: every tensor lies in the file, has the bytes of its shape, and overlaps no other.
struct GgufHeader {
  uint32_t version = 3;
  /// Keys to values: numbers, booleans, strings (bytes as they stand) and lists of one kind.
  std::map<std::string, nlohmann::json, std::less<>> metadata;
  GgufTable tensors;
  uint64_t data_start = 0;
};

/// Throws heed::Error, one line that begins with `source` and names what is wrong and what is accepted.
GgufHeader parse_gguf_header(std::span<const std::byte> file, std::string_view source);

/// Values of whole blocks as float32, rounded as llama.cpp's own Python package rounds them. `out` holds the values of
/// all blocks of `blocks`.
void dequantize(GgufType type, std::span<const std::byte> blocks, std::span<float> out);

/// A file mapped into memory; tensors are read when they are touched.
class GgufFile {
 public:
  /// A file that is one part of several ("split.count") is refused.
  static GgufFile open(const std::filesystem::path& path);

  uint32_t version() const { return header_.version; }
  const std::filesystem::path& path() const { return path_; }

  const GgufTable& tensors() const { return header_.tensors; }
  /// Throws heed::Error for a name that the file does not hold.
  const GgufTensor& info(std::string_view name) const;
  /// As stored, valid while this object lives.
  std::span<const std::byte> bytes(std::string_view name) const;
  /// All values in row-major order of `shape`; `out` has exactly `elements`.
  void dequantize(std::string_view name, std::span<float> out) const;

  const std::map<std::string, nlohmann::json, std::less<>>& metadata() const { return header_.metadata; }
  /// Null when there is no such key.
  const nlohmann::json* find(std::string_view key) const;
  /// Absent when there is no such key; heed::Error when its value is of another kind.
  std::optional<int64_t> whole(std::string_view key) const;
  std::optional<double> real(std::string_view key) const;
  std::optional<bool> flag(std::string_view key) const;
  std::optional<std::string> text(std::string_view key) const;

 private:
  GgufFile(std::filesystem::path path, MappedFile file, GgufHeader header)
      : path_(std::move(path)), file_(std::move(file)), header_(std::move(header)) {}
  [[noreturn]] void wrong(std::string_view key, std::string_view accepted) const;

  std::filesystem::path path_;
  MappedFile file_;
  GgufHeader header_;
};

}  // namespace heed::formats
