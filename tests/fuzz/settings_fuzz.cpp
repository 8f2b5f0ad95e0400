// Whatever generation_config.json and tokenizer_config.json hold, they give ids and a template, or are one heed::Error.
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "edits.h"
#include "formats/unicode.h"
#include "heed/error.h"
#include "heed/formats/chat_template.h"
#include "heed/formats/generation_config.h"
#include "heed/formats/json_file.h"
#include "heed/formats/tokenizer.h"

namespace {

constexpr std::array<std::string_view, 2> kGood = {
    R"({"bos_token_id":1,"eos_token_id":[2,3],"do_sample":true,"temperature":0.6,"top_p":0.9})",
    R"({"bos_token":"<s>","eos_token":{"content":"</s>","lstrip":false},"unk_token":null,"model_max_length":2048,)"
    R"("chat_template":[{"name":"tools","template":"x"},{"name":"default","template":)"
    R"("{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }}{% endfor %}"}]})"};
constexpr std::string_view kTokenizer =
    R"({"added_tokens":[{"id":2,"content":"<s>","special":true},{"id":3,"content":"</s>","special":true}],)"
    R"("model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}})";

/// A model's folder, for what wants a path.
struct Folder {
  Folder() {
    std::filesystem::create_directories(path);
    std::ofstream(path / "tokenizer.json") << kTokenizer;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("heed-settings-fuzz-" + std::to_string(::getpid()));
};

const std::filesystem::path& folder() {
  static const Folder made;
  return made.path;
}

template <class Read>
void one_line_or(Read read) {
  try {
    read();
  } catch (const heed::Error& error) {
    if (!heed::fuzz::is_one_line(error.what())) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heed::formats;
  if (size == 0) return 0;
  std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 4 != 0) text = heed::fuzz::edited(kGood[data[0] % 2], data + 1, size - 1);
  one_line_or([&] {
    for (const int64_t id : parse_ending_tokens(parse_json(text, "fuzz"), "fuzz"))
      if (id < 0) std::abort();
  });
  std::ofstream(folder() / "tokenizer_config.json", std::ios::binary | std::ios::trunc) << text;
  one_line_or([] {
    const auto tokenizer = Tokenizer::open(folder());
    for (const auto& role : {tokenizer.roles().bos, tokenizer.roles().eos})
      if (role && (*role < 0 || *role >= tokenizer.vocab_size())) std::abort();
  });
  one_line_or([] {
    const auto chat = ChatTemplate::open(folder());
    if (!chat) return;
    const auto out = chat->render(nlohmann::ordered_json::parse(R"([{"role":"user","content":" hello "}])"));
    if (invalid_utf8_at(out) != out.npos) std::abort();
  });
  return 0;
}
