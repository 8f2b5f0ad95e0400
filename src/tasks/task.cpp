#include "heed/tasks/task.h"

#include <cmath>

#include "heed/error.h"
#include "heed/formats/byte_tokenizer.h"
#include "heed/tasks/metrics.h"

namespace heed::tasks {

int64_t byte_count(std::string_view text) { return static_cast<int64_t>(text.size()); }

Example byte_example(const TaskSample& sample) {
  const auto ids = formats::ByteTokenizer::encode(sample.text());
  Example result;
  result.tokens.assign(ids.begin(), ids.end() - 1);
  result.labels.assign(result.tokens.size(), Example::kNoLabel);
  for (const TextSpan& span : sample.scored) {
    require(span.begin >= 1 && span.end <= static_cast<int64_t>(ids.size()), "a scored span [{}, {}) of {} bytes",
            span.begin, span.end, ids.size());
    for (int64_t i = span.begin; i < span.end; ++i) {
      result.labels[static_cast<size_t>(i - 1)] = ids[static_cast<size_t>(i)];
    }
  }
  return result;
}

Example TextTask::example(Split split, uint64_t index) const { return byte_example(sample(split, index)); }

double TextTask::metric_chance() const { return std::pow(chance(), 1.0 / static_cast<double>(answer_bytes())); }

double TextTask::score(const TaskSample& sample, std::string_view output) const {
  return match_all(output, sample.answers);
}

}  // namespace heed::tasks
