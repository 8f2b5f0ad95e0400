// Blocks to float32. Products are rounded before they are added (-ffp-contract=off), so every machine gives the same.
#include <bit>
#include <cstring>

#include "heed/error.h"
#include "heed/formats/gguf.h"

namespace heed::formats {
namespace {

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

float half(const std::byte* at) {
  const auto bits = load<uint16_t>(at);
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, exponent = bits >> 10 & 0x1f,
                 fraction = bits & 0x3ff;
  if (exponent == 0) {
    const float value = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -value : value;
  }
  const uint32_t widened = exponent == 0x1f ? 0xff : exponent + 112;
  return std::bit_cast<float>(sign | widened << 23 | fraction << 13);
}

float brain(const std::byte* at) { return std::bit_cast<float>(static_cast<uint32_t>(load<uint16_t>(at)) << 16); }

unsigned byte(const std::byte* at, int64_t i) { return std::to_integer<unsigned>(at[i]); }

void q8_0(const std::byte* block, float* out) {
  const float scale = half(block);
  for (int64_t i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<int8_t>(byte(block + 2, i))) * scale;
}

// The low halves of the bytes come first.
void q4_0(const std::byte* block, float* out) {
  const float scale = half(block);
  for (int64_t i = 0; i < 16; ++i) {
    out[i] = static_cast<float>(static_cast<int>(byte(block + 2, i) & 0xf) - 8) * scale;
    out[i + 16] = static_cast<float>(static_cast<int>(byte(block + 2, i) >> 4) - 8) * scale;
  }
}

// Eight rows of 32 with a scale and a minimum of six bits each, which 12 bytes hold: the low six bits of the first
// four, of their minima, and four bits of both for the last four, whose upper two lie above the former.
void q4_k(const std::byte* block, float* out) {
  const float scale = half(block), minimum = half(block + 2);
  const std::byte* packed = block + 4;
  for (int64_t row = 0; row < 8; ++row) {
    const int64_t i = row % 4;
    const unsigned low = byte(packed, i), middle = byte(packed, i + 4), high = byte(packed, i + 8);
    const unsigned s = row < 4 ? low & 0x3f : (high & 0xf) | (low >> 2 & 0x30);
    const unsigned m = row < 4 ? middle & 0x3f : high >> 4 | (middle >> 2 & 0x30);
    const float row_scale = scale * static_cast<float>(s), row_minimum = minimum * static_cast<float>(m);
    const std::byte* quants = block + 16 + row / 2 * 32;
    for (int64_t k = 0; k < 32; ++k) {
      const unsigned q = row % 2 == 0 ? byte(quants, k) & 0xf : byte(quants, k) >> 4;
      out[32 * row + k] = row_scale * static_cast<float>(q) - row_minimum;
    }
  }
}

// Each half of 128 values: four low bits from 64 bytes, two high bits from 32; a scale of eight bits for 16 values.
void q6_k(const std::byte* block, float* out) {
  const float scale = half(block + 208);
  for (int64_t row = 0; row < 8; ++row) {
    const int64_t part = row / 4, in_part = row % 4;
    const std::byte* low = block + 64 * part + 32 * (in_part % 2);
    const std::byte* high = block + 128 + 32 * part;
    for (int64_t k = 0; k < 32; ++k) {
      const unsigned bits =
          (in_part < 2 ? byte(low, k) & 0xf : byte(low, k) >> 4) | (byte(high, k) >> (2 * in_part) & 3) << 4;
      const auto row_scale = static_cast<int8_t>(byte(block + 192, 2 * row + k / 16));
      out[32 * row + k] = scale * static_cast<float>(row_scale) * static_cast<float>(static_cast<int>(bits) - 32);
    }
  }
}

}  // namespace

void dequantize(GgufType type, std::span<const std::byte> blocks, std::span<float> out) {
  const auto values = static_cast<size_t>(block_values(type)), bytes = static_cast<size_t>(block_bytes(type));
  require(out.size() % values == 0 && blocks.size() == out.size() / values * bytes,
          "{} bytes of {} are no {} values: a block has {} bytes for {} values", blocks.size(), name_of(type),
          out.size(), bytes, values);
  const std::byte* block = blocks.data();
  if (type == GgufType::f32) {
    if (!out.empty()) std::memcpy(out.data(), block, blocks.size());
    return;
  }
  for (size_t i = 0; i < out.size(); i += values, block += bytes) {
    float* at = out.data() + i;
    if (type == GgufType::f16) *at = half(block);
    if (type == GgufType::bf16) *at = brain(block);
    if (type == GgufType::q8_0) q8_0(block, at);
    if (type == GgufType::q4_0) q4_0(block, at);
    if (type == GgufType::q4_k) q4_k(block, at);
    if (type == GgufType::q6_k) q6_k(block, at);
  }
}

}  // namespace heed::formats
