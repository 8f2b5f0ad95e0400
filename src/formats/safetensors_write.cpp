#include <algorithm>
#include <bit>
#include <set>

#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "heed/formats/json_file.h"
#include "heed/formats/safetensors.h"

namespace heed::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are written as they lie in memory");

uint64_t checked_bytes(const TensorToWrite& tensor, const std::string& file) {
  require(tensor.shape.size() <= kMaxTensorRank, "{}: tensor {} has {} dimensions, accepted: at most {}", file,
          quote(tensor.name), tensor.shape.size(), kMaxTensorRank);
  uint64_t count = size_of(tensor.dtype);
  bool fits = true, empty = false;
  for (const int64_t size : tensor.shape) {
    require(size >= 0, "{}: tensor {} has a size of {}, accepted: 0 or more", file, quote(tensor.name), size);
    empty |= size == 0;
    fits &= !__builtin_mul_overflow(count, static_cast<uint64_t>(size), &count);
  }
  if (empty) count = 0;
  require((fits || empty) && count == tensor.bytes.size(), "{}: tensor {} of dtype {} and shape [{}] is given {} bytes",
          file, quote(tensor.name), name_of(tensor.dtype), fmt::join(tensor.shape, ", "), tensor.bytes.size());
  return count;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::vector<TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata) {
  const std::string file = path.string();
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
  });
  std::string text;
  uint64_t end = 0;
  std::set<std::string_view> names;
  try {
    if (!metadata.empty()) text = "\"__metadata__\":" + nlohmann::json(metadata).dump();
    for (const auto& tensor : tensors) {
      const uint64_t begin = end;
      end += checked_bytes(tensor, file);
      require(tensor.name != "__metadata__", "{}: no tensor may be called '__metadata__'", file);
      require(names.insert(tensor.name).second, "{}: two tensors are called {}", file, quote(tensor.name));
      text += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", text.empty() ? "" : ",",
                          nlohmann::json(tensor.name).dump(), name_of(tensor.dtype), fmt::join(tensor.shape, ","),
                          begin, end);
    }
  } catch (const nlohmann::json::exception&) {
    fail("{}: a tensor's name or metadata is not UTF-8", file);
  }
  text = "{" + text + "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  require(text.size() <= kMaxSafetensorsHeader, "{}: the header would take {} bytes, accepted: at most {}", file,
          text.size(), kMaxSafetensorsHeader);

  const uint64_t length = text.size();
  AtomicFile out(path);
  out.write(std::as_bytes(std::span(&length, 1)));
  out.write(text);
  for (const auto& tensor : tensors) out.write(tensor.bytes);
  out.commit();
}

}  // namespace heed::formats
