#include "formats/tokenizer/bpe.h"

#include <bit>
#include <queue>

#include "formats/unicode.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats {
namespace {

/// Up to here looking at all pairs for every merge is faster than a heap.
constexpr size_t kShortWord = 32;

}  // namespace

MergeTable::MergeTable(size_t pairs) {
  const size_t slots = std::bit_ceil(2 * pairs + 2);
  slots_.resize(slots);
  shift_ = 64 - std::countr_zero(slots);
}

size_t MergeTable::slot_of(uint64_t pair) const {
  size_t at = static_cast<size_t>(pair * 0x9e3779b97f4a7c15u >> shift_);
  while (slots_[at].pair != pair && slots_[at].pair != kFree) at = (at + 1) & (slots_.size() - 1);
  return at;
}

void MergeTable::insert(uint32_t left, uint32_t right, Merge merge) {
  const uint64_t pair = uint64_t{left} << 32 | right;
  slots_[slot_of(pair)] = {pair, merge};
}

const Merge* MergeTable::find(uint32_t left, uint32_t right) const {
  const uint64_t pair = uint64_t{left} << 32 | right;
  const Slot& slot = slots_[slot_of(pair)];
  return slot.pair == pair ? &slot.merge : nullptr;
}

Bpe::Bpe(const JsonNode& node) : TokenModel(Vocabulary::read(node.at("vocab"))) {
  if (const auto dropout = node.find("dropout"); dropout && !(dropout->json().is_number() && dropout->json() == 0)) {
    dropout->refuse("null or 0, for encoding gives the same ids every time");
  }
  continuing_prefix_ = node.text_or("continuing_subword_prefix", "");
  end_suffix_ = node.text_or("end_of_word_suffix", "");
  fuse_unknown_ = node.flag_or("fuse_unk", false);
  byte_fallback_ = node.flag_or("byte_fallback", false);
  ignore_merges_ = node.flag_or("ignore_merges", false);
  if (const auto unknown = node.find("unk_token")) {
    unknown_ = vocabulary().find(unknown->text());
    if (!unknown_) unknown->refuse("a token of the vocabulary");
  }
  for (size_t b = 0; b < 256; ++b) byte_ids_[b] = vocabulary().find(fmt::format("<0x{:02X}>", b));
  read_merges(node.at("merges"));
}

void Bpe::read_merges(const JsonNode& node) {
  const auto& list = node.json();
  if (!list.is_array()) node.refuse("a list of pairs");
  merges_ = MergeTable(list.size());
  uint32_t rank = 0;
  std::string joined;
  for (size_t i = 0; i < list.size(); ++i) {
    const auto wrong = [&](std::string_view what) {
      fail("{}: {}[{}], {}, {}", node.source(), node.place(), i, quote_value(list[i]), what);
    };
    // Older files write a pair as one string, and let a comment stand first.
    std::string_view left, right;
    if (list[i].is_string()) {
      const std::string_view pair = list[i].get_ref<const std::string&>();
      if (pair.starts_with("#version")) continue;
      const size_t space = pair.find(' ');
      if (space == pair.npos || pair.find(' ', space + 1) != pair.npos) wrong("is not two tokens and a space");
      left = pair.substr(0, space), right = pair.substr(space + 1);
    } else if (list[i].is_array() && list[i].size() == 2 && list[i][0].is_string() && list[i][1].is_string()) {
      left = list[i][0].get_ref<const std::string&>(), right = list[i][1].get_ref<const std::string&>();
    } else {
      wrong("is no pair of tokens");
    }
    const auto left_id = vocabulary().find(left), right_id = vocabulary().find(right);
    if (!left_id || !right_id) wrong("names a token that the vocabulary lacks");
    if (right.size() < continuing_prefix_.size()) wrong("has a second token without continuing_subword_prefix");
    joined.assign(left).append(right.substr(continuing_prefix_.size()));
    const auto id = vocabulary().find(joined);
    if (!id) wrong("makes a token that the vocabulary lacks");
    merges_.insert(*left_id, *right_id, {rank++, *id});
  }
}

std::vector<uint32_t> Bpe::symbols(std::string_view word) const {
  std::vector<uint32_t> symbols;
  symbols.reserve(word.size());
  std::string affixed;
  bool unknown_waits = false;  // so that neighbours can become one
  for (size_t at = 0; at < word.size();) {
    const size_t begin = at;
    next_character(word, at);
    std::string_view character = word.substr(begin, at - begin);
    if ((begin > 0 && !continuing_prefix_.empty()) || (at == word.size() && !end_suffix_.empty())) {
      affixed.clear();
      if (begin > 0) affixed += continuing_prefix_;
      affixed += character;
      if (at == word.size()) affixed += end_suffix_;
      character = affixed;
    }
    if (const auto id = vocabulary().find(character)) {
      if (unknown_waits) symbols.push_back(*unknown_);
      unknown_waits = false;
      symbols.push_back(*id);
      continue;
    }
    if (byte_fallback_) {
      bool whole = true;
      for (const char c : character) whole = whole && byte_ids_[static_cast<unsigned char>(c)].has_value();
      if (whole) {
        for (const char c : character) symbols.push_back(*byte_ids_[static_cast<unsigned char>(c)]);
        continue;
      }
    }
    if (!unknown_) continue;  // as the reference does: what has no token vanishes
    if (unknown_waits && !fuse_unknown_) symbols.push_back(*unknown_);
    unknown_waits = true;
  }
  if (unknown_waits) symbols.push_back(*unknown_);
  return symbols;
}

void Bpe::merge_short(std::vector<uint32_t>& symbols) const {
  constexpr Merge kNone{UINT32_MAX, 0};
  std::array<Merge, kShortWord> pairs;  // pairs[i]: symbols i and i + 1
  const auto look_up = [&](size_t i) {
    const Merge* merge = merges_.find(symbols[i], symbols[i + 1]);
    pairs[i] = merge ? *merge : kNone;
  };
  size_t count = symbols.size();
  for (size_t i = 0; i + 1 < count; ++i) look_up(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNone.rank) break;
    symbols[best] = pairs[best].id;
    for (size_t i = best + 1; i + 1 < count; ++i) {
      symbols[i] = symbols[i + 1];
      pairs[i - 1] = pairs[i];
    }
    --count;
    if (best > 0) look_up(best - 1);
    if (best + 1 < count) look_up(best);
  }
  symbols.resize(count);
}

void Bpe::merge_long(std::vector<uint32_t>& symbols) const {
  struct Node {
    uint32_t id = 0;
    int64_t previous = -1, next = -1;
    bool alive = true;
  };
  struct Candidate {
    uint32_t rank = 0, id = 0;
    int64_t at = 0;
    // The heap's top is the largest: the earliest rank, then the leftmost.
    bool operator<(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
  };
  const auto count = static_cast<int64_t>(symbols.size());
  std::vector<Node> nodes(symbols.size());
  std::vector<Candidate> first;
  for (int64_t i = 0; i < count; ++i) {
    nodes[static_cast<size_t>(i)] = {symbols[static_cast<size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1, true};
  }
  const auto node = [&](int64_t i) -> Node& { return nodes[static_cast<size_t>(i)]; };
  const auto candidate = [&](int64_t at) -> std::optional<Candidate> {
    if (at < 0 || node(at).next < 0) return std::nullopt;
    const Merge* merge = merges_.find(node(at).id, node(node(at).next).id);
    if (!merge) return std::nullopt;
    return Candidate{merge->rank, merge->id, at};
  };
  for (int64_t i = 0; i < count; ++i) {
    if (const auto found = candidate(i)) first.push_back(*found);
  }
  std::priority_queue<Candidate> queue({}, std::move(first));
  const auto offer = [&](int64_t at) {
    if (const auto found = candidate(at)) queue.push(*found);
  };
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    if (!node(top.at).alive) continue;
    // A pair that has changed since it was queued is queued again under its new rank.
    const auto now = candidate(top.at);
    if (!now || now->rank != top.rank) continue;
    const int64_t right = node(top.at).next;
    node(top.at).id = top.id;
    node(right).alive = false;
    node(top.at).next = node(right).next;
    if (node(right).next >= 0) node(node(right).next).previous = top.at;
    offer(node(top.at).previous);
    offer(top.at);
  }
  symbols.clear();
  for (int64_t i = 0; i >= 0 && i < count; i = node(i).next) symbols.push_back(node(i).id);
}

void Bpe::encode(std::string_view word, std::vector<int64_t>& ids) const {
  if (ignore_merges_) {
    if (const auto id = vocabulary().find(word)) {
      ids.push_back(*id);
      return;
    }
  }
  auto word_symbols = symbols(word);
  if (word_symbols.size() <= kShortWord) {
    merge_short(word_symbols);
  } else {
    merge_long(word_symbols);
  }
  ids.insert(ids.end(), word_symbols.begin(), word_symbols.end());
}

}  // namespace heed::formats
