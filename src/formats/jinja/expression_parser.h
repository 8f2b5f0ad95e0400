// Tokens to expressions.
#pragma once

#include "formats/jinja/syntax.h"

namespace heed::formats::jinja {

/// Walks the tokens of a template; the statements' parser stands on it.
class ExpressionParser {
 public:
  ExpressionParser(std::vector<Token> tokens, std::string_view name) : tokens_(std::move(tokens)), name_(name) {}

 protected:
  const Token& now() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool is_sign(std::string_view sign) const { return now().kind == Token::Kind::sign && now().value == sign; }
  bool is_name(std::string_view name) const { return now().kind == Token::Kind::name && now().value == name; }
  bool skip_sign(std::string_view sign);
  bool skip_name(std::string_view name);
  void expect_sign(std::string_view sign);
  std::string expect_name(std::string_view what);
  [[noreturn]] void refuse(std::string_view what) const { fail_at(name_, now().position, what); }
  /// "'for'", "the end of the tag", ...
  std::string shown() const;

  ExpressionPtr expression();
  /// Without a trailing "if ... else ...", which a loop's own "if" would be taken for.
  ExpressionPtr unconditional();
  /// Expressions with commas between them are a list.
  ExpressionPtr maybe_list(bool conditional);

  /// Counts how deep the parser is in the template while alive.
  class Depth {
   public:
    explicit Depth(ExpressionParser& parser);
    ~Depth() { --parser_.depth_; }

   private:
    ExpressionParser& parser_;
  };

 private:
  ExpressionPtr make(Expression::Kind kind, std::string text = "") const;
  /// Makes `part` the next part of `whole`; null stands for one that is left out.
  void adopt(Expression& whole, ExpressionPtr part) const;
  ExpressionPtr both(ExpressionPtr left, std::string sign, ExpressionPtr right) const;
  ExpressionPtr conjunction();
  ExpressionPtr negation();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr unary(bool with_filter = true);
  ExpressionPtr primary();
  ExpressionPtr postfix(ExpressionPtr value);
  ExpressionPtr filters(ExpressionPtr value);
  ExpressionPtr test(ExpressionPtr value);
  ExpressionPtr subscript(ExpressionPtr value);
  void arguments(Expression& call);

  std::vector<Token> tokens_;
  std::string_view name_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace heed::formats::jinja
