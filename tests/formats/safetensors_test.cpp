// Files as Python writes them, round trips, and shards. What is refused: safetensors_hostile_test.cpp.
#include "heed/formats/safetensors.h"

#include <bit>
#include <cstring>
#include <random>

#include "support/test_files.h"

namespace heed::formats::safetensors_test {
namespace {

const std::filesystem::path kFixture =
    std::filesystem::path(HEED_TEST_SOURCE_DIR) / "formats/fixtures/every_type.safetensors";

template <class T>
std::vector<T> values(const SafetensorsFile& file, std::string_view name) {
  const auto bytes = file.bytes(name);
  std::vector<T> out(bytes.size() / sizeof(T));
  EXPECT_EQ(out.size() * sizeof(T), bytes.size());
  if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

// The fixture's rule: element i is i - 2.
template <class T>
std::vector<T> counted(int n) {
  std::vector<T> out;
  for (int i = 0; i < n; ++i) out.push_back(static_cast<T>(i - 2));
  return out;
}

TEST(Safetensors, ReadsEveryTypeAsPythonWroteIt) {
  const auto file = SafetensorsFile::open(kFixture);
  EXPECT_EQ(file.tensors().size(), 14u);
  EXPECT_EQ(file.metadata().at("format"), "np");
  EXPECT_EQ(values<double>(file, "b.f64"), counted<double>(3));
  EXPECT_EQ(values<double>(file, "a.f64"), counted<double>(4));
  EXPECT_EQ(values<float>(file, "f32"), counted<float>(6));
  EXPECT_EQ(values<int64_t>(file, "i64"), counted<int64_t>(2));
  EXPECT_EQ(values<int32_t>(file, "i32"), counted<int32_t>(3));
  EXPECT_EQ(values<int16_t>(file, "i16"), counted<int16_t>(3));
  EXPECT_EQ(values<int8_t>(file, "i8"), counted<int8_t>(3));
  EXPECT_EQ(values<uint8_t>(file, "u8"), (std::vector<uint8_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(values<uint8_t>(file, "bool"), (std::vector<uint8_t>{0, 1, 0}));
  EXPECT_EQ(values<uint16_t>(file, "f16"), (std::vector<uint16_t>{0xc000, 0xbc00, 0, 0x3c00, 0x4000}));
  std::vector<uint16_t> bf16;
  for (const float x : counted<float>(7)) bf16.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16));
  EXPECT_EQ(values<uint16_t>(file, "bf16"), bf16);
  EXPECT_EQ(values<float>(file, "number"), std::vector<float>{7});
  EXPECT_TRUE(file.info("number").shape.empty());
  EXPECT_EQ(file.info("empty").shape, (std::vector<int64_t>{0, 4}));
  EXPECT_TRUE(file.bytes("empty").empty());
  EXPECT_EQ(file.info("i64").shape, (std::vector<int64_t>{1, 2, 1}));
  EXPECT_EQ(values<float>(file, "gewicht/ß \"quoted\"\t"), std::vector<float>{-2});
}

TEST(Safetensors, WritesPythonsBytes) {
  const auto file = SafetensorsFile::open(kFixture);
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, info] : file.tensors()) tensors.push_back({name, info.dtype, info.shape, file.bytes(name)});
  const TemporaryDirectory folder;
  write_safetensors(folder / "copy.safetensors", tensors, {{"format", "np"}});
  EXPECT_EQ(slurp(folder / "copy.safetensors"), slurp(kFixture));
  EXPECT_EQ(folder.entries(), 1u) << "a temporary file is left";
}

TEST(Safetensors, RoundTripsRandomTables) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937 random(seed);
    const auto below = [&](uint32_t n) { return random() % n; };
    const uint32_t count = below(12);
    std::vector<std::vector<std::byte>> contents(count);
    std::vector<TensorToWrite> tensors;
    for (uint32_t i = 0; i < count; ++i) {
      TensorToWrite tensor;
      tensor.name = fmt::format("t{}.{}", below(1000), i);
      tensor.dtype = static_cast<TensorType>(below(10));
      uint64_t bytes = size_of(tensor.dtype);
      for (uint32_t rank = below(5); rank > 0; --rank) {
        tensor.shape.push_back(below(6));
        bytes *= static_cast<uint64_t>(tensor.shape.back());
      }
      contents[i].resize(bytes);
      for (auto& byte : contents[i]) byte = static_cast<std::byte>(random());
      tensor.bytes = contents[i];
      tensors.push_back(tensor);
    }
    const TemporaryDirectory folder;
    const auto path = folder / "x.safetensors";
    write_safetensors(path, tensors);
    const auto file = SafetensorsFile::open(path);
    ASSERT_EQ(file.tensors().size(), count);
    for (const auto& tensor : tensors) {
      EXPECT_EQ(file.info(tensor.name).dtype, tensor.dtype);
      EXPECT_EQ(file.info(tensor.name).shape, tensor.shape);
      const auto bytes = file.bytes(tensor.name);
      EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), tensor.bytes.begin(), tensor.bytes.end()));
      EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % size_of(tensor.dtype), 0u);
    }
    std::shuffle(tensors.begin(), tensors.end(), random);
    write_safetensors(folder / "y.safetensors", tensors);
    EXPECT_EQ(slurp(path), slurp(folder / "y.safetensors")) << "the order given must not matter";
  }
}

TEST(Safetensors, RefusesToWriteWhatItCouldNotRead) {
  const TemporaryDirectory folder;
  const auto path = folder / "x.safetensors";
  spill(path, "as it was");
  const std::array<std::byte, 8> eight{};
  const auto refused = [&](std::vector<TensorToWrite> tensors, std::string_view expected) {
    const auto message = error_of([&] { write_safetensors(path, std::move(tensors)); });
    EXPECT_NE(message.find(expected), message.npos) << message;
  };
  refused({{"a", TensorType::f32, {3}, eight}}, "shape [3] is given 8 bytes");
  refused({{"a", TensorType::f32, {-2}, eight}}, "a size of -2");
  refused({{"a", TensorType::f32, {INT64_MAX, 8}, eight}}, "is given 8 bytes");
  refused({{"a", TensorType::f32, {2}, eight}, {"a", TensorType::f64, {1}, eight}}, "two tensors are called 'a'");
  refused({{"__metadata__", TensorType::f32, {2}, eight}}, "'__metadata__'");
  refused({{"\xff", TensorType::f32, {2}, eight}}, "not UTF-8");
  EXPECT_EQ(slurp(path), "as it was");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(Safetensors, MetadataIsKept) {
  const TemporaryDirectory folder;
  write_safetensors(folder / "x.safetensors", {}, {{"b", "2"}, {"a", "line\nbreak"}});
  const auto file = SafetensorsFile::open(folder / "x.safetensors");
  EXPECT_TRUE(file.tensors().empty());
  EXPECT_EQ(file.metadata().at("a"), "line\nbreak");
  EXPECT_EQ(file.metadata().at("b"), "2");
}

TEST(Safetensors, CheckpointsInOneFileOrShards) {
  const TemporaryDirectory folder;
  const std::array<float, 2> one{1, 2}, two{3, 4};
  const auto bytes_of = [](const auto& x) { return std::as_bytes(std::span(x)); };
  write_safetensors(folder / "model-1.safetensors", {{"a", TensorType::f32, {2}, bytes_of(one)}});
  write_safetensors(folder / "model-2.safetensors", {{"b", TensorType::f32, {2}, bytes_of(two)}});
  spill(folder / "model.safetensors.index.json",
        R"({"metadata": {"total_size": 16}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})");
  const auto shards = SafetensorsCheckpoint::open(folder.path());
  EXPECT_EQ(shards.file_count(), 2u);
  EXPECT_EQ(shards.tensors().size(), 2u);
  EXPECT_EQ(std::memcmp(shards.bytes("b").data(), two.data(), 8), 0);
  const auto message = error_of([&] { shards.bytes("c"); });
  EXPECT_NE(message.find("no tensor 'c'"), message.npos) << message;

  const auto single = SafetensorsCheckpoint::open(folder / "model-1.safetensors");
  EXPECT_EQ(single.file_count(), 1u);
  EXPECT_EQ(std::memcmp(single.bytes("a").data(), one.data(), 8), 0);
}

TEST(Safetensors, RefusesBadIndexes) {
  const TemporaryDirectory folder;
  const std::array<float, 1> one{1};
  write_safetensors(folder / "m.safetensors", {{"a", TensorType::f32, {1}, std::as_bytes(std::span(one))}});
  const auto path = folder / "model.safetensors.index.json";
  const auto refused = [&](std::string_view index, std::string_view expected) {
    spill(path, index);
    const auto message = error_of([&] { SafetensorsCheckpoint::open(path); });
    EXPECT_NE(message.find(expected), message.npos) << message;
  };
  refused(R"([])", "'weight_map'");
  refused(R"({"weight_map": []})", "'weight_map'");
  refused(R"({"weight_map": {"a": 3}})", "the name of a file beside the index");
  refused(R"({"weight_map": {"a": "../m.safetensors"}})", "the name of a file beside the index");
  refused(R"({"weight_map": {"a": "/etc/passwd"}})", "the name of a file beside the index");
  refused(R"({"weight_map": {"a": "gone.safetensors"}})", "cannot open");
  refused(R"({"weight_map": {"other": "m.safetensors"}})", "no tensor 'other'");
  refused(R"({"weight_map": {"a": "m.safetensors", "a": "m.safetensors"}})", "stands twice");
  // An index among its own shards, another one, and links that lead to themselves.
  refused(R"({"weight_map": {"a": "model.safetensors.index.json"}})", "in place of a shard");
  refused(R"({"weight_map": {"a": "other.index.json"}})", "in place of a shard");
  std::filesystem::create_symlink("round.safetensors", folder / "round.safetensors");
  refused(R"({"weight_map": {"a": "round.safetensors"}})", "levels of symbolic links");
  std::filesystem::remove(path);
  std::filesystem::create_symlink("model.safetensors.index.json", path);
  const auto cyclic = error_of([&] { SafetensorsCheckpoint::open(folder.path()); });
  EXPECT_NE(cyclic.find("model.safetensors.index.json': Too many levels"), cyclic.npos) << cyclic;
  std::filesystem::create_symlink("model.safetensors", folder / "model.safetensors");
  const auto file = error_of([&] { SafetensorsCheckpoint::open(folder.path()); });
  EXPECT_NE(file.find("model.safetensors': Too many levels"), file.npos) << file;
}

}  // namespace
}  // namespace heed::formats::safetensors_test
