#include <initializer_list>

#include "formats/jinja/expression_parser.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats::jinja {
namespace {

using Kind = Statement::Kind;

class Parser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Block all() { return block({}, {}); }

 private:
  Statement make(Kind kind) const {
    Statement made;
    made.kind = kind;
    made.position = now().position;
    return made;
  }

  void end_tag() {
    if (now().kind != Token::Kind::block_end) refuse(fmt::format("{} where the end of the tag is expected", shown()));
    take();
  }

  // Up to a tag with one of the names in `ends`, which is left to the caller with its name next.
  Block block(std::initializer_list<std::string_view> ends, Position begin) {
    const Depth depth(*this);
    Block made;
    while (now().kind != Token::Kind::end) {
      if (now().kind == Token::Kind::text) {
        made.push_back(make(Kind::text));
        made.back().text = take().value;
      } else if (now().kind == Token::Kind::print_begin) {
        take();
        made.push_back(make(Kind::print));
        made.back().value = maybe_list(true);
        if (now().kind != Token::Kind::print_end) {
          refuse(fmt::format("{} where the end of the tag is expected", shown()));
        }
        take();
      } else {
        take();
        for (const auto end : ends) {
          if (is_name(end)) return made;
        }
        made.push_back(statement());
      }
    }
    if (ends.size() > 0) {
      refuse(fmt::format("the tag of line {}, column {} has no {}", begin.line, begin.column, *std::prev(ends.end())));
    }
    return made;
  }

  Statement statement() {
    const Position begin = now().position;
    if (skip_name("if")) return branch(begin);
    if (skip_name("for")) return loop(begin);
    if (skip_name("set")) return set(begin);
    if (skip_name("generation")) {
      auto made = make(Kind::group);
      end_tag();
      made.body = block({"endgeneration"}, begin);
      take();
      end_tag();
      return made;
    }
    if (is_name("break") || is_name("continue")) {
      if (loops_ == 0) refuse(fmt::format("'{}' outside of a loop", now().value));
      auto made = make(is_name("break") ? Kind::leave : Kind::next);
      take();
      end_tag();
      return made;
    }
    refuse(fmt::format("the tag {}, accepted: if, for, set, generation, break, continue", shown()));
  }

  Statement branch(Position begin) {
    auto made = make(Kind::branch);
    made.value = maybe_list(false);
    end_tag();
    made.body = block({"elif", "else", "endif"}, begin);
    if (skip_name("elif")) {
      const Depth depth(*this);
      made.other.push_back(branch(begin));
      return made;  // the inner one takes endif
    }
    if (skip_name("else")) {
      end_tag();
      made.other = block({"endif"}, begin);
    }
    take();
    end_tag();
    return made;
  }

  Statement loop(Position begin) {
    auto made = make(Kind::loop);
    targets(made);
    if (!skip_name("in")) refuse(fmt::format("{} where 'in' is expected", shown()));
    made.value = maybe_list(false);
    if (skip_name("if")) made.condition = expression();
    if (is_name("recursive")) refuse("a recursive loop, which is not supported");
    end_tag();
    ++loops_;
    made.body = block({"else", "endfor"}, begin);
    --loops_;
    if (skip_name("else")) {
      end_tag();
      made.other = block({"endfor"}, begin);
    }
    take();
    end_tag();
    return made;
  }

  Statement set(Position begin) {
    auto made = make(Kind::set);
    targets(made);
    if (!made.unpacks && skip_sign(".")) made.member = expect_name("the name of an attribute");
    if (skip_sign("=")) {
      made.value = maybe_list(true);
      end_tag();
      return made;
    }
    if (made.unpacks || now().kind != Token::Kind::block_end) refuse(fmt::format("{} where '=' is expected", shown()));
    made.kind = Kind::set_block;
    end_tag();
    made.body = block({"endset"}, begin);
    take();
    end_tag();
    return made;
  }

  void targets(Statement& made) {
    const bool bracket = skip_sign("(");
    do {
      made.targets.push_back(expect_name("the name of a variable"));
    } while (skip_sign(","));
    if (bracket) expect_sign(")");
    made.unpacks = made.targets.size() > 1;
  }

  int loops_ = 0;
};

}  // namespace

Block parse(std::string_view source, std::string_view name) { return Parser(tokenize(source, name), name).all(); }

}  // namespace heed::formats::jinja
