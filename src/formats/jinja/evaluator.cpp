#include "formats/jinja/evaluator.h"

#include <algorithm>

#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats::jinja {
namespace {

/// Steps, with a share for every byte that is moved: some seconds at most.
constexpr size_t kMaxWork = size_t{1} << 25;

size_t weight(const Value& value) {
  if (value.text()) return 1 + value.text()->size() / 32;
  if (value.list()) return 1 + value.list()->size();
  return 1 + (value.dict() ? value.dict()->items.size() : 0);
}

// Calls `action` and gives its Problem a place.
template <class Action>
auto placed(std::string_view name, Position position, const Action& action) {
  try {
    return action();
  } catch (const Problem& problem) {
    fail_at(name, position, problem.what());
  }
}

}  // namespace

void Evaluator::spend(size_t work) {
  spent_ += work;
  if (spent_ > kMaxWork) throw Problem("the template takes too many steps");
}

void Evaluator::print(std::string_view text) {
  check_text(out_.size() + text.size());
  out_ += text;
}

Value Evaluator::checked(Value value) const {
  if (value.nesting() > Value::kMaxNesting) {
    throw Problem(fmt::format("lists nested deeper than the accepted {} levels", Value::kMaxNesting));
  }
  return value;
}

std::string Evaluator::render(const Block& block) {
  run(block);
  return std::move(out_);
}

Evaluator::Flow Evaluator::run(const Block& block) {
  for (const auto& statement : block) {
    if (const Flow flow = run(statement); flow != Flow::on) return flow;
  }
  return Flow::on;
}

Evaluator::Flow Evaluator::run(const Statement& statement) {
  placed(name_, statement.position, [&] { spend(1); });
  switch (statement.kind) {
    case Statement::Kind::text:
      placed(name_, statement.position, [&] { print(statement.text); });
      return Flow::on;
    case Statement::Kind::print: {
      const Value value = evaluate(*statement.value);
      placed(name_, statement.position, [&] { print(value.str()); });
      return Flow::on;
    }
    case Statement::Kind::branch:
      return run(evaluate(*statement.value).truthy() ? statement.body : statement.other);
    case Statement::Kind::loop:
      return loop(statement);
    case Statement::Kind::set:
      assign(statement, evaluate(*statement.value));
      return Flow::on;
    case Statement::Kind::set_block: {
      std::string outside = std::exchange(out_, "");
      scopes_.emplace_back();
      const Flow flow = run(statement.body);
      scopes_.pop_back();
      assign(statement, std::exchange(out_, std::move(outside)));
      return flow;
    }
    case Statement::Kind::group: {
      scopes_.emplace_back();
      const Flow flow = run(statement.body);
      scopes_.pop_back();
      return flow;
    }
    case Statement::Kind::leave:
      return Flow::leave;
    case Statement::Kind::next:
      return Flow::next;
  }
  return Flow::on;
}

void Evaluator::bind(const Statement& statement, const Value& value) {
  if (!statement.unpacks) {
    scopes_.back().set(statement.targets[0], value);
    return;
  }
  const List parts = items_of(value);
  if (parts.size() != statement.targets.size()) {
    throw Problem(fmt::format("{} values for {} variables", parts.size(), statement.targets.size()));
  }
  for (size_t i = 0; i < parts.size(); ++i) scopes_.back().set(statement.targets[i], parts[i]);
}

void Evaluator::assign(const Statement& statement, const Value& value) {
  placed(name_, statement.position, [&] {
    if (statement.member.empty()) return bind(statement, value);
    const Value target = look_up(statement.targets[0]);
    if (!target.dict() || !target.dict()->is_namespace) {
      throw Problem(fmt::format("{} is {}, accepted: a namespace", quote(statement.targets[0]), target.kind()));
    }
    if (value.holds_namespace()) throw Problem("a namespace inside a namespace");
    target.dict()->set(statement.member, value);
  });
}

Evaluator::Flow Evaluator::loop(const Statement& statement) {
  const Value over = evaluate(*statement.value);
  List items = placed(name_, statement.position, [&] { return items_of(over); });
  if (statement.condition) {
    List chosen;
    for (auto& item : items) {
      scopes_.emplace_back();
      placed(name_, statement.position, [&] { bind(statement, item); });
      const bool holds = evaluate(*statement.condition).truthy();
      scopes_.pop_back();
      if (holds) chosen.push_back(std::move(item));
    }
    items = std::move(chosen);
  }
  if (items.empty()) return run(statement.other);
  const auto count = static_cast<int64_t>(items.size());
  for (int64_t i = 0; i < count; ++i) {
    const Value undefined = Value::Undefined{"a neighbour beyond the end"};
    Dict place;
    place.items = {{"index", i + 1},
                   {"index0", i},
                   {"revindex", count - i},
                   {"revindex0", count - i - 1},
                   {"first", i == 0},
                   {"last", i + 1 == count},
                   {"length", count},
                   {"depth", 1},
                   {"depth0", 0},
                   {"previtem", i > 0 ? items[static_cast<size_t>(i - 1)] : undefined},
                   {"nextitem", i + 1 < count ? items[static_cast<size_t>(i + 1)] : undefined}};
    scopes_.emplace_back();
    scopes_.back().set("loop", std::move(place));
    placed(name_, statement.position, [&] {
      spend(16 + 3 * weight(items[static_cast<size_t>(i)]));
      bind(statement, items[static_cast<size_t>(i)]);
    });
    const Flow flow = run(statement.body);
    scopes_.pop_back();
    if (flow == Flow::leave) break;
  }
  return Flow::on;
}

Value Evaluator::look_up(const std::string& name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const Value* value = scope->find(name)) return *value;
  }
  if (is_function(name)) return Value::Function{name};
  return Value::Undefined{name};
}

Value Evaluator::evaluate(const Expression& expression) {
  return placed(name_, expression.position, [&] {
    Value value = compute(expression);
    spend(weight(value));
    return value;
  });
}

Value Evaluator::optional(const Expression& expression, size_t part) {
  return expression.parts[part] ? evaluate(*expression.parts[part]) : Value();
}

Arguments Evaluator::arguments(const Expression& expression) {
  Arguments made;
  for (size_t i = 1; i < expression.parts.size(); ++i) made.values.push_back(evaluate(*expression.parts[i]));
  for (const auto& [name, value] : expression.named) made.named.emplace_back(name, evaluate(*value));
  return made;
}

Value Evaluator::binary(const Expression& expression) {
  Value left = evaluate(*expression.parts[0]);
  if (expression.text == "and") return left.truthy() ? evaluate(*expression.parts[1]) : left;
  if (expression.text == "or") return left.truthy() ? left : evaluate(*expression.parts[1]);
  const Value right = evaluate(*expression.parts[1]);
  spend((left.text() ? left.text()->size() : 0) + (right.text() ? right.text()->size() : 0));
  return arithmetic(expression.text, left, right);
}

Value Evaluator::call(const Expression& expression) {
  const Expression& callee = *expression.parts[0];
  if (callee.kind == Expression::Kind::attribute) {
    const Value object = evaluate(*callee.parts[0]);
    return checked(call_method(object, callee.text, arguments(expression)));
  }
  const Value function = evaluate(callee);
  if (const auto* known = function.as<Value::Function>()) {
    return checked(call_function(known->name, arguments(expression)));
  }
  if (function.is_undefined()) {
    throw Problem(fmt::format("{} is undefined", quote(function.as<Value::Undefined>()->name)));
  }
  throw Problem(fmt::format("{} is called", function.kind()));
}

Value Evaluator::compute(const Expression& expression) {
  using Kind = Expression::Kind;
  const auto part = [&](size_t i) { return evaluate(*expression.parts[i]); };
  switch (expression.kind) {
    case Kind::constant:
      return expression.constant;
    case Kind::name:
      return look_up(expression.text);
    case Kind::list: {
      List list;
      for (const auto& item : expression.parts) list.push_back(evaluate(*item));
      return checked(expression.text == "tuple" ? Value::tuple(std::move(list)) : Value(std::move(list)));
    }
    case Kind::dict: {
      Dict dict;
      for (size_t i = 0; i < expression.parts.size(); i += 2) {
        const Value key = part(i);
        if (!key.text()) throw Problem(fmt::format("a dict with {} as a key, accepted: a string", key.kind()));
        dict.set(*key.text(), part(i + 1));
      }
      return checked(dict);
    }
    case Kind::attribute:
      return attribute_of(part(0), expression.text);
    case Kind::index:
      return item_of(part(0), part(1));
    case Kind::slice:
      return slice_of(part(0), optional(expression, 1), optional(expression, 2), optional(expression, 3));
    case Kind::call:
      return call(expression);
    case Kind::filter: {
      const Value value = part(0);
      return checked(apply_filter(expression.text, value, arguments(expression)));
    }
    case Kind::test: {
      const Value value = part(0);
      return apply_test(expression.text, value, arguments(expression));
    }
    case Kind::unary: {
      const Value value = part(0);
      if (expression.text == "not") return !value.truthy();
      if (expression.text == "+" && value.number()) return value;
      return negative(value);
    }
    case Kind::binary:
      return binary(expression);
    case Kind::compare: {
      Value left = part(0);
      for (size_t i = 0; i < expression.operators.size(); ++i) {
        Value right = part(i + 1);
        if (!compare(expression.operators[i], left, right)) return false;
        left = std::move(right);
      }
      return true;
    }
    case Kind::conditional:
      if (part(1).truthy()) return part(0);
      return expression.parts[2] ? part(2) : Value(Value::Undefined{"the value without an else"});
  }
  return Value();
}

}  // namespace heed::formats::jinja
