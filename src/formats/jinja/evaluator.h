// Runs a parsed template.
#pragma once

#include "formats/jinja/builtins.h"
#include "formats/jinja/syntax.h"

namespace heed::formats::jinja {

/// Renders once. Work and output are bounded, so that no template runs for ever; what goes wrong is one heed::Error
/// with the name and the position.
class Evaluator {
 public:
  Evaluator(std::string_view name, Dict variables) : name_(name) { scopes_.push_back(std::move(variables)); }

  std::string render(const Block& block);

 private:
  enum class Flow { on, leave, next };

  Flow run(const Block& block);
  Flow run(const Statement& statement);
  Flow loop(const Statement& statement);
  void assign(const Statement& statement, const Value& value);
  void bind(const Statement& statement, const Value& value);

  Value evaluate(const Expression& expression);
  Value compute(const Expression& expression);
  Value binary(const Expression& expression);
  Value call(const Expression& expression);
  Value look_up(const std::string& name) const;
  Value optional(const Expression& expression, size_t part);
  Arguments arguments(const Expression& expression);
  /// Refuses what nests too deep to be walked.
  Value checked(Value value) const;
  void spend(size_t work);
  void print(std::string_view text);

  std::string_view name_;
  std::vector<Dict> scopes_;  // the innermost last
  std::string out_;
  size_t spent_ = 0;
};

}  // namespace heed::formats::jinja
