// One format for numbers and rules of heads: what is saved is loaded, what does not fit is refused with its place.
#include "heed/checkpoint/head_table.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "support/temporary_directory.h"

namespace heed::checkpoint::head_table_test {
namespace {

using nlohmann::json;

std::string refusal(const json& value) {
  try {
    HeadTable::parse(value, "t.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(HeadTable, NumbersComeBack) {
  TemporaryDirectory directory;
  HeadTable table("retrieval_score", HeadTable::Axis::query, 2, 4);
  table.set(0, 3, 0.1);
  table.set(1, 0, 1e-300);
  table.set(1, 1, 2);
  table.save(directory / "t.json");
  const auto back = HeadTable::load(directory / "t.json");
  EXPECT_EQ(back.name(), "retrieval_score");
  EXPECT_EQ(back.axis(), HeadTable::Axis::query);
  EXPECT_EQ(back.layers(), 2);
  EXPECT_EQ(back.heads(), 4);
  for (int64_t l = 0; l < 2; ++l)
    for (int64_t h = 0; h < 4; ++h) EXPECT_EQ(back.number(l, h), table.number(l, h)) << l << " " << h;
  EXPECT_EQ(back.per_kv_head(2), (std::vector<std::vector<double>>{{0, 0.1}, {2, 0}}));
}

TEST(HeadTable, RulesComeBack) {
  TemporaryDirectory directory;
  HeadTable table("moa", HeadTable::Axis::kv, 1, 2);
  table.set(0, 0, {{"a", 64}, {"b", 0.5}});
  EXPECT_THROW(table.save(directory / "t.json"), Error);  // half numbers, half rules
  EXPECT_FALSE(std::filesystem::exists(directory / "t.json"));
  table.set(0, 1, {{"a", 128}, {"b", 0}});
  table.save(directory / "t.json");
  const auto back = HeadTable::load(directory / "t.json");
  EXPECT_TRUE(back.holds_rules());
  EXPECT_EQ(back.at(0, 0)["b"].get<double>(), 0.5);
  EXPECT_THROW(back.number(0, 0), Error);
}

TEST(HeadTable, MustFitTheModel) {
  const HeadTable kv("gates", HeadTable::Axis::kv, 3, 2), query("scores", HeadTable::Axis::query, 3, 8);
  EXPECT_NO_THROW(kv.check_fits(3, 8, 2));
  EXPECT_NO_THROW(query.check_fits(3, 8, 2));
  EXPECT_THROW(kv.check_fits(4, 8, 2), Error);
  EXPECT_THROW(kv.check_fits(3, 8, 8), Error);
  EXPECT_THROW(query.check_fits(3, 2, 2), Error);
}

TEST(HeadTable, RefusalsNameThePlace) {
  const json good{{"name", "x"}, {"heads", "kv"}, {"values", {{1, 2}, {3, 4}}}};
  EXPECT_EQ(refusal(good), "");
  const auto with = [&](const char* key, const json& value) {
    auto changed = good;
    changed[key] = value;
    return refusal(changed);
  };
  EXPECT_NE(with("heads", "all").find("query or kv"), std::string::npos) << with("heads", "all");
  EXPECT_NE(with("values", {{1, 2}, {3}}).find("values[1]"), std::string::npos);
  EXPECT_NE(with("values", {{1, 2}, {3, "4"}}).find("values[1][1]"), std::string::npos);
  EXPECT_NE(with("values", {{1, 2}, {3, json::object()}}).find("finite number"), std::string::npos);
  EXPECT_NE(with("values", {{1, 2}, {3, nullptr}}).find("values[1][1]"), std::string::npos);
  EXPECT_NE(with("values", json::array()).find("layers"), std::string::npos);
  EXPECT_NE(with("values", json::array({json::array()})).find("heads"), std::string::npos);
  EXPECT_NE(with("values", 7).find("a list"), std::string::npos);
  EXPECT_NE(with("colour", 7).find("colour"), std::string::npos);
  EXPECT_NE(refusal(json::array()).find("an object"), std::string::npos);
  EXPECT_NE(refusal({{"name", "x"}, {"heads", "kv"}}).find("values is missing"), std::string::npos);
}

TEST(HeadTable, FilesThatAreNoTableAreRefused) {
  TemporaryDirectory directory;
  const auto path = directory / "t.json";
  EXPECT_THROW(HeadTable::load(path), Error);
  for (const char* text : {"", "{", R"({"name":"x","heads":"kv","values":[[1e999]]})", "\xff\xfe", "[[1,2],[3,4]]"}) {
    formats::write_file(path, text);
    EXPECT_THROW(HeadTable::load(path), Error) << text;
  }
}

}  // namespace
}  // namespace heed::checkpoint::head_table_test
