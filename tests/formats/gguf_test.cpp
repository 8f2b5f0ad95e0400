#include "heed/formats/gguf.h"

#include <cstring>
#include <functional>
#include <random>

#include "heed/formats/gguf_tokenizer.h"
#include "heed/formats/json_file.h"
#include "heed/formats/safetensors.h"
#include "support/test_files.h"
#include "support/tokenizer_fixtures.h"

namespace heed::formats::gguf_test {
namespace {

std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(HEED_TEST_SOURCE_DIR) / "formats/fixtures" / name;
}

GgufHeader parse(std::string_view text) { return parse_gguf_header(std::as_bytes(std::span(text)), "some.gguf"); }

template <class T>
void put(std::string& text, T value) {
  text.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void put_text(std::string& text, std::string_view value) {
  put<uint64_t>(text, value.size());
  text += value;
}

// A file with one metadata value, "general.alignment", and one F32 tensor "w" of two values.
struct Small {
  uint32_t version = 3, type = 0, alignment = 32;
  uint64_t tensors = 1, values = 1, offset = 0;
  std::vector<uint64_t> sizes{2};
  std::string name = "w", data = std::string(8, '\0');
  std::string extra_values, extra_tensors;

  std::string text() const {
    std::string out = "GGUF";
    put(out, version);
    put(out, tensors);
    put(out, values);
    put_text(out, "general.alignment");
    put<uint32_t>(out, 4);
    put(out, alignment);
    out += extra_values;
    put_text(out, name);
    put(out, static_cast<uint32_t>(sizes.size()));
    for (const uint64_t size : sizes) put(out, size);
    put(out, type);
    put(out, offset);
    out += extra_tensors;
    out.resize((out.size() + 31) / 32 * 32);
    return out + data;
  }
};

TEST(Gguf, ValuesAreThoseOfThePackage) {
  const auto file = GgufFile::open(fixture("every_type.gguf"));
  const auto values = SafetensorsFile::open(fixture("every_type_values.safetensors"));
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.tensors().size(), values.tensors().size());
  for (const auto& [name, want] : values.tensors()) {
    SCOPED_TRACE(name);
    const auto& tensor = file.info(name);
    EXPECT_EQ(tensor.shape, want.shape);
    std::vector<float> got(static_cast<size_t>(tensor.elements)), expected(got.size());
    file.dequantize(name, got);
    ASSERT_EQ(values.bytes(name).size(), expected.size() * sizeof(float));
    std::memcpy(expected.data(), values.bytes(name).data(), expected.size() * sizeof(float));
    EXPECT_EQ(got, expected);
  }
  EXPECT_EQ(file.info("q4_k").type, GgufType::q4_k);
  EXPECT_EQ(name_of(GgufType::q6_k), "Q6_K");
}

TEST(Gguf, MetadataOfEveryKind) {
  const auto file = GgufFile::open(fixture("every_type.gguf"));
  EXPECT_EQ(file.whole("kind.u8"), 200);
  EXPECT_EQ(file.whole("kind.i8"), -100);
  EXPECT_EQ(file.whole("kind.u16"), 60000);
  EXPECT_EQ(file.whole("kind.i16"), -30000);
  EXPECT_EQ(file.whole("kind.u32"), 4000000000);
  EXPECT_EQ(file.whole("kind.i32"), -2000000000);
  EXPECT_EQ(file.whole("kind.i64"), -(int64_t{1} << 62));
  EXPECT_EQ(file.real("kind.f32"), 1.5);
  EXPECT_EQ(file.real("kind.f64"), 0.1);
  EXPECT_EQ(file.flag("kind.bool"), true);
  EXPECT_EQ(file.text("kind.string"),
            "Gr\xc3\xbc\xc3\x9f"
            "e\n");
  EXPECT_EQ(file.text("general.architecture"), "llama");
  EXPECT_EQ(*file.find("kind.ints"), nlohmann::json({1, -2, 3}));
  EXPECT_EQ(*file.find("kind.strings"), nlohmann::json({"a", "\xc3\x9f", ""}));
  EXPECT_EQ(file.find("nothing"), nullptr);
  EXPECT_EQ(file.whole("nothing"), std::nullopt);
  EXPECT_NE(error_of([&] { file.whole("kind.u64"); }).find("'9223372036854775808', accepted: a whole number"),
            std::string::npos);
  EXPECT_NE(error_of([&] { file.whole("kind.string"); }).find("accepted: a whole number"), std::string::npos);
  EXPECT_NE(error_of([&] { file.text("kind.bool"); }).find("accepted: a string"), std::string::npos);
  EXPECT_NE(error_of([&] { file.flag("kind.u8"); }).find("accepted: true or false"), std::string::npos);
  EXPECT_NE(error_of([&] { file.real("kind.ints"); }).find("accepted: a number"), std::string::npos);
}

TEST(Gguf, VersionTwoIsReadToo) {
  Small small;
  small.version = 2;
  EXPECT_EQ(parse(small.text()).version, 2u);
  small.version = 1;
  EXPECT_NE(error_of([&] { parse(small.text()); }).find("GGUF version 1, accepted: 2 and 3"), std::string::npos);
  small.version = 0x03000000;  // big-endian
  EXPECT_NE(error_of([&] { parse(small.text()); }).find("accepted: 2 and 3, little-endian"), std::string::npos);
}

TEST(Gguf, WrongUse) {
  const auto file = GgufFile::open(fixture("every_type.gguf"));
  std::vector<float> few(3);
  EXPECT_NE(error_of([&] { file.dequantize("f32", few); }).find("has 192 values, not 3"), std::string::npos);
  EXPECT_NE(error_of([&] { file.info("f23"); }).find("there is no tensor 'f23'; did you mean"), std::string::npos);
  EXPECT_NE(error_of([&] { dequantize(GgufType::q8_0, file.bytes("q8_0"), few); }).find("a block has 34 bytes"),
            std::string::npos);
}

TEST(Gguf, TokenizersGiveTheIdsOfTheReference) {
  const auto expected = read_json_file(fixture("gguf_tokenizers.json"));
  const auto texts = read_json_file(tokenizer_fixtures() / "texts.json");
  for (const auto& [name, want] : expected.items()) {
    const auto tokenizer = gguf_tokenizer(GgufFile::open(fixture(name + ".gguf")));
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_EQ(nlohmann::json(tokenizer.encode(texts[i].get<std::string>())), want[i]) << name << " of " << texts[i];
    }
  }
  const auto llama = gguf_tokenizer(GgufFile::open(fixture("llama.gguf")));
  EXPECT_EQ(llama.roles().bos, 1);
  EXPECT_EQ(llama.roles().eos, 2);
  EXPECT_EQ(llama.decode(llama.encode("Hello  w\xc3\xb6rld")), "Hello  w\xc3\xb6rld");
  EXPECT_NE(error_of([] {
              gguf_tokenizer(GgufFile::open(fixture("every_type.gguf")));
            }).find("missing, accepted: llama, gpt2"),
            std::string::npos);
}

TEST(GgufHostile, LyingHeaders) {
  EXPECT_EQ(parse(Small().text()).tensors.at("w").elements, 2);
  const auto refused = [](const std::function<void(Small&)>& damage, std::string_view expected) {
    Small small;
    damage(small);
    const auto message = error_of([&] { parse(small.text()); });
    EXPECT_TRUE(message.starts_with("some.gguf: ")) << message;
    EXPECT_NE(message.find(expected), message.npos) << message << "\nexpected: " << expected;
  };
  refused([](Small& s) { s.type = 13; }, "tensor 'w' has the type 13, accepted: F32 (0)");
  refused([](Small& s) { s.type = 8; }, "rows of 2 values, accepted for Q8_0: a multiple of 32");
  refused([](Small& s) { s.sizes = {3}; }, "has 12 bytes from 0, but the data has 8");
  refused([](Small& s) { s.offset = 32; }, "has 8 bytes from 32");
  refused([](Small& s) { s.offset = 4; }, "begins at 4, accepted: a multiple of 32");
  refused([](Small& s) { s.offset = ~uint64_t{31}; }, "but the data has 8");
  refused([](Small& s) { s.sizes = {uint64_t{1} << 62}; }, "more than 64 bits of bytes");
  refused([](Small& s) { s.sizes = {uint64_t{1} << 40, uint64_t{1} << 40}; }, "more than 64 bits of values");
  refused([](Small& s) { s.sizes = {~uint64_t{0}}; }, "more than 64 bits of values");
  refused([](Small& s) { s.sizes = {1, 1, 1, 1, 2}; }, "5 dimensions, accepted: at most 4");
  refused([](Small& s) { s.tensors = 1 << 30; }, "1073741824 tensors, accepted: at most");
  refused([](Small& s) { s.values = ~uint64_t{0}; }, "metadata values, accepted: at most");
  refused([](Small& s) { s.tensors = 5; }, "");
  refused([](Small& s) { s.alignment = 24; }, "general.alignment is '24', accepted: a power of two");
  refused([](Small& s) { s.alignment = 0; }, "accepted: a power of two");
  refused([](Small& s) { s.name = std::string(2000, 'w'); }, "the name of a tensor has 2000 bytes, accepted: at most");
  refused(
      [](Small& s) {
        s.tensors = 2;
        put_text(s.extra_tensors, "w");
      },
      "the tensor 'w' stands twice");
  refused(
      [](Small& s) {
        s.tensors = 2;
        put_text(s.extra_tensors, "v");
        put<uint32_t>(s.extra_tensors, 0);
        put<uint32_t>(s.extra_tensors, 0);
        put<uint64_t>(s.extra_tensors, 0);
      },
      "overlap");
  const auto value = [&](const std::function<void(std::string&)>& write, std::string_view expected) {
    refused(
        [&](Small& s) {
          s.values = 2;
          put_text(s.extra_values, "key");
          write(s.extra_values);
        },
        expected);
  };
  value([](std::string& t) { put<uint32_t>(t, 13); }, "metadata 'key' has the type 13, accepted: 0 to 12");
  value([](std::string& t) { put<uint32_t>(t, 7), put<uint8_t>(t, 2); }, "metadata 'key' is 2, accepted: 0 or 1");
  value([](std::string& t) { put<uint32_t>(t, 8), put<uint64_t>(t, 1 << 20); }, "metadata 'key' has 1048576 bytes");
  value([](std::string& t) { put<uint32_t>(t, 9), put<uint32_t>(t, 4), put<uint64_t>(t, 1 << 20); },
        "1048576 values, accepted: at most");
  value(
      [](std::string& t) {
        put<uint32_t>(t, 9);
        for (int i = 0; i < 9; ++i) put<uint32_t>(t, 9), put<uint64_t>(t, 1);
      },
      "lists nested deeper than 4");
  EXPECT_NE(error_of([] { parse(""); }).find("no GGUF file"), std::string::npos);
  EXPECT_NE(error_of([] { parse("GGML" + Small().text().substr(4)); }).find("no GGUF file"), std::string::npos);
}

TEST(GgufHostile, TruncatedAnywhere) {
  const std::string whole = slurp(fixture("every_type.gguf"));
  for (size_t length = 0; length < whole.size(); length += length < 2000 ? 1 : 97) {
    const auto message = error_of([&] { parse(std::string_view(whole).substr(0, length)); });
    EXPECT_FALSE(message.empty()) << length;
  }
}

TEST(GgufHostile, RandomDamage) {
  const std::string good = slurp(fixture("every_type.gguf")), vocabulary = slurp(fixture("llama3.gguf"));
  const TemporaryDirectory folder;
  int accepted = 0, encoded = 0;
  for (uint32_t seed = 0; seed < 4000; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937 random(seed);
    const bool words = seed % 20 == 0;
    std::string text = words ? vocabulary : good;
    for (uint32_t edits = 1 + random() % 3; edits > 0; --edits)
      text[random() % std::min<size_t>(text.size(), 1500)] = static_cast<char>(random());
    try {
      const auto header = parse(text);
      ++accepted;
      for (const auto& [name, tensor] : header.tensors) {
        ASSERT_LE(header.data_start + tensor.begin + tensor.bytes, text.size());
        std::vector<float> values(static_cast<size_t>(tensor.elements));
        dequantize(tensor.type,
                   std::as_bytes(std::span(text))
                       .subspan(tensor.bytes == 0 ? 0 : header.data_start + tensor.begin, tensor.bytes),
                   values);
      }
      if (!words) continue;
      spill(folder / "words.gguf", text);
      gguf_tokenizer(GgufFile::open(folder / "words.gguf")).encode("Some text, 12 words");
      ++encoded;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(accepted, 0);
  EXPECT_GT(encoded, 0);
}

TEST(GgufHostile, OnePartOfSeveral) {
  Small small;
  small.values = 2;
  put_text(small.extra_values, "split.count");
  put<uint32_t>(small.extra_values, 2);
  put<uint16_t>(small.extra_values, 3);
  const TemporaryDirectory folder;
  spill(folder / "part.gguf", small.text());
  EXPECT_NE(error_of([&] { GgufFile::open(folder / "part.gguf"); }).find("one of 3 parts"), std::string::npos);
}

}  // namespace
}  // namespace heed::formats::gguf_test
