// The steps of tokenizer.json, one after the other.
#include "formats/tokenizer/added_tokens.h"
#include "formats/tokenizer/interface.h"
#include "formats/tokenizer/normalizer.h"
#include "formats/tokenizer/post_processor.h"
#include "formats/tokenizer/pre_tokenizer.h"
#include "formats/tokenizer/token_decoder.h"
#include "formats/tokenizer/token_model.h"
#include "formats/unicode.h"
#include "heed/error.h"

namespace heed::formats {
namespace {

// The words of one text and their ids: most words of a text come again.
class WordCache {
 public:
  explicit WordCache(const TokenModel& model) : model_(model) {}

  void encode(const std::string& word, std::vector<int64_t>& ids) {
    if (word.size() > kMaxBytes) return model_.encode(word, ids);
    auto found = known_.find(word);
    if (found == known_.end()) {
      if (known_.size() >= kMaxWords) known_.clear();
      found = known_.emplace(word, std::vector<int64_t>()).first;
      model_.encode(word, found->second);
    }
    ids.insert(ids.end(), found->second.begin(), found->second.end());
  }

 private:
  static constexpr size_t kMaxBytes = 64, kMaxWords = 1 << 16;
  const TokenModel& model_;
  StringMap<std::vector<int64_t>> known_;
};

class FileTokenizer final : public Tokenizer::Interface {
 public:
  explicit FileTokenizer(const JsonNode& node) : source_(node.source()) {
    if (const auto version = node.find("version"); version && version->text() != "1.0") version->refuse("1.0");
    model_ = read_token_model(node.at("model"));
    if (const auto normalizer = node.find("normalizer")) normalizer_ = read_normalizer(*normalizer);
    if (const auto pre_tokenizer = node.find("pre_tokenizer")) pre_tokenizer_ = read_pre_tokenizer(*pre_tokenizer);
    if (const auto processor = node.find("post_processor")) post_processor_ = read_post_processor(*processor);
    if (const auto decoder = node.find("decoder")) decoder_ = read_token_decoder(*decoder);
    added_ = AddedTokens::read(node.find("added_tokens"), model_->vocabulary(), normalizer_);
  }

  std::vector<int64_t> encode(std::string_view text, bool add_special) const override {
    auto ids = ids_of(text);
    if (!post_processor_) return ids;
    std::vector<int64_t> types(ids.size(), 0);
    return joined(post_processor_({{std::move(ids), std::move(types)}}, add_special)).ids;
  }

  Encoding encode_pair(std::string_view first, std::string_view second, bool add_special) const override {
    std::vector<Encoding> segments;
    for (const auto text : {first, second}) {
      auto ids = ids_of(text);
      std::vector<int64_t> types(ids.size(), static_cast<int64_t>(segments.size()));
      segments.push_back({std::move(ids), std::move(types)});
    }
    return joined(post_processor_ ? post_processor_(std::move(segments), add_special) : std::move(segments));
  }

  std::string decode(std::span<const int64_t> ids, bool skip_special) const override {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    for (const int64_t id : ids) {
      if (const auto* added = added_.find(id)) {
        if (!skip_special || !added->special) tokens.push_back(added->decoded);
      } else if (const auto* token = model_->vocabulary().token(id)) {
        tokens.push_back(*token);
      }
    }
    std::string text;
    if (decoder_) {
      for (const auto& part : decoder_(std::move(tokens))) text += part;
    } else {
      for (size_t i = 0; i < tokens.size(); ++i) text.append(i > 0 ? " " : "").append(tokens[i]);
    }
    return text;
  }

  std::optional<int64_t> id_of(std::string_view token) const override {
    if (const auto* added = added_.find(token)) return added->id;
    return model_->vocabulary().find(token);
  }

  std::optional<std::string> token_of(int64_t id) const override {
    if (const auto* added = added_.find(id)) return added->content;
    if (const auto* token = model_->vocabulary().token(id)) return *token;
    return std::nullopt;
  }

  bool is_special(int64_t id) const override {
    const auto* added = added_.find(id);
    return added && added->special;
  }

  int64_t vocab_size() const override { return std::max(model_->vocabulary().largest_id(), added_.largest_id()) + 1; }

 private:
  /// Of the text alone, before the post-processor.
  std::vector<int64_t> ids_of(std::string_view text) const {
    const size_t broken = invalid_utf8_at(text);
    require(broken == text.npos, "{}: the text is no UTF-8 at byte {} of {}", source_, broken, text.size());
    std::vector<int64_t> ids;
    WordCache cache(*model_);
    for (const auto& part : added_.split(text, false)) {
      if (part.token) {
        ids.push_back(part.token->id);
      } else {
        encode_part(std::string(part.text), part.text.data() == text.data(), cache, ids);
      }
    }
    return ids;
  }

  void encode_part(std::string raw, bool at_start, WordCache& cache, std::vector<int64_t>& ids) const {
    const std::string text = normalizer_ ? normalizer_(std::move(raw)) : std::move(raw);
    for (const auto& part : added_.split(text, true)) {
      if (part.token) {
        ids.push_back(part.token->id);
        continue;
      }
      std::vector<Word> words{{std::string(part.text), at_start && part.text.data() == text.data()}};
      if (pre_tokenizer_) words = pre_tokenizer_(std::move(words));
      for (const auto& word : words) cache.encode(word.text, ids);
    }
  }

  std::string source_;
  std::unique_ptr<const TokenModel> model_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  PostProcessor post_processor_;
  TokenDecoder decoder_;
  AddedTokens added_;
};

}  // namespace

std::shared_ptr<const Tokenizer::Interface> make_file_tokenizer(const nlohmann::json& json, std::string_view source) {
  return std::make_shared<FileTokenizer>(JsonNode(json, source));
}

}  // namespace heed::formats
