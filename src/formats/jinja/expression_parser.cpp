#include "formats/jinja/expression_parser.h"

#include <algorithm>
#include <array>

#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats::jinja {
namespace {

/// Deepest nesting of expressions and blocks, so that a template can't exhaust the stack.
constexpr int kMaxDepth = 200;
/// A chain such as a + b + c nests to the left without nesting in the source.
constexpr int kMaxTreeDepth = 400;

}  // namespace

ExpressionParser::Depth::Depth(ExpressionParser& parser) : parser_(parser) {
  if (parser.depth_ >= kMaxDepth) parser.refuse(fmt::format("nested deeper than the accepted {} levels", kMaxDepth));
  ++parser.depth_;
}

std::string ExpressionParser::shown() const {
  switch (now().kind) {
    case Token::Kind::text:
      return "text";
    case Token::Kind::print_begin:
      return "'{{'";
    case Token::Kind::block_begin:
      return "'{%'";
    case Token::Kind::print_end:
    case Token::Kind::block_end:
      return "the end of the tag";
    case Token::Kind::end:
      return "the end of the template";
    default:
      return quote(now().value);
  }
}

bool ExpressionParser::skip_sign(std::string_view sign) {
  if (!is_sign(sign)) return false;
  take();
  return true;
}

bool ExpressionParser::skip_name(std::string_view name) {
  if (!is_name(name)) return false;
  take();
  return true;
}

void ExpressionParser::expect_sign(std::string_view sign) {
  if (!skip_sign(sign)) refuse(fmt::format("{} where '{}' is expected", shown(), sign));
}

std::string ExpressionParser::expect_name(std::string_view what) {
  if (now().kind != Token::Kind::name) refuse(fmt::format("{} where {} is expected", shown(), what));
  return take().value;
}

ExpressionPtr ExpressionParser::make(Expression::Kind kind, std::string text) const {
  auto made = std::make_unique<Expression>();
  made->kind = kind;
  made->position = now().position;
  made->text = std::move(text);
  return made;
}

void ExpressionParser::adopt(Expression& whole, ExpressionPtr part) const {
  if (part) whole.depth = std::max(whole.depth, part->depth + 1);
  if (whole.depth > kMaxTreeDepth) refuse(fmt::format("an expression of more than {} steps", kMaxTreeDepth));
  whole.parts.push_back(std::move(part));
}

ExpressionPtr ExpressionParser::both(ExpressionPtr left, std::string sign, ExpressionPtr right) const {
  auto made = make(Expression::Kind::binary, std::move(sign));
  made->position = left->position;
  adopt(*made, std::move(left));
  adopt(*made, std::move(right));
  return made;
}

ExpressionPtr ExpressionParser::expression() {
  const Depth depth(*this);
  auto value = unconditional();
  while (is_name("if")) {
    auto made = make(Expression::Kind::conditional);
    take();
    adopt(*made, std::move(value));
    adopt(*made, unconditional());
    adopt(*made, skip_name("else") ? expression() : nullptr);
    value = std::move(made);
  }
  return value;
}

ExpressionPtr ExpressionParser::unconditional() {
  const Depth depth(*this);
  auto left = conjunction();
  while (skip_name("or")) left = both(std::move(left), "or", conjunction());
  return left;
}

ExpressionPtr ExpressionParser::maybe_list(bool conditional) {
  const auto one = [&] { return conditional ? expression() : unconditional(); };
  auto first = one();
  if (!is_sign(",")) return first;
  auto list = make(Expression::Kind::list, "tuple");
  adopt(*list, std::move(first));
  while (skip_sign(",")) {
    const bool ends = now().kind == Token::Kind::block_end || now().kind == Token::Kind::print_end || is_sign(")");
    if (ends) break;
    adopt(*list, one());
  }
  return list;
}

ExpressionPtr ExpressionParser::conjunction() {
  auto left = negation();
  while (skip_name("and")) left = both(std::move(left), "and", negation());
  return left;
}

ExpressionPtr ExpressionParser::negation() {
  if (!is_name("not")) return comparison();
  const Depth depth(*this);
  auto made = make(Expression::Kind::unary, "not");
  take();
  adopt(*made, negation());
  return made;
}

ExpressionPtr ExpressionParser::comparison() {
  constexpr std::array<std::string_view, 6> kSigns = {"==", "!=", "<", "<=", ">", ">="};
  auto first = sum();
  ExpressionPtr made;
  while (true) {
    std::string sign;
    if (now().kind == Token::Kind::sign && std::find(kSigns.begin(), kSigns.end(), now().value) != kSigns.end()) {
      sign = take().value;
    } else if (skip_name("in")) {
      sign = "in";
    } else if (is_name("not") && ahead().kind == Token::Kind::name && ahead().value == "in") {
      take();
      take();
      sign = "not in";
    } else {
      break;
    }
    if (!made) {
      made = make(Expression::Kind::compare);
      made->position = first->position;
      adopt(*made, std::move(first));
    }
    made->operators.push_back(sign);
    adopt(*made, sum());
  }
  return made ? std::move(made) : std::move(first);
}

ExpressionPtr ExpressionParser::sum() {
  auto left = concatenation();
  while (is_sign("+") || is_sign("-")) {
    const std::string sign = take().value;
    left = both(std::move(left), sign, concatenation());
  }
  return left;
}

ExpressionPtr ExpressionParser::concatenation() {
  auto left = product();
  while (skip_sign("~")) left = both(std::move(left), "~", product());
  return left;
}

ExpressionPtr ExpressionParser::product() {
  auto left = power();
  while (is_sign("*") || is_sign("/") || is_sign("//") || is_sign("%")) {
    const std::string sign = take().value;
    left = both(std::move(left), sign, power());
  }
  return left;
}

ExpressionPtr ExpressionParser::power() {
  auto left = unary();
  while (skip_sign("**")) left = both(std::move(left), "**", unary());
  return left;
}

ExpressionPtr ExpressionParser::unary(bool with_filter) {
  const Depth depth(*this);
  ExpressionPtr value;
  if (is_sign("-") || is_sign("+")) {
    value = make(Expression::Kind::unary, now().value);
    take();
    adopt(*value, unary(false));
  } else {
    value = primary();
  }
  value = postfix(std::move(value));
  return with_filter ? filters(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::primary() {
  auto made = make(Expression::Kind::constant);
  const Token token = now();
  if (token.kind == Token::Kind::name) {
    take();
    const auto& name = token.value;
    if (name == "true" || name == "True" || name == "false" || name == "False") {
      made->constant = name == "true" || name == "True";
    } else if (name != "none" && name != "None") {
      made->kind = Expression::Kind::name;
      made->text = name;
    }
  } else if (token.kind == Token::Kind::string) {
    std::string text;
    while (now().kind == Token::Kind::string) text += take().value;
    made->constant = text;
  } else if (token.kind == Token::Kind::integer) {
    made->constant = take().integer;
  } else if (token.kind == Token::Kind::real) {
    made->constant = take().real;
  } else if (skip_sign("(")) {
    if (is_sign(")")) {
      made->kind = Expression::Kind::list;
      made->text = "tuple";
    } else {
      made = maybe_list(true);
    }
    expect_sign(")");
  } else if (skip_sign("[")) {
    made->kind = Expression::Kind::list;
    while (!is_sign("]")) {
      adopt(*made, expression());
      if (!skip_sign(",")) break;
    }
    expect_sign("]");
  } else if (skip_sign("{")) {
    made->kind = Expression::Kind::dict;
    while (!is_sign("}")) {
      adopt(*made, expression());
      expect_sign(":");
      adopt(*made, expression());
      if (!skip_sign(",")) break;
    }
    expect_sign("}");
  } else {
    refuse(fmt::format("{} where a value is expected", shown()));
  }
  return made;
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr value) {
  while (true) {
    if (is_sign(".") || is_sign("[")) {
      value = subscript(std::move(value));
    } else if (is_sign("(")) {
      auto made = make(Expression::Kind::call);
      adopt(*made, std::move(value));
      arguments(*made);
      value = std::move(made);
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::filters(ExpressionPtr value) {
  while (true) {
    if (skip_sign("|")) {
      auto made = make(Expression::Kind::filter);
      made->text = expect_name("the name of a filter");
      adopt(*made, std::move(value));
      if (is_sign("(")) arguments(*made);
      value = std::move(made);
    } else if (skip_name("is")) {
      value = test(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::test(ExpressionPtr value) {
  const bool negated = skip_name("not");
  auto made = make(Expression::Kind::test);
  made->text = expect_name("the name of a test");
  adopt(*made, std::move(value));
  const auto kind = now().kind;
  const bool simple = kind == Token::Kind::string || kind == Token::Kind::integer || kind == Token::Kind::real ||
                      is_sign("[") || is_sign("{");
  const bool named = kind == Token::Kind::name && !is_name("else") && !is_name("or") && !is_name("and");
  if (is_sign("(")) {
    arguments(*made);
  } else if (simple || named) {  // one argument without brackets
    adopt(*made, postfix(primary()));
  }
  if (!negated) return made;
  auto opposite = make(Expression::Kind::unary, "not");
  opposite->position = made->position;
  adopt(*opposite, std::move(made));
  return opposite;
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr value) {
  auto made = make(Expression::Kind::attribute);
  adopt(*made, std::move(value));
  if (skip_sign(".")) {
    if (now().kind == Token::Kind::integer) {
      made->kind = Expression::Kind::index;
      adopt(*made, primary());
    } else {
      made->text = expect_name("the name of an attribute");
    }
    return made;
  }
  expect_sign("[");
  made->kind = Expression::Kind::index;
  ExpressionPtr bounds[3];
  int colons = 0;
  while (!is_sign("]")) {
    if (skip_sign(":")) {
      made->kind = Expression::Kind::slice;
      if (++colons > 2) refuse("more than two ':' in a slice");
    } else {
      if (bounds[colons]) refuse(fmt::format("{} where ']' is expected", shown()));
      bounds[colons] = expression();
    }
  }
  if (colons == 0 && !bounds[0]) refuse("']' where a value is expected");
  expect_sign("]");
  for (int i = 0; i < (colons == 0 ? 1 : 3); ++i) adopt(*made, std::move(bounds[i]));
  return made;
}

void ExpressionParser::arguments(Expression& call) {
  expect_sign("(");
  while (!is_sign(")")) {
    if (is_sign("*") || is_sign("**")) refuse("arguments with '*', which are not supported");
    if (now().kind == Token::Kind::name && ahead().kind == Token::Kind::sign && ahead().value == "=") {
      std::string name = take().value;
      take();
      auto value = expression();
      call.depth = std::max(call.depth, value->depth + 1);
      call.named.emplace_back(std::move(name), std::move(value));
    } else {
      if (!call.named.empty()) refuse("an argument without a name behind one with a name");
      adopt(call, expression());
    }
    if (!skip_sign(",")) break;
  }
  expect_sign(")");
}

}  // namespace heed::formats::jinja
