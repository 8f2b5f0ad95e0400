// What holds for every intervention, and head_temperature by the formula.
#include "heed/steer/intervention.h"

#include <gtest/gtest.h>

#include <fstream>

#include "cache/small_model.h"
#include "heed/assets.h"
#include "heed/checkpoint/head_table.h"
#include "heed/error.h"
#include "heed/steer/head_search.h"
#include "steer/weights.h"
#include "support/temporary_directory.h"

namespace heed::steer::interventions_test {
namespace {

using nlohmann::json;
using testing::largest_difference;
using testing::random_tokens;
using torch::Tensor;

constexpr int64_t kPrompt = 87, kSteps = 20;

class Interventions : public ::testing::TestWithParam<size_t> {
 protected:
  const InterventionRow& row() const { return interventions()[GetParam()]; }
  Tensor logits(json settings, const Tensor& tokens, int64_t chunk = 1000, const json& heads = nullptr) {
    if (!heads.is_null()) settings["heads"] = heads;
    cache::Session session(model, make_intervention(row().row.name, settings, cache::shape_of(model->config())),
                           tokens.size(0), chunk);
    const auto first = session.prefill(tokens.narrow(1, 0, kPrompt));
    return torch::cat({first.unsqueeze(1), session.steps(tokens.slice(1, kPrompt))}, 1);
  }
  DecoderLm model = testing::small_decoder(4, 2, 3);
  Tensor tokens = random_tokens(2, kPrompt + kSteps, 5);
};

INSTANTIATE_TEST_SUITE_P(All, Interventions, ::testing::Range(size_t{0}, interventions().size()),
                         [](const auto& info) { return interventions()[info.param].row.name; });

TEST_P(Interventions, NeutralOnesChangeNothing) {
  const auto want = model->forward(tokens).slice(1, kPrompt - 1);
  EXPECT_LE(largest_difference(logits(row().neutral, tokens), want), 1e-5 * want.abs().max().item<double>());
}

TEST_P(Interventions, StrongOnesChangeTheirHeadsOnly) {
  const auto plain = logits(row().strong, tokens, 1000, "none");
  EXPECT_GT(largest_difference(logits(row().strong, tokens), plain), 1e-3);
  const auto want = model->forward(tokens).slice(1, kPrompt - 1);
  EXPECT_LE(largest_difference(plain, want), 1e-5 * want.abs().max().item<double>());
}

TEST_P(Interventions, ChunksOfAPromptDoNotMatter) {
  const auto want = logits(row().strong, tokens);
  for (const int64_t chunk : {1, 7, 64})
    EXPECT_LE(largest_difference(logits(row().strong, tokens, chunk), want), 1e-4 * want.abs().max().item<double>())
        << chunk;
}

TEST_P(Interventions, SequencesOfABatchDoNotSeeEachOther) {
  const auto both = logits(row().strong, tokens);
  for (int64_t b = 0; b < 2; ++b)
    EXPECT_LE(largest_difference(logits(row().strong, tokens.narrow(0, b, 1)), both.narrow(0, b, 1)),
              1e-5 * both.abs().max().item<double>());
}

TEST_P(Interventions, HeadsComeFromAFile) {
  TemporaryDirectory directory;
  const auto file = (directory / "heads.json").string();
  checkpoint::HeadTable table("chosen", checkpoint::HeadTable::Axis::query, 3, 4);
  table.set(1, 2, 0.5);
  table.set(2, 0, 1);
  table.save(file);
  EXPECT_TRUE(
      torch::equal(logits(row().strong, tokens, 1000, file), logits(row().strong, tokens, 1000, {{1, 2}, {2, 0}})));
}

TEST_P(Interventions, TheirParametersAreNamed) {
  EXPECT_EQ(row().row.kind, Kind::intervention);
  auto settings = row().strong;
  for (const auto& parameter : row().row.parameters) {
    EXPECT_FALSE(parameter.meaning.empty());
    if (!settings.contains(parameter.name)) settings[parameter.name] = parameter.fallback;
  }
  EXPECT_NO_THROW(make_intervention(row().row.name, settings, cache::shape_of(model->config())));
  settings["no_such_setting"] = 1;
  EXPECT_THROW(make_intervention(row().row.name, settings, cache::shape_of(model->config())), Error);
}

TEST(HeadTemperature, DividesLogitsInItsHeads) {
  auto text = testing::one_hot_text(2, 4, 2, 40, 9);
  const auto plain = testing::plain_weights(text);
  TemporaryDirectory directory;
  const auto file = (directory / "temperatures.json").string();
  checkpoint::HeadTable table("temperature", checkpoint::HeadTable::Axis::query, 1, 4);
  const std::vector<double> temperatures{1, 0.5, 1, 4};
  for (int64_t h = 0; h < 4; ++h) table.set(0, h, temperatures[size_t(h)]);
  table.save(file);
  const auto got = testing::weights_under("head_temperature", {{"temperatures", file}}, text, 30, 30);
  const auto full = testing::weights_under("head_temperature", {{"heads", "none"}}, text, 30, 30);
  for (int64_t h = 0; h < 4; ++h) {
    const auto want = plain.select(1, h).log().div(temperatures[size_t(h)]).softmax(2);
    EXPECT_LE(testing::most(got.select(1, h) - want), 1e-5) << h;
    if (temperatures[size_t(h)] == 1) {
      EXPECT_TRUE(torch::equal(got.select(1, h), full.select(1, h)));
    }
  }
  table.set(0, 1, 0);
  table.save(file);
  EXPECT_THROW(make_intervention("head_temperature", {{"temperatures", file}}, testing::shape_of(text)), Error);
  EXPECT_THROW(make_intervention("head_temperature", {{"temperature", 0}}, testing::shape_of(text)), Error);
}

TEST(InterventionChoice, ComesFromANameOrAFile) {
  TemporaryDirectory directory;
  const auto file = (directory / "choice.json").string();
  std::ofstream(file) << R"({"intervention": "head_temperature", "settings": {"temperature": 2}})";
  const auto choice = InterventionChoice::parse(file);
  EXPECT_EQ(choice.name, "head_temperature");
  EXPECT_EQ(choice.settings["temperature"], 2);
  EXPECT_EQ(InterventionChoice::parse("act_calibration").name, "act_calibration");
  for (const char* bad : {"[]", R"({"policy": "full"})", R"({"intervention": 3})",
                          R"({"intervention": "act_calibration", "setting": {}})"}) {
    std::ofstream(file) << bad;
    EXPECT_THROW(InterventionChoice::parse(file), Error) << bad;
  }
}

TEST(HeadSearch, FindsTheHeadsThatGain) {
  const auto lm = checkpoint::load_language_model(find_asset("tiny-lm"));
  const auto task = tasks::make_text_task("niah_single", {{"max_tokens", 160}});
  // So hot that a head sees everything alike: nothing gains, and all heads together lose the answer.
  const auto search =
      search_heads(lm, "head_temperature", {{"temperature", 50}, {"first_layer", 1}, {"last_layers", 4}}, *task, 4);
  EXPECT_GE(search.unmodified, 0.75);
  double least = 0;
  for (int64_t l = 0; l < 6; ++l)
    for (int64_t h = 0; h < 6; ++h) {
      if (l != 1) {
        EXPECT_EQ(search.gains.number(l, h), 0) << l << " " << h;
      }
      least = std::min(least, search.gains.number(l, h));
    }
  EXPECT_LT(least, 0);
  EXPECT_LT(search.all, search.found);
}

}  // namespace
}  // namespace heed::steer::interventions_test
