#include "heed/formats/chat_template.h"

#include <algorithm>
#include <ctime>
#include <map>
#include <random>

#include "heed/formats/json_file.h"
#include "heed/formats/tokenizer.h"
#include "support/test_files.h"

namespace heed::formats::chat_template_test {
namespace {

using Json = nlohmann::ordered_json;

// HEED_CHAT_FIXTURES names another file that tests/formats/fixtures/make_chat_templates.py has made.
Json fixtures() {
  const char* other = std::getenv("HEED_CHAT_FIXTURES");
  return Json::parse(
      slurp(other ? other : std::string(HEED_TEST_SOURCE_DIR) + "/formats/fixtures/chat_templates.json"));
}

std::string render(std::string_view text, const Json& variables = Json::object()) {
  return ChatTemplate::parse(text, "chat").render(Json::array(), true, variables);
}

std::string refusal(std::string_view text) {
  return error_of([&] { render(text); });
}

TEST(ChatTemplate, RendersAsTransformersDoes) {
  const Json all = fixtures();
  for (const auto& item : all["templates"]) {
    SCOPED_TRACE(item["name"].get<std::string>() + ": " + item["template"].get<std::string>());
    for (const auto& want : item["cases"]) {
      Json variables = all["tokens"];
      variables.update(all["variables"][want["variables"].get<size_t>()]);
      const Json& talk = all["talks"][want["talk"].get<size_t>()];
      std::string text, error;
      try {
        text = ChatTemplate::parse(item["template"].get<std::string>(), "chat").render(talk, want["prompt"], variables);
      } catch (const Error& thrown) {
        error = thrown.what();
      }
      if (want["text"].is_null()) {
        EXPECT_FALSE(error.empty()) << "rendered " << text << "\nof " << talk;
      } else {
        EXPECT_EQ(error, "") << talk;
        EXPECT_EQ(text, want["text"].get<std::string>()) << talk << variables;
      }
    }
  }
}

// What a template writes out is read as the tokens it names, once each.
TEST(ChatTemplate, SpecialTokensOfARenderedTalkAreParsed) {
  const auto folder = std::filesystem::path(HEED_TEST_SOURCE_DIR) / "formats/fixtures/tokenizers/llama3";
  const auto tokenizer = Tokenizer::open(folder);
  const Json all = fixtures();
  const auto llama3 = std::find_if(all["templates"].begin(), all["templates"].end(),
                                   [](const Json& item) { return item["name"] == "llama3"; });
  ASSERT_NE(llama3, all["templates"].end());
  const auto text =
      ChatTemplate::parse((*llama3)["template"].get<std::string>(), "chat")
          .render(
              Json::array({{{"role", "system"}, {"content", "Be brief."}}, {{"role", "user"}, {"content", "Hello"}}}),
              true, {{"bos_token", "<|begin_of_text|>"}});
  const auto ids = tokenizer.encode(text, false);
  std::map<std::string, int> special;
  for (const auto id : ids)
    if (tokenizer.is_special(id)) ++special[*tokenizer.token_of(id)];
  const std::map<std::string, int> expected = {{"<|begin_of_text|>", 1}, {"<|eot_id|>", 2}};
  EXPECT_EQ(special, expected) << text;
  EXPECT_EQ(ids.front(), *tokenizer.id_of("<|begin_of_text|>"));
  EXPECT_EQ(tokenizer.decode(ids, false), text);
}

TEST(ChatTemplate, ComesFromAGgufFile) {
  const auto folder = std::filesystem::path(HEED_TEST_SOURCE_DIR) / "formats/fixtures";
  EXPECT_FALSE(ChatTemplate::open(folder / "every_type.gguf").has_value());
  const auto chat = ChatTemplate::open(folder / "llama.gguf");
  ASSERT_TRUE(chat.has_value());
  EXPECT_EQ(chat->render(Json::array({{{"role", "user"}, {"content", "Hello"}}})), "<s>[INST] Hello [/INST]");
}

TEST(ChatTemplate, KnowsTheDay) {
  const std::time_t before = std::time(nullptr);
  const std::string year = render("{{ strftime_now('%Y') }}");
  std::tm local{};
  EXPECT_TRUE(year == std::to_string(1900 + ::localtime_r(&before, &local)->tm_year) ||
              year == std::to_string(1901 + local.tm_year));
}

TEST(ChatTemplate, ComesFromAModelDirectory) {
  const TemporaryDirectory folder;
  EXPECT_FALSE(ChatTemplate::open(folder.path()).has_value());
  const auto text = [&] { return ChatTemplate::open(folder.path())->render(Json::array()); };
  spill(folder / "tokenizer_config.json",
        R"({"bos_token": {"content": "<b>"}, "chat_template": "one {{ bos_token }}"})");
  spill(folder / "special_tokens_map.json", R"({"bos_token": "<other>", "eos_token": "<e>"})");
  EXPECT_EQ(text(), "one <b>");
  spill(
      folder / "tokenizer_config.json",
      R"({"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "two {{ eos_token }}"}]})");
  EXPECT_EQ(text(), "two <e>");
  spill(folder / "chat_template.jinja", "file {{ bos_token }}\n");
  EXPECT_EQ(text(), "file <other>");
  std::filesystem::remove(folder / "chat_template.jinja");
  spill(folder / "tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "x"}]})");
  EXPECT_NE(error_of([&] { text(); }).find("a template named default"), std::string::npos);
  spill(folder / "tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_NE(error_of([&] { text(); }).find("chat_template is '5', accepted: a string"), std::string::npos);
  spill(folder / "tokenizer_config.json", R"({"chat_template": "{% if %}"})");
  EXPECT_NE(error_of([&] { text(); }).find("tokenizer_config.json: chat_template: line 1, column 7"),
            std::string::npos);
}

TEST(ChatTemplate, RefusesWithAPosition) {
  const auto refused = [](std::string_view text, std::string_view expected) {
    SCOPED_TRACE(std::string(text));
    const auto message = refusal(text);
    EXPECT_TRUE(message.starts_with("chat: line ")) << message;
    EXPECT_NE(message.find(expected), message.npos) << message << "\nexpected: " << expected;
  };
  refused("a\n  {% macro x() %}{% endmacro %}", "line 2, column 6: the tag 'macro', accepted: if, for, set");
  refused("{% include 'x' %}", "the tag 'include'");
  refused("{% if 1 %}", "the tag of line 1, column 4 has no endif");
  refused("{% for x in y %}{% endif %}", "the tag 'endif'");
  refused("{% endfor %}", "the tag 'endfor'");
  refused("{% for x y %}{% endfor %}", "'y' where 'in' is expected");
  refused("{% for x in y recursive %}{% endfor %}", "recursive");
  refused("{% break %}", "'break' outside of a loop");
  refused("{{ 1", "line 1, column 1: a tag that does not end");
  refused("x{# y", "line 1, column 2: a comment that does not end");
  refused("{{ 'x }}", "line 1, column 4: a string that does not end");
  refused("{{ (1 }}", "'}' without '{'");
  refused("{{ 1) }}", "')' without '('");
  refused("{{ 1 2 }}", "'2' where the end of the tag is expected");
  refused("{{ }}", "the end of the tag where a value is expected");
  refused("{{ a ! b }}", "the character '!'");
  refused("{{ 99999999999999999999 }}", "too large");
  refused("{{ '\\ud800' }}", "no character");
  refused("{{ x | frobnicate }}", "line 1, column 8: the filter 'frobnicate', accepted: abs, ");
  refused("{{ x is frobnicated }}", "the test 'frobnicated', accepted: defined");
  refused("{{ 'x'.frobnicate() }}", "the method 'frobnicate' of a string, accepted: strip");
  refused("{{ 1.5.x() }}", "");
  refused("{{ f(*x) }}", "'*', which are not supported");
  refused("{{ f(a=1, 2) }}", "without a name behind one with a name");
  refused("{{ 'a' | trim(1, 2) }}", "2 arguments, accepted: at most 1");
  refused("{{ [] | tojson(color=1) }}", "the argument 'color'");
  refused("{{ a.b }}", "'a' is undefined");
  refused("{{ nothing() }}", "'nothing' is undefined");
  refused("{{ 9223372036854775807 + 1 }}", "beyond 64 bits");
  refused("{{ (0 - 9223372036854775807 - 1) // -1 }}", "beyond 64 bits");
  refused("{{ 2 ** 64 }}", "beyond 64 bits");
  refused("{{ 1 % 0 }}", "division by zero");
  refused("{% set x.y = 1 %}", "'x' is an undefined value, accepted: a namespace");
  refused("{{ range }}", "a function cannot be printed");
  refused("{{ namespace() | tojson }}", "a namespace cannot be written as JSON");
  refused("{{ raise_exception('two\nlines') }}", "the template refuses the conversation: two lines");
  EXPECT_NE(error_of([] { ChatTemplate::parse("a\xff", "chat"); }).find("no UTF-8 at byte 1"), std::string::npos);
  const auto identity = ChatTemplate::parse("{{ messages[0].content }}", "chat");
  EXPECT_NE(error_of([&] { identity.render({{{"content", "\xff"}}}); }).find("no UTF-8"), std::string::npos);
  EXPECT_NE(error_of([&] { identity.render({"text"}); }).find("no object with a role"), std::string::npos);
  EXPECT_NE(error_of([&] { identity.render("text"); }).find("are no list"), std::string::npos);
}

TEST(ChatTemplateHostile, EndsInTimeAndSpace) {
  const auto refused = [](const std::string& text, std::string_view expected) {
    SCOPED_TRACE(text.substr(0, 120));
    const auto message = refusal(text);
    EXPECT_NE(message.find(expected), message.npos) << message;
  };
  refused("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "too many steps");
  refused("{{ range(10 ** 18) }}", "range() of more than 100000 numbers");
  refused("{{ 'x' * 10 ** 12 }}", "accepted: at most 67108864");
  refused("{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
          "too many steps");
  refused("{% set s = 'x' * 1000000 %}{{ s | replace('x', s) }}", "accepted: at most 67108864");
  refused("{% set s = 'x' * 60000000 %}{{ s }}{{ s }}", "accepted: at most 67108864");
  refused("{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}",
          "nested deeper");
  refused("{% set ns = namespace() %}{% set ns.me = ns %}", "a namespace inside a namespace");
  refused("{% set ns = namespace() %}{% set ns.me = [{'a': ns}] %}", "a namespace inside a namespace");
  refused("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}", "nested deeper than the accepted 200");
  refused("{{ " + std::string(5000, '[') + "1" + std::string(5000, ']') + " }}", "nested deeper than the accepted 200");
  refused("{{ " + std::string(5000, '-') + "1 }}", "nested deeper than the accepted 200");
  std::string chain = "{{ 1", calls = "{{ x", parts = "{{ x", open, shut;
  for (int i = 0; i < 5000; ++i) {
    chain += " + 1";
    calls += "|trim";
    parts += "[0]";
    open += "{% if 1 %}";
    shut += "{% endif %}";
  }
  refused(chain + " }}", "an expression of more than 400 steps");
  refused(calls + " }}", "an expression of more than 400 steps");
  refused(parts + " }}", "an expression of more than 400 steps");
  refused(open + shut, "nested deeper than the accepted 200");
  refused(std::string(2 << 20, 'x'), "accepted: at most 1048576");
  Json deep = 1;
  for (int i = 0; i < 80; ++i) deep = Json::array({deep});
  EXPECT_NE(error_of([&] { render("x", {{"deep", deep}}); }).find("nests deeper"), std::string::npos);
}

TEST(ChatTemplateHostile, RandomDamage) {
  const Json all = fixtures();
  int accepted = 0;
  for (const auto& item : all["templates"]) {
    const auto good = item["template"].get<std::string>();
    for (uint32_t seed = 0; seed < 60; ++seed) {
      SCOPED_TRACE(fmt::format("{}, seed {}", item["name"].dump(), seed));
      std::mt19937 random(seed);
      std::string text = good;
      for (uint32_t edits = 1 + random() % 3; edits > 0 && !text.empty(); --edits) {
        const size_t at = random() % text.size();
        if (random() % 2 == 0) {
          text[at] = "{}%#-+()[].,|~=<>'\" \nabx019\xc3"[random() % 29];
        } else {
          text.erase(at, 1 + random() % 4);
        }
      }
      try {
        ChatTemplate::parse(text, "damaged").render(all["talks"][seed % all["talks"].size()], true, all["tokens"]);
        ++accepted;
      } catch (const Error& error) {
        EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      }
    }
  }
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace heed::formats::chat_template_test
