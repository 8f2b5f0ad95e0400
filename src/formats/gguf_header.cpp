#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "heed/error.h"
#include "heed/formats/gguf.h"
#include "heed/formats/json_file.h"

namespace heed::formats {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxKeyBytes = 65535, kMaxNameBytes = 1024, kMaxTensors = 1 << 20, kMaxDimensions = 4;
/// Most metadata values, those of lists counted one by one: vocabularies hold half a million tokens and merges.
constexpr uint64_t kMaxValues = 1 << 22;
constexpr int kMaxListDepth = 4;
constexpr uint64_t kMaxAlignment = 1 << 20;

struct TypeInfo {
  GgufType type;
  std::string_view name;
  int64_t values, bytes;
};
constexpr std::array<TypeInfo, 7> kTypes = {{{GgufType::f32, "F32", 1, 4},
                                             {GgufType::f16, "F16", 1, 2},
                                             {GgufType::bf16, "BF16", 1, 2},
                                             {GgufType::q8_0, "Q8_0", 32, 34},
                                             {GgufType::q4_0, "Q4_0", 32, 18},
                                             {GgufType::q4_k, "Q4_K", 256, 144},
                                             {GgufType::q6_k, "Q6_K", 256, 210}}};

const TypeInfo* find_type(uint32_t type) {
  for (const auto& known : kTypes) {
    if (static_cast<uint32_t>(known.type) == type) return &known;
  }
  return nullptr;
}

enum class Kind : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, list, u64, i64, f64 };
constexpr uint32_t kKinds = 13;
/// The fewest bytes that a value takes.
constexpr std::array<uint64_t, kKinds> kLeastBytes = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

// Reads values one behind the other, none beyond the end.
class Reader {
 public:
  Reader(std::span<const std::byte> file, std::string_view source) : file_(file), source_(source) {}

  size_t at() const { return at_; }
  uint64_t left() const { return file_.size() - at_; }

  template <class T>
  T number(std::string_view what) {
    static_assert(std::endian::native == std::endian::little);
    T value;
    std::memcpy(&value, take(sizeof(T), what), sizeof(T));
    return value;
  }

  std::string text(std::string_view what, uint64_t most) {
    const auto length = number<uint64_t>(what);
    require(length <= left() && length <= most, "{}: {} has {} bytes, accepted: at most {}", source_, what, length,
            std::min(most, left()));
    return {reinterpret_cast<const char*>(take(length, what)), length};
  }

  Json value(uint32_t kind, const std::string& key, int depth = 0) {
    require(++values_ <= kMaxValues, "{}: more than {} metadata values", source_, kMaxValues);
    require(kind < kKinds, "{}: metadata {} has the type {}, accepted: 0 to {}", source_, quote(key), kind, kKinds - 1);
    switch (static_cast<Kind>(kind)) {
      case Kind::u8:
        return number<uint8_t>(key);
      case Kind::i8:
        return number<int8_t>(key);
      case Kind::u16:
        return number<uint16_t>(key);
      case Kind::i16:
        return number<int16_t>(key);
      case Kind::u32:
        return number<uint32_t>(key);
      case Kind::i32:
        return number<int32_t>(key);
      case Kind::u64:
        return number<uint64_t>(key);
      case Kind::i64:
        return number<int64_t>(key);
      case Kind::f32:
        return number<float>(key);
      case Kind::f64:
        return number<double>(key);
      case Kind::boolean: {
        const auto flag = number<uint8_t>(key);
        require(flag <= 1, "{}: metadata {} is {}, accepted: 0 or 1", source_, quote(key), flag);
        return flag == 1;
      }
      case Kind::string:
        return text("metadata " + quote(key), file_.size());
      case Kind::list:
        return list(key, depth + 1);
    }
    return nullptr;
  }

 private:
  Json list(const std::string& key, int depth) {
    require(depth <= kMaxListDepth, "{}: metadata {} has lists nested deeper than {}", source_, quote(key),
            kMaxListDepth);
    const auto kind = number<uint32_t>(key);
    const auto count = number<uint64_t>(key);
    require(kind < kKinds, "{}: metadata {} has the type {}, accepted: 0 to {}", source_, quote(key), kind, kKinds - 1);
    const uint64_t most = std::min(left() / kLeastBytes[kind], kMaxValues);
    require(count <= most, "{}: metadata {} has {} values, accepted: at most {}", source_, quote(key), count, most);
    Json list = Json::array();
    for (uint64_t i = 0; i < count; ++i) list.push_back(value(kind, key, depth));
    return list;
  }

  const std::byte* take(uint64_t bytes, std::string_view what) {
    require(bytes <= left(), "{}: the file ends at byte {} inside {}", source_, file_.size(), quote(what));
    const std::byte* data = file_.data() + at_;
    at_ += bytes;
    return data;
  }

  std::span<const std::byte> file_;
  std::string_view source_;
  size_t at_ = 0;
  uint64_t values_ = 0;
};

GgufTensor read_tensor(Reader& reader, std::string_view source, const std::string& name) {
  GgufTensor tensor;
  const auto dimensions = reader.number<uint32_t>("the table of tensors");
  require(dimensions <= kMaxDimensions, "{}: tensor {} has {} dimensions, accepted: at most {}", source, quote(name),
          dimensions, kMaxDimensions);
  tensor.elements = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    const auto size = reader.number<uint64_t>("the table of tensors");
    const bool fits =
        size <= INT64_MAX && !__builtin_mul_overflow(tensor.elements, static_cast<int64_t>(size), &tensor.elements);
    require(fits, "{}: tensor {} has a size of {}, more than 64 bits of values", source, quote(name), size);
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
  }
  const auto type = reader.number<uint32_t>("the table of tensors");
  const auto* known = find_type(type);
  require(
      known,
      "{}: tensor {} has the type {}, accepted: F32 (0), F16 (1), Q4_0 (2), Q8_0 (8), Q4_K (12), Q6_K (14), BF16 (30)",
      source, quote(name), type);
  tensor.type = known->type;
  const int64_t row = tensor.shape.empty() ? 1 : tensor.shape.back();
  require(row % known->values == 0, "{}: tensor {} has rows of {} values, accepted for {}: a multiple of {}", source,
          quote(name), row, known->name, known->values);
  const bool fits = !__builtin_mul_overflow(static_cast<uint64_t>(tensor.elements / known->values),
                                            static_cast<uint64_t>(known->bytes), &tensor.bytes);
  require(fits, "{}: tensor {} has {} values, more than 64 bits of bytes", source, quote(name), tensor.elements);
  tensor.begin = reader.number<uint64_t>("the table of tensors");
  return tensor;
}

uint64_t alignment_of(const GgufHeader& header, std::string_view source) {
  const auto found = header.metadata.find("general.alignment");
  if (found == header.metadata.end()) return 32;
  const auto& value = found->second;
  const bool fits =
      value.is_number_integer() && value > 0 && value <= kMaxAlignment && std::has_single_bit(value.get<uint64_t>());
  require(fits, "{}: general.alignment is {}, accepted: a power of two up to {}", source, quote_value(value),
          kMaxAlignment);
  return value.get<uint64_t>();
}

void check_places(const GgufHeader& header, uint64_t data_bytes, uint64_t alignment, std::string_view source) {
  std::vector<const GgufTable::value_type*> order;
  for (const auto& entry : header.tensors) {
    const auto& tensor = entry.second;
    require(tensor.begin % alignment == 0, "{}: tensor {} begins at {}, accepted: a multiple of {}", source,
            quote(entry.first), tensor.begin, alignment);
    require(tensor.begin <= data_bytes && tensor.bytes <= data_bytes - tensor.begin,
            "{}: tensor {} has {} bytes from {}, but the data has {}", source, quote(entry.first), tensor.bytes,
            tensor.begin, data_bytes);
    if (tensor.bytes > 0) order.push_back(&entry);
  }
  std::sort(order.begin(), order.end(), [](auto a, auto b) { return a->second.begin < b->second.begin; });
  for (size_t i = 1; i < order.size(); ++i) {
    const auto& before = order[i - 1]->second;
    require(before.begin + before.bytes <= order[i]->second.begin, "{}: the tensors {} and {} overlap", source,
            quote(order[i - 1]->first), quote(order[i]->first));
  }
}

const TypeInfo& info_of(GgufType type) {
  const auto* known = find_type(static_cast<uint32_t>(type));
  require(known, "{} is no type of GGUF tensors that heed reads", static_cast<uint32_t>(type));
  return *known;
}

}  // namespace

std::string_view name_of(GgufType type) { return info_of(type).name; }
int64_t block_values(GgufType type) { return info_of(type).values; }
int64_t block_bytes(GgufType type) { return info_of(type).bytes; }

GgufHeader parse_gguf_header(std::span<const std::byte> file, std::string_view source) {
  Reader reader(file, source);
  GgufHeader header;
  constexpr uint32_t kMagic = 0x46554747;
  require(file.size() >= 24 && reader.number<uint32_t>("the header") == kMagic,
          "{}: no GGUF file: it does not begin with 'GGUF' and a header of 24 bytes", source);
  header.version = reader.number<uint32_t>("the header");
  require(header.version == 2 || header.version == 3, "{}: GGUF version {}, accepted: 2 and 3, little-endian", source,
          header.version);
  const auto tensors = reader.number<uint64_t>("the header"), values = reader.number<uint64_t>("the header");
  require(tensors <= kMaxTensors, "{}: {} tensors, accepted: at most {}", source, tensors, kMaxTensors);
  require(values <= kMaxValues, "{}: {} metadata values, accepted: at most {}", source, values, kMaxValues);
  for (uint64_t i = 0; i < values; ++i) {
    const auto key = reader.text("a metadata key", kMaxKeyBytes);
    const auto kind = reader.number<uint32_t>("the type of a metadata value");
    require(!header.metadata.contains(key), "{}: the metadata key {} stands twice", source, quote(key));
    header.metadata.emplace(key, reader.value(kind, key));
  }
  for (uint64_t i = 0; i < tensors; ++i) {
    const auto name = reader.text("the name of a tensor", kMaxNameBytes);
    require(!header.tensors.contains(name), "{}: the tensor {} stands twice", source, quote(name));
    header.tensors.emplace(name, read_tensor(reader, source, name));
  }
  const uint64_t alignment = alignment_of(header, source);
  header.data_start = (reader.at() + alignment - 1) / alignment * alignment;
  // A file without tensors may end before the padding.
  const uint64_t data_bytes = header.data_start <= file.size() ? file.size() - header.data_start : 0;
  check_places(header, data_bytes, alignment, source);
  return header;
}

}  // namespace heed::formats
