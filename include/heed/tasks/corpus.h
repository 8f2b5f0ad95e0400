// Text for byte language models: files and folders become three streams of bytes.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "heed/tasks/random.h"

namespace heed::tasks {

/// What was read and what was passed over.
struct CorpusReport {
  int64_t documents = 0;
  int64_t binary = 0;              ///< files that are no text
  int64_t duplicates = 0;          ///< files whose text was read before
  std::array<int64_t, 3> bytes{};  ///< of each split
  std::array<int64_t, 3> documents_of{};
};

/// Documents in three streams. Gzip files are decompressed, manual pages lose their macros, binaries and second copies
/// are passed over; nothing else is changed. Byte 0, which no text holds, ends every document.
///
/// A document belongs to train, valid or test (90 / 5 / 5 %) by the hash of its file name, so adding files moves none.
/// A single document is cut in the same shares from front to back. Order and content depend on names and bytes alone.
class Corpus {
 public:
  /// Largest file that is read, decompressed.
  static constexpr size_t kMaxFileBytes = size_t{1} << 30;

  /// Reads `inputs`, files and folders (searched to any depth). Throws heed::Error when there is no text in them.
  static Corpus read(const std::vector<std::filesystem::path>& inputs);

  /// Document after document, each followed by byte 0.
  std::string_view stream(Split split) const { return streams_[static_cast<size_t>(split)]; }

  /// Window `index` of `split`: `bytes` consecutive bytes at a random place, a pure function of the corpus and the
  /// arguments. Throws heed::Error when the split is shorter than that.
  std::string_view window(Split split, uint64_t index, int64_t bytes, uint64_t seed = 0) const;

  /// Non-overlapping evaluation windows of `context` targets: window w is bytes [w * context, w * context + context +
  /// 1).
  int64_t evaluation_windows(Split split, int64_t context) const;
  std::string_view evaluation_window(Split split, int64_t w, int64_t context) const;

  const CorpusReport& report() const { return report_; }

 private:
  std::array<std::string, 3> streams_;
  CorpusReport report_;
};

/// A text that the system has: the GPL of Debian's common licenses, or of Arch's. Throws heed::Error where it has none.
std::filesystem::path default_text();

/// The split a file name belongs to; folders do not count, nor does .gz or .dz.
Split split_of(std::string_view file_name);

}  // namespace heed::tasks
