#include "tasks/listops.h"

#include <algorithm>
#include <numeric>

#include "heed/nn/config.h"
#include "tasks/baselines.h"

namespace heed::tasks {
namespace {

constexpr double kOperatorShare = 0.25;
constexpr int kMostTries = 1'000'000;

enum Operator : uint64_t { kMin, kMax, kMedian, kSum, kOperators };

int64_t apply(uint64_t op, std::vector<int64_t> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  switch (op) {
    case kMin:
      return values.front();
    case kMax:
      return values.back();
    case kMedian:
      return (values[(n - 1) / 2] + values[n / 2]) / 2;
    default:
      return std::accumulate(values.begin(), values.end(), int64_t{0}) % 10;
  }
}

}  // namespace

std::vector<Parameter> ListOpsTask::parameters() {
  return {{"max_depth", 6, "levels of the tree, the digits' own included"},
          {"max_args", 6, "most arguments of an operator"},
          {"min_length", 64, "fewest tokens of an expression"},
          {"max_length", 256, "most tokens of an expression"},
          {"seed", 0, "another family of samples"}};
}

ListOpsTask::ListOpsTask(const nlohmann::json& parameters) : LearnedTask("listops") {
  ConfigReader reader(name_, parameters);
  max_depth_ = reader.integer("max_depth", 6, 2, 64);
  max_args_ = reader.integer("max_args", 6, 2, 64);
  max_length_ = reader.integer("max_length", 256, 4, 1 << 20);
  min_length_ = reader.integer("min_length", std::min<int64_t>(64, max_length_), 4, max_length_);
  finish(reader);
}

Face ListOpsTask::face() const {
  Face face;
  face.sight = Face::Sight::either;
  face.vocabulary = kVocabulary;
  face.outputs = 10;
  face.whole = true;
  face.length = max_length_;
  return face;
}

/// Appends a node and returns its value; what grows beyond the longest expression is left unfinished.
int64_t ListOpsTask::node(Random& random, int64_t depth, std::vector<int64_t>& tokens) const {
  if (depth >= max_depth_ || random.uniform() >= kOperatorShare) {
    const auto digit = static_cast<int64_t>(random.below(10));
    tokens.push_back(kDigit + digit);
    return digit;
  }
  const uint64_t op = random.below(kOperators);
  tokens.push_back(kOperator + static_cast<int64_t>(op));
  std::vector<int64_t> values;
  for (auto left = random.between(2, max_args_); left > 0; --left) {
    values.push_back(node(random, depth + 1, tokens));
    if (static_cast<int64_t>(tokens.size()) > max_length_) return 0;
  }
  tokens.push_back(kClose);
  return apply(op, std::move(values));
}

Example ListOpsTask::example(Split split, uint64_t index) const {
  auto random = random_of(split, index);
  Example example;
  for (int tries = 0; tries < kMostTries; ++tries) {
    example.tokens.clear();
    const int64_t value = node(random, 1, example.tokens);
    const auto length = static_cast<int64_t>(example.tokens.size());
    if (length < min_length_ || length > max_length_) continue;
    example.labels = {value};
    return example;
  }
  fail("{}: expressions of {} to {} tokens are too rare with max_depth = {} and max_args = {}", name_, min_length_,
       max_length_, max_depth_, max_args_);
}

double ListOpsTask::chance() const { return commonest_share(*this, Split::valid, 1000); }

}  // namespace heed::tasks
