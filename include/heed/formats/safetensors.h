// safetensors: named tensors in one file, or in several with an index. Reads files from strangers; writes what Python's
// `safetensors` writes, byte for byte.
//
// Layout: eight bytes, the little-endian length of the header; the header, a JSON object from tensor names to dtype,
// shape and the pair of byte offsets, with string pairs under "__metadata__"; then the data, row-major and
// little-endian, with neither holes nor overlaps.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "heed/formats/mapped_file.h"

namespace heed::formats {

/// Element types, in the order in which a file holds them last to first: by alignment, then as Python's package ranks
/// them.
enum class TensorType : uint8_t { boolean, u8, i8, i16, f16, bf16, i32, f32, f64, i64 };

inline constexpr std::array<std::string_view, 10> kTensorTypeNames = {"BOOL", "U8",  "I8",  "I16", "F16",
                                                                      "BF16", "I32", "F32", "F64", "I64"};
constexpr std::string_view name_of(TensorType type) { return kTensorTypeNames[static_cast<size_t>(type)]; }
constexpr size_t size_of(TensorType type) {
  constexpr std::array<size_t, 10> kSizes = {1, 1, 1, 2, 2, 2, 4, 4, 8, 8};
  return kSizes[static_cast<size_t>(type)];
}

/// What the header says of one tensor; `begin` and `end` count bytes from the start of the data, after the header.
struct TensorInfo {
  TensorType dtype = TensorType::f32;
  std::vector<int64_t> shape;  ///< empty for a single number; a size may be 0
  uint64_t begin = 0, end = 0;

  uint64_t bytes() const { return end - begin; }
};

using TensorTable = std::map<std::string, TensorInfo, std::less<>>;

/// Longest header that is read, as in Python's package.
inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;
/// Most dimensions of a tensor that is read or written.
inline constexpr size_t kMaxTensorRank = 64;

/// A checked header: every offset lies in the file, every tensor has exactly the bytes of its shape.
struct SafetensorsHeader {
  TensorTable tensors;
  std::map<std::string, std::string, std::less<>> metadata;
  uint64_t data_start = 0;  ///< where the data starts in the file
};

/// Reads and checks the header of the file whose bytes are given. Throws heed::Error with one line that begins with
/// `source` and names the tensor, the value and what is accepted.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, std::string_view source);

/// One file, mapped into memory; tensors are read when they are touched.
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::filesystem::path& path);

  const TensorTable& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string, std::less<>>& metadata() const { return header_.metadata; }
  /// Throws heed::Error for a name the file does not hold.
  const TensorInfo& info(std::string_view name) const;
  /// The bytes of a tensor, valid while this object lives. They need not be aligned to their type: the format leaves
  /// the header any length.
  std::span<const std::byte> bytes(std::string_view name) const;
  const std::filesystem::path& path() const { return path_; }

 private:
  SafetensorsFile(std::filesystem::path path, MappedFile file, SafetensorsHeader header)
      : path_(std::move(path)), file_(std::move(file)), header_(std::move(header)) {}

  std::filesystem::path path_;
  MappedFile file_;
  SafetensorsHeader header_;
};

/// The file that each tensor lies in, by a model.safetensors.index.json. Throws heed::Error, which begins with
/// `source`, unless every one is a plain name of what may be a shard.
std::map<std::string, std::string, std::less<>> parse_safetensors_index(const nlohmann::json& json,
                                                                        std::string_view source);

/// The tensors of a checkpoint, wherever they lie: a .safetensors file, a model.safetensors.index.json with its shards,
/// or a directory that holds model.safetensors or, failing that, the index. Of a shard's tensors the index decides
/// which count.
class SafetensorsCheckpoint {
 public:
  static SafetensorsCheckpoint open(const std::filesystem::path& path);

  /// Offsets count inside the tensor's own file.
  const TensorTable& tensors() const { return tensors_; }
  const TensorInfo& info(std::string_view name) const;
  std::span<const std::byte> bytes(std::string_view name) const;
  size_t file_count() const { return files_.size(); }

 private:
  void read_index(const std::filesystem::path& index);

  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;
  TensorTable tensors_;
  std::map<std::string, size_t, std::less<>> file_of_;
};

/// A tensor to be written: dense, row-major; `bytes` must hold exactly the product of `shape` elements.
struct TensorToWrite {
  std::string name;
  TensorType dtype = TensorType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

/// Writes beside, flushes, renames: a reader sees the old file or the new one. Tensors are ordered by descending type,
/// then by name, so equal content gives equal files; the header is padded to a multiple of 8, so every tensor is
/// aligned.
void write_safetensors(const std::filesystem::path& path, std::vector<TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace heed::formats
