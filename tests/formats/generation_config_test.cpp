// Tokens that end a text, and what generation_config.json may not say.
#include "heed/formats/generation_config.h"

#include "heed/formats/json_file.h"
#include "support/test_files.h"

namespace heed::formats::generation_config_test {
namespace {

std::vector<int64_t> ending(std::string_view text) { return parse_ending_tokens(parse_json(text, "here"), "here"); }

TEST(GenerationConfig, NamesOneTokenOrSeveralOrNone) {
  using Ids = std::vector<int64_t>;
  EXPECT_EQ(ending(R"({"eos_token_id": 7})"), Ids{7});
  EXPECT_EQ(ending(R"({"eos_token_id": [7, 3, 7]})"), (Ids{7, 3}));
  EXPECT_EQ(ending(R"({"eos_token_id": [-1, 3]})"), Ids{3});
  EXPECT_EQ(ending(R"({"eos_token_id": null})"), Ids{});
  EXPECT_EQ(ending(R"({"temperature": 1})"), Ids{});
}

TEST(GenerationConfig, RefusesWhatIsNoToken) {
  for (const char* bad : {"[]", "3", R"({"eos_token_id": "</s>"})", R"({"eos_token_id": [1, 2.5]})",
                          R"({"eos_token_id": 99999999999999999999})", R"({"eos_token_id": {"id": 1}})"}) {
    const auto message = error_of([&] { ending(bad); });
    EXPECT_TRUE(message.starts_with("here: ")) << bad << ": " << message;
  }
}

TEST(QuoteValue, QuotesTextOnce) {
  EXPECT_EQ(quote_value("relu6"), "'relu6'");
  EXPECT_EQ(quote_value(3), "'3'");
  EXPECT_EQ(quote_value("3"), "'\"3\"'");  // no number
  EXPECT_EQ(quote_value({{"a", "b"}}), "'{\"a\":\"b\"}'");
}

}  // namespace
}  // namespace heed::formats::generation_config_test
