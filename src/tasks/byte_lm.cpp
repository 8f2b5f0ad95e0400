#include "tasks/byte_lm.h"

#include <array>
#include <cmath>

#include "heed/nn/config.h"
#include "tasks/strew.h"

namespace heed::tasks {
namespace {

/// A path, or a list of them; empty: the text that the system has.
std::vector<std::filesystem::path> paths_of(ConfigReader& reader, const nlohmann::json& parameters) {
  const bool list = parameters.is_object() && parameters.contains("text") && parameters["text"].is_array();
  std::vector<std::filesystem::path> paths;
  if (list) {
    for (const auto& path : reader.get<std::vector<std::string>>("text", {})) paths.emplace_back(path);
  } else if (const auto path = reader.get<std::string>("text", ""); !path.empty()) {
    paths.emplace_back(path);
  }
  if (paths.empty()) paths.push_back(default_text());
  return paths;
}

using Counts = std::array<double, 256>;

Counts counts_of(std::string_view text) {
  Counts counts{};
  for (const char c : text) ++counts[static_cast<unsigned char>(c)];
  return counts;
}

}  // namespace

std::vector<Parameter> ByteLmTask::parameters() {
  return {{"text", "", "a file or folder of text, or a list of them; empty: the GPL of Debian's common licenses"},
          {"context", 256, "bytes of a window"},
          {"seed", 0, "another family of training windows"}};
}

ByteLmTask::ByteLmTask(const nlohmann::json& parameters) : LearnedTask("byte_lm") {
  ConfigReader reader(name_, parameters);
  const auto paths = paths_of(reader, parameters);
  context_ = reader.integer("context", 256, 1, 1 << 24);
  finish(reader);
  corpus_ = Corpus::read(paths);
  for (const auto split : {Split::train, Split::valid, Split::test})
    require(corpus_.evaluation_windows(split, context_) > 0,
            "{}: the {} split of the text has {} bytes; more than context = {} are needed", name_, name_of(split),
            corpus_.stream(split).size(), context_);
}

Face ByteLmTask::face() const {
  auto face = Face::next_token(256);
  face.metric = Metric::bits;
  face.length = context_;
  return face;
}

int64_t ByteLmTask::size(Split split) const {
  return split == Split::train ? 0 : corpus_.evaluation_windows(split, context_);
}

Example ByteLmTask::example(Split split, uint64_t index) const {
  const auto window = split == Split::train ? corpus_.window(split, index, context_ + 1, seed_)
                                            : corpus_.evaluation_window(split, strewn(index, size(split)), context_);
  Example example;
  const auto byte = [](char c) { return static_cast<int64_t>(static_cast<unsigned char>(c)); };
  for (size_t i = 0; i + 1 < window.size(); ++i) {
    example.tokens.push_back(byte(window[i]));
    example.labels.push_back(byte(window[i + 1]));
  }
  return example;
}

double ByteLmTask::chance() const {
  const auto train = counts_of(corpus_.stream(Split::train)), test = counts_of(corpus_.stream(Split::test));
  double total = 0, all = 0, bits = 0;
  for (size_t b = 0; b < 256; ++b) total += train[b] + 1, all += test[b];
  for (size_t b = 0; b < 256; ++b) bits -= test[b] / all * std::log2((train[b] + 1) / total);
  return bits;
}

}  // namespace heed::tasks
