// Any bytes are a table of tensors inside the file whose values can be read, or one heed::Error; nothing else may
// happen.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "heed/error.h"
#include "heed/formats/gguf.h"
#include "heed/formats/gguf_tokenizer.h"

namespace {

void put(std::string& text, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(i < 8 ? value >> (8 * i) & 0xff : 0);
}

void put_text(std::string& text, std::string_view value) {
  put(text, value.size(), 8);
  text += value;
}

// A small vocabulary and a quantised tensor, so that what damages the file reaches every part of the reader.
std::string good_file() {
  std::string text = "GGUF";
  put(text, 3, 4);
  put(text, 1, 8);
  put(text, 3, 8);
  put_text(text, "tokenizer.ggml.model");
  put(text, 8, 4);
  put_text(text, "llama");
  put_text(text, "tokenizer.ggml.tokens");
  put(text, 9, 4);
  put(text, 8, 4);
  put(text, 3, 8);
  for (const char* token : {"a", "b", "ab"}) put_text(text, token);
  put_text(text, "tokenizer.ggml.scores");
  put(text, 9, 4);
  put(text, 6, 4);
  put(text, 3, 8);
  put(text, 0, 12);
  put_text(text, "w");
  put(text, 1, 4);
  put(text, 32, 8);
  put(text, 8, 4);
  put(text, 0, 8);
  text.resize((text.size() + 31) / 32 * 32 + 34);
  return text;
}

// A file in memory, for what wants a path.
std::string path_of(const std::string& text) {
  static const std::string kPath =
      (std::filesystem::temp_directory_path() / ("heed-gguf-fuzz-" + std::to_string(::getpid()))).string();
  std::ofstream(kPath, std::ios::binary) << text;
  return kPath;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heed::formats;
  if (size == 0) return 0;
  std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 4 != 0) {
    // Edits of a good file: a place and the byte that comes.
    text = good_file();
    for (size_t i = 1; i + 2 < size; i += 3)
      text[(data[i] + size_t{256} * data[i + 1]) % text.size()] = static_cast<char>(data[i + 2]);
  }
  const auto bytes = std::as_bytes(std::span(text));
  try {
    const auto header = parse_gguf_header(bytes, "fuzz");
    for (const auto& [name, tensor] : header.tensors) {
      if (tensor.bytes == 0) continue;
      if (header.data_start + tensor.begin + tensor.bytes > text.size()) std::abort();
      std::vector<float> values(static_cast<size_t>(tensor.elements));
      dequantize(tensor.type, bytes.subspan(header.data_start + tensor.begin, tensor.bytes), values);
    }
    if (header.metadata.contains("tokenizer.ggml.model")) {
      const auto path = path_of(text);
      const auto file = GgufFile::open(path);
      ::unlink(path.c_str());
      const auto tokenizer = gguf_tokenizer(file);
      tokenizer.decode(tokenizer.encode("ab ba"));
    }
  } catch (const heed::Error& error) {
    for (const char* c = error.what(); *c; ++c) {
      if (*c == '\n') std::abort();
    }
  }
  return 0;
}
