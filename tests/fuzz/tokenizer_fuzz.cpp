// Any tokenizer.json encodes and decodes any text, or is one heed::Error; ids lie in the vocabulary and text is UTF-8.
#include <array>
#include <cstdlib>
#include <string>

#include "formats/unicode.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"
#include "heed/formats/tokenizer.h"

namespace {

// Whole files, so that what damages them reaches every step.
constexpr std::array<std::string_view, 3> kGood = {
    R"({"added_tokens":[{"id":5,"content":"<s>","special":true,"lstrip":true},{"id":6,"content":"x y","normalized":true}],
"normalizer":{"type":"Sequence","normalizers":[{"type":"NFKD"},{"type":"Replace","pattern":{"Regex":"\\s+"},"content":" "},{"type":"Strip","strip_left":true,"strip_right":false}]},
"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":true,"use_regex":false}]},
"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[5],"tokens":["<s>"]}}},
"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"aba":3,"Ġ":4},"merges":[["a","b"],"ab a"]}})",
    R"({"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},
"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":{"type":"BertProcessing","sep":["[SEP]",2],"cls":["[CLS]",1]},"decoder":{"type":"WordPiece","prefix":"##","cleanup":true},
"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":10,"vocab":{"[UNK]":0,"[CLS]":1,"[SEP]":2,"a":3,"##b":4,"ab":5,".":6}}})",
    R"({"normalizer":{"type":"Prepend","prepend":"▁"},"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":false},
"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
"model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"end_of_word_suffix":"","vocab":{"<unk>":0,"▁":1,"a":2,"▁a":3,"<0xC3>":4,"<0xA9>":5},"merges":["▁ a"]}})"};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heed::formats;
  if (size == 0) return 0;
  std::string text(reinterpret_cast<const char*>(data) + 1, size - 1), file = text;
  if (const size_t which = data[0] % 4; which < kGood.size()) {
    // Edits of a good file: a place, how many bytes go, and the byte that comes.
    file = kGood[which];
    for (size_t i = 1; i + 3 < size && !file.empty(); i += 4) {
      const size_t at = (data[i] + size_t{256} * data[i + 1]) % file.size();
      file.replace(at, data[i + 2] % 4, 1, static_cast<char>(data[i + 3]));
    }
  }
  try {
    const auto tokenizer = Tokenizer::parse(parse_json(file, "fuzz"), "fuzz");
    for (const std::string& sample : {std::string("aba <s> x y ab's\n 12\t\xc3\xa9 \xe4\xb8\xad."), lossy_utf8(text)}) {
      const auto ids = tokenizer.encode(sample);
      TextStream stream(tokenizer);
      for (const int64_t id : ids) {
        if (id < 0) std::abort();
        if (invalid_utf8_at(stream.push(id)) != std::string::npos) std::abort();
      }
      const auto pair = tokenizer.encode_pair(sample, "ab");
      if (pair.ids.size() != pair.type_ids.size()) std::abort();
      if (invalid_utf8_at(stream.finish()) != std::string::npos) std::abort();
      if (invalid_utf8_at(tokenizer.decode(ids, false)) != std::string::npos) std::abort();
    }
  } catch (const heed::Error& error) {
    for (const char* c = error.what(); *c; ++c) {
      if (*c == '\n') std::abort();
    }
  }
  return 0;
}
