// A template as a tree.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "formats/jinja/lexer.h"
#include "formats/jinja/value.h"

namespace heed::formats::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    constant,     ///< constant
    name,         ///< text
    list,         ///< parts; text: "tuple", or empty
    dict,         ///< parts: key, value, key, value...
    attribute,    ///< parts[0].text
    index,        ///< parts[0][parts[1]]
    slice,        ///< parts[0][parts[1]:parts[2]:parts[3]], null where left out
    call,         ///< parts[0](parts[1..], named)
    filter,       ///< parts[0] | text(parts[1..], named)
    test,         ///< parts[0] is text(parts[1..])
    unary,        ///< text: "-", "+", "not"
    binary,       ///< parts[0] text parts[1]: arithmetic, "~", "and", "or"
    compare,      ///< parts[0] operators[0] parts[1] operators[1] parts[2]...
    conditional,  ///< parts[0] if parts[1] else parts[2], null where left out
  };
  Kind kind = Kind::constant;
  Position position;
  Value constant;
  std::string text;
  std::vector<ExpressionPtr> parts;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  std::vector<std::string> operators;
  int depth = 0;  ///< of the tree below
};

struct Statement;
using Block = std::vector<Statement>;

struct Statement {
  enum class Kind {
    text,       ///< text
    print,      ///< value
    branch,     ///< if value: body, else other
    loop,       ///< for targets in value if condition: body, else other
    set,        ///< targets = value; one with a member: namespace.member
    set_block,  ///< targets[0] = what body prints
    group,      ///< body; {% generation %}
    leave,      ///< break
    next,       ///< continue
  };
  Kind kind = Kind::text;
  Position position;
  std::string text, member;
  std::vector<std::string> targets;
  bool unpacks = false;  ///< the targets take the parts of the value
  ExpressionPtr value, condition;
  Block body, other;
};

/// Throws heed::Error "<name>: line, column: what" for what is no template or not supported.
Block parse(std::string_view source, std::string_view name);

}  // namespace heed::formats::jinja
