// The header of a safetensors file, read as if an enemy had written it.
#include <algorithm>
#include <optional>

#include "heed/error.h"
#include "heed/formats/json_file.h"
#include "heed/formats/safetensors.h"

namespace heed::formats {
namespace {

constexpr std::string_view kMetadata = "__metadata__";

uint64_t read_u64(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | std::to_integer<uint64_t>(bytes[static_cast<size_t>(i)]);
  return value;
}

// Everything that is said of one tensor, with what a message needs to name it.
struct Entry {
  std::string_view source, name;
  const nlohmann::json& fields;

  const nlohmann::json& field(const char* key) const {
    const auto found = fields.find(key);
    require(found != fields.end(), "{}: tensor {} has no '{}'", source, quote(name), key);
    return *found;
  }

  TensorType dtype() const {
    const auto& value = field("dtype");
    if (value.is_string()) {
      const auto& text = value.get_ref<const std::string&>();
      const auto found = std::find(kTensorTypeNames.begin(), kTensorTypeNames.end(), text);
      if (found != kTensorTypeNames.end()) return static_cast<TensorType>(found - kTensorTypeNames.begin());
    }
    fail("{}: tensor {} has dtype {}, accepted: F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL", source, quote(name),
         quote_value(value));
  }

  uint64_t whole(const nlohmann::json& value, const char* what) const {
    require(value.is_number_unsigned(), "{}: tensor {} has {} {}, accepted: a whole number from 0 to 2^64 - 1", source,
            quote(name), what, quote_value(value));
    return value.get<uint64_t>();
  }

  std::vector<int64_t> shape() const {
    const auto& value = field("shape");
    require(value.is_array() && value.size() <= kMaxTensorRank,
            "{}: tensor {} has shape {}, accepted: a list of at most {} sizes", source, quote(name), quote_value(value),
            kMaxTensorRank);
    std::vector<int64_t> sizes;
    for (const auto& size : value) {
      const uint64_t n = whole(size, "a size of");
      require(n <= INT64_MAX, "{}: tensor {} has a size of {}, accepted: 0 to 2^63 - 1", source, quote(name), n);
      sizes.push_back(static_cast<int64_t>(n));
    }
    return sizes;
  }
};

// Bytes of a dense tensor, or nothing when the product leaves 64 bits. A size of 0 makes any product 0.
std::optional<uint64_t> byte_count(const TensorInfo& info) {
  if (std::find(info.shape.begin(), info.shape.end(), 0) != info.shape.end()) return 0;
  uint64_t count = size_of(info.dtype);
  for (const int64_t size : info.shape) {
    if (__builtin_mul_overflow(count, static_cast<uint64_t>(size), &count)) return std::nullopt;
  }
  return count;
}

TensorInfo read_tensor(const Entry& entry, uint64_t data_bytes) {
  require(entry.fields.is_object(), "{}: tensor {} is {}, accepted: an object with dtype, shape and data_offsets",
          entry.source, quote(entry.name), quote_value(entry.fields));
  for (const auto& [key, value] : entry.fields.items()) {
    require(key == "dtype" || key == "shape" || key == "data_offsets",
            "{}: tensor {} has a field {}, accepted: dtype, shape, data_offsets", entry.source, quote(entry.name),
            quote(key));
  }
  TensorInfo info;
  info.dtype = entry.dtype();
  info.shape = entry.shape();
  const auto& offsets = entry.field("data_offsets");
  require(offsets.is_array() && offsets.size() == 2, "{}: tensor {} has data_offsets {}, accepted: [begin, end]",
          entry.source, quote(entry.name), quote_value(offsets));
  info.begin = entry.whole(offsets[0], "an offset of");
  info.end = entry.whole(offsets[1], "an offset of");
  require(info.begin <= info.end && info.end <= data_bytes,
          "{}: tensor {} has data_offsets [{}, {}], accepted: begin <= end <= {}, the bytes after the header",
          entry.source, quote(entry.name), info.begin, info.end, data_bytes);
  const auto expected = byte_count(info);
  require(expected.has_value(), "{}: tensor {} has shape {}, whose product leaves 64 bits", entry.source,
          quote(entry.name), quote_value(entry.field("shape")));
  require(*expected == info.bytes(),
          "{}: tensor {} of dtype {} and shape {} takes {} bytes, but data_offsets [{}, {}] hold {}", entry.source,
          quote(entry.name), name_of(info.dtype), quote_value(entry.field("shape")), *expected, info.begin, info.end,
          info.bytes());
  return info;
}

void read_metadata(const nlohmann::json& value, std::string_view source, SafetensorsHeader& header) {
  require(value.is_object(), "{}: __metadata__ is {}, accepted: an object of strings", source, quote_value(value));
  for (const auto& [key, text] : value.items()) {
    require(text.is_string(), "{}: __metadata__ {} is {}, accepted: a string", source, quote(key), quote_value(text));
    header.metadata.emplace(key, text.get_ref<const std::string&>());
  }
}

// Every byte of the data belongs to exactly one tensor, so nothing can hide between them or be counted twice.
void check_layout(const SafetensorsHeader& header, uint64_t data_bytes, std::string_view source) {
  std::vector<const TensorTable::value_type*> order;
  for (const auto& item : header.tensors) order.push_back(&item);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  uint64_t reached = 0;
  for (const auto* item : order) {
    require(item->second.begin >= reached, "{}: tensor {} begins at {}, inside the tensor before it, which ends at {}",
            source, quote(item->first), item->second.begin, reached);
    require(item->second.begin == reached, "{}: tensor {} begins at {}, which leaves a hole from {}; holes are refused",
            source, quote(item->first), item->second.begin, reached);
    reached = item->second.end;
  }
  require(reached == data_bytes, "{}: the tensors end at {}, but {} bytes follow the header; they must be all used",
          source, reached, data_bytes);
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, std::string_view source) {
  require(file.size() >= 8, "{}: {} bytes, but a safetensors file has at least the 8 of its header's length", source,
          file.size());
  const uint64_t length = read_u64(file.first(8));
  require(length <= file.size() - 8 && length <= kMaxSafetensorsHeader,
          "{}: the header's length is given as {}, accepted: at most {} (the rest of the file) and {}", source, length,
          file.size() - 8, kMaxSafetensorsHeader);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, length);
  require(!text.empty() && text.front() == '{', "{}: the header does not begin with '{{': no safetensors file", source);

  const nlohmann::json json = parse_json(text, source);
  SafetensorsHeader header;
  header.data_start = 8 + length;
  const uint64_t data_bytes = file.size() - header.data_start;
  for (const auto& [name, value] : json.items()) {
    if (name == kMetadata) {
      read_metadata(value, source, header);
    } else {
      header.tensors.emplace(name, read_tensor({source, name, value}, data_bytes));
    }
  }
  check_layout(header, data_bytes, source);
  return header;
}

}  // namespace heed::formats
