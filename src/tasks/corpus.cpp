#include "heed/tasks/corpus.h"

#include <set>

#include "heed/error.h"
#include "tasks/roff.h"
#include "tasks/text_files.h"

namespace heed::tasks {
namespace {

constexpr int64_t kTrainPercent = 90, kValidPercent = 5;

}  // namespace

std::filesystem::path default_text() {
  const std::filesystem::path usual[] = {"/usr/share/common-licenses/GPL-3",
                                         "/usr/share/licenses/common/GPL3/license.txt"};
  for (const auto& path : usual)
    if (std::filesystem::exists(path)) return path;
  fail("{} is not there: name a text", usual[0].string());
}

Split split_of(std::string_view file_name) {
  file_name = file_name.substr(file_name.rfind('/') + 1);
  for (const std::string_view suffix : {".gz", ".dz"}) {
    if (file_name.ends_with(suffix)) file_name.remove_suffix(suffix.size());
  }
  const auto percent = static_cast<int64_t>(hash64(file_name) % 100);
  if (percent < kTrainPercent) return Split::train;
  return percent < kTrainPercent + kValidPercent ? Split::valid : Split::test;
}

Corpus Corpus::read(const std::vector<std::filesystem::path>& inputs) {
  require(!inputs.empty(), "no text was given; accepted: text files and folders of them");
  Corpus corpus;
  CorpusReport& report = corpus.report_;
  std::set<uint64_t> seen;
  std::string only;
  const auto files = find_files(inputs);
  for (const auto& file : files) {
    std::string text = read_maybe_gzip(file.path, kMaxFileBytes);
    if (!is_text(text)) {
      ++report.binary;
      continue;
    }
    // A NUL beyond the part that was looked at would end the document early.
    std::erase(text, '\0');
    if (is_roff(text)) text = strip_roff(text);
    if (text.empty()) continue;
    if (!seen.insert(hash64(text)).second) {
      ++report.duplicates;
      continue;
    }
    const Split split = split_of(file.name);
    corpus.streams_[static_cast<size_t>(split)].append(text) += '\0';
    ++report.documents_of[static_cast<size_t>(split)];
    if (++report.documents == 1) only = std::move(text);
  }
  require(report.documents > 0,
          "no text in '{}'{}: {} files, {} of them binary; scripts/fetch-corpus.sh makes a folder of text",
          inputs[0].string(), inputs.size() > 1 ? fmt::format(" and {} more", inputs.size() - 1) : "", files.size(),
          report.binary);
  if (report.documents == 1) {
    const size_t valid = only.size() / 100 * kTrainPercent, test = only.size() / 100 * (kTrainPercent + kValidPercent);
    corpus.streams_ = {only.substr(0, valid) + '\0', only.substr(valid, test - valid) + '\0', only.substr(test) + '\0'};
    report.documents_of = {1, 1, 1};
  }
  for (size_t i = 0; i < 3; ++i) report.bytes[i] = static_cast<int64_t>(corpus.streams_[i].size());
  return corpus;
}

std::string_view Corpus::window(Split split, uint64_t index, int64_t bytes, uint64_t seed) const {
  const auto text = stream(split);
  const auto size = static_cast<int64_t>(text.size());
  require(bytes > 0 && bytes <= size, "a window of {} bytes, but the {} split has {} bytes in {} documents", bytes,
          name_of(split), size, report_.documents_of[static_cast<size_t>(split)]);
  Random random(stream_key("corpus", split, seed), index);
  return text.substr(random.below(static_cast<uint64_t>(size - bytes + 1)), static_cast<size_t>(bytes));
}

int64_t Corpus::evaluation_windows(Split split, int64_t context) const {
  require(context > 0, "an evaluation window of {} bytes, accepted: 1 or more", context);
  return (static_cast<int64_t>(stream(split).size()) - 1) / context;
}

std::string_view Corpus::evaluation_window(Split split, int64_t w, int64_t context) const {
  const int64_t count = evaluation_windows(split, context);
  require(w >= 0 && w < count, "evaluation window {} of the {} split, accepted: 0 to {}", w, name_of(split), count - 1);
  return stream(split).substr(static_cast<size_t>(w * context), static_cast<size_t>(context + 1));
}

}  // namespace heed::tasks
