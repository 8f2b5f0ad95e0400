// What a safetensors file may do to its reader: nothing but a message.
#include <random>

#include "heed/formats/json_file.h"
#include "heed/formats/safetensors.h"
#include "support/test_files.h"

namespace heed::formats::safetensors_hostile_test {
namespace {

SafetensorsHeader parse(std::string_view text) {
  // A copy of exactly the file's size on the heap, so that AddressSanitizer sees any read beyond it.
  const std::vector<char> copy(text.begin(), text.end());
  return parse_safetensors_header(std::as_bytes(std::span(copy)), "bad.safetensors");
}

void refused(std::string_view text, std::string_view expected) {
  const auto message = error_of([&] { parse(text); });
  EXPECT_EQ(message.rfind("bad.safetensors: ", 0), 0u) << message;
  EXPECT_NE(message.find(expected), message.npos) << message << "\nexpected: " << expected;
}

void refused_header(std::string_view header, size_t data_bytes, std::string_view expected) {
  SCOPED_TRACE(std::string(header.substr(0, 200)));
  refused(safetensors_text(header, data_bytes), expected);
}

std::string with_length(std::string text, uint64_t length) {
  for (int i = 0; i < 8; ++i) text[static_cast<size_t>(i)] = static_cast<char>(length >> (8 * i) & 0xff);
  return text;
}

constexpr std::string_view kGood =
    R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"U8","shape":[5],"data_offsets":[24,29]}})";

TEST(SafetensorsHostile, TheGoodFileIsRead) {
  const auto header = parse(safetensors_text(kGood, 29));
  EXPECT_EQ(header.tensors.at("b").begin, 24u);
  EXPECT_EQ(header.data_start, 8 + kGood.size());
}

TEST(SafetensorsHostile, EveryTruncation) {
  const std::string good = safetensors_text(kGood, 29);
  for (size_t size = 0; size < good.size(); ++size) {
    SCOPED_TRACE(size);
    refused(std::string_view(good).substr(0, size), size < 8 ? "bytes" : "");
  }
  refused(good + "x", "bytes follow the header");
}

TEST(SafetensorsHostile, HeaderLengthLies) {
  const std::string good = safetensors_text(kGood, 29);
  for (const uint64_t length : {uint64_t{0}, uint64_t{1}, kGood.size() - 1, kGood.size() + 1, kGood.size() + 29,
                                kGood.size() + 30, uint64_t{1} << 40, UINT64_MAX - 7, UINT64_MAX}) {
    SCOPED_TRACE(length);
    refused(with_length(good, length), "");
  }
  refused(with_length(good, UINT64_MAX), "18446744073709551615");
}

TEST(SafetensorsHostile, HeaderText) {
  refused_header("", 0, "does not begin with '{'");
  refused_header("[]", 0, "does not begin with '{'");
  refused_header(" {}", 0, "does not begin with '{'");
  refused_header("{", 0, "invalid JSON");
  refused_header("{}{}", 0, "invalid JSON");
  refused_header(R"({"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,0]}})", 0, "invalid JSON");
  refused_header("{\"\xff\":{}}", 0, "invalid JSON");
  refused_header(std::string_view("{\0}", 3), 0, "invalid JSON");
  refused_header("{\"a\":" + std::string(100'000, '[') + "}", 0, "nested deeper");
  std::string objects = "{\"a\":";
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  refused_header(objects, 0, "nested deeper");
}

TEST(SafetensorsHostile, NamesAndFields) {
  const std::string one = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  refused_header(R"({"a":)" + one + R"(,"a":)" + one + "}", 0, "'a' stands twice");
  refused_header(R"({"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}})", 0, "'dtype' stands twice");
  refused_header(R"({"a":3})", 0, "tensor 'a' is '3'");
  refused_header(R"({"a":{"shape":[0],"data_offsets":[0,0]}})", 0, "tensor 'a' has no 'dtype'");
  refused_header(R"({"a":{"dtype":"U8","data_offsets":[0,0]}})", 0, "has no 'shape'");
  refused_header(R"({"a":{"dtype":"U8","shape":[0]}})", 0, "has no 'data_offsets'");
  refused_header(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1}})", 0, "has a field 'x'");
  refused_header(R"({"a":{"dtype":"F128","shape":[0],"data_offsets":[0,0]}})", 0, "accepted: F64, F32");
  refused_header(R"({"a":{"dtype":7,"shape":[0],"data_offsets":[0,0]}})", 0, "has dtype '7'");
  refused_header(R"({"__metadata__":3})", 0, "__metadata__ is '3'");
  refused_header(R"({"__metadata__":{"a":3}})", 0, "__metadata__ 'a' is '3'");
  refused_header("{\"new\\nline\\u007f\":3}", 0, "'new\\x0aline\\x7f'");
  refused_header("{\"" + std::string(5000, 'n') + "\":3}", 0, "nnn...'");
}

TEST(SafetensorsHostile, ShapesAndOffsets) {
  const auto tensor = [](std::string_view shape, std::string_view offsets) {
    return fmt::format(R"({{"a":{{"dtype":"F32","shape":{},"data_offsets":{}}}}})", shape, offsets);
  };
  refused_header(tensor("3", "[0,12]"), 12, "has shape '3'");
  refused_header(tensor("[-3]", "[0,12]"), 12, "'-3'");
  refused_header(tensor("[3.0]", "[0,12]"), 12, "'3.0'");
  refused_header(tensor("[\"3\"]", "[0,12]"), 12, "a size of");
  refused_header(tensor("[18446744073709551616]", "[0,12]"), 12, "a size of");
  refused_header(tensor("[9223372036854775808]", "[0,12]"), 12, "2^63 - 1");
  refused_header(tensor("[4294967296,4294967296]", "[0,0]"), 0, "product leaves 64 bits");
  refused_header(tensor("[4611686018427387904,1]", "[0,0]"), 0, "product leaves 64 bits");
  refused_header(tensor("[4]", "[0,12]"), 12, "takes 16 bytes, but data_offsets [0, 12] hold 12");
  refused_header(tensor("[3]", "[0]"), 12, "accepted: [begin, end]");
  refused_header(tensor("[3]", "[0,12,24]"), 12, "accepted: [begin, end]");
  refused_header(tensor("[3]", "[12,0]"), 12, "[12, 0], accepted: begin <= end <= 12");
  refused_header(tensor("[3]", "[4,16]"), 12, "[4, 16], accepted");
  refused_header(tensor("[3]", "[-12,0]"), 12, "an offset of '-12'");
  refused_header(tensor("[3]", "[18446744073709551604,18446744073709551615]"), 12, "accepted: begin <= end <= 12");
  refused_header(tensor("[3]", "[1e0,13]"), 16, "an offset of");
  refused_header(tensor("[3]", "[4,16]"), 16, "leaves a hole from 0");
  refused_header(tensor("[3]", "[0,12]"), 16, "the tensors end at 12, but 16 bytes");
  std::string deep = "[1";
  for (int i = 0; i < 64; ++i) deep += ",1";
  refused_header(tensor(deep + "]", "[0,4]"), 4, "at most 64 sizes");
  EXPECT_EQ(parse(safetensors_text(tensor("[0,9223372036854775807,3]", "[0,0]"), 0)).tensors.size(), 1u);
}

TEST(SafetensorsHostile, OverlapsAndHoles) {
  const auto two = [](int b0, int b1) {
    return fmt::format(
        R"({{"a":{{"dtype":"U8","shape":[8],"data_offsets":[0,8]}},"b":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})",
        b1 - b0, b0, b1);
  };
  refused_header(two(0, 8), 8, "tensor 'b' begins at 0, inside the tensor before it, which ends at 8");
  refused_header(two(4, 12), 12, "begins at 4, inside");
  refused_header(two(2, 3), 8, "begins at 2, inside");
  refused_header(two(9, 12), 12, "leaves a hole from 8");
  EXPECT_EQ(parse(safetensors_text(two(8, 8), 8)).tensors.size(), 2u);
}

TEST(SafetensorsHostile, OrderInTheHeaderIsFree) {
  const auto header = parse(safetensors_text(
      R"({"z":{"dtype":"U8","shape":[4],"data_offsets":[4,8]},"y":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
      8));
  EXPECT_EQ(header.tensors.at("z").begin, 4u);
}

// Any bytes give a table that fits into the file, or a message.
TEST(SafetensorsHostile, RandomDamage) {
  const std::string good = safetensors_text(kGood, 29);
  int accepted = 0;
  for (uint32_t seed = 0; seed < 20'000; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937 random(seed);
    std::string text = good;
    for (uint32_t edits = 1 + random() % 3; edits > 0; --edits) {
      const size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 4);
          break;
        default:
          text.insert(at, 1, "{}[]:,\"0123456789-eE"[random() % 20]);
          break;
      }
    }
    try {
      const auto header = parse(text);
      ++accepted;
      for (const auto& [name, info] : header.tensors) {
        ASSERT_LE(info.begin, info.end);
        ASSERT_LE(header.data_start + info.end, text.size());
      }
    } catch (const Error&) {
    }
  }
  EXPECT_GT(accepted, 0) << "the damage never left a readable file: the test sees only half of the reader";
}

TEST(SafetensorsHostile, WhatIsNoFile) {
  const TemporaryDirectory folder;
  EXPECT_NE(error_of([&] { SafetensorsFile::open(folder / "gone"); }).find("cannot open"), std::string::npos);
  EXPECT_NE(error_of([&] { SafetensorsFile::open(folder.path()); }).find("not a regular file"), std::string::npos);
  spill(folder / "empty", "");
  EXPECT_NE(error_of([&] { SafetensorsFile::open(folder / "empty"); }).find("0 bytes"), std::string::npos);
  EXPECT_NE(error_of([&] { SafetensorsCheckpoint::open(folder.path()); }).find("neither"), std::string::npos);
}

TEST(JsonText, QuoteCutsBetweenCharacters) {
  EXPECT_EQ(quote("a\tb"), "'a\\x09b'");
  const std::string text = std::string(79, 'x') + "\xc3\xa9" + "more";
  EXPECT_EQ(quote(text), "'" + std::string(79, 'x') + "...'");
}

}  // namespace
}  // namespace heed::formats::safetensors_hostile_test
