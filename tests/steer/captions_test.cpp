// The two-segment model: image before text, with and without a cache, and what interventions do to its captions.
#include "heed/steer/captions.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::steer::captions_test {
namespace {

using tasks::PairWorld;
using torch::Tensor;

TEST(VisionText, StepsBehindAnImageEqualOneForward) {
  torch::NoGradGuard no_grad;
  auto model = train::pair_world_model(1);
  model->eval();
  const auto batch = train::pair_world_batch(PairWorld(), tasks::Split::test, 0, 3);
  const auto image = model->image_tokens(model->vision->forward(batch.pixels).slice(1, 1));
  const auto whole = model->forward(image, batch.tokens);
  EXPECT_EQ(whole.sizes(), (std::vector<int64_t>{3, 10, PairWorld::kVocabulary}));
  for (const bool policy : {false, true}) {
    auto state = policy ? cache::make_state(model->text,
                                            cache::make_policy("full", {}, cache::shape_of(model->text->config())), 3)
                        : model->text->make_state(3);
    std::vector<Tensor> parts{model->forward(image, batch.tokens.narrow(1, 0, 1), &state)};
    for (int64_t i = 1; i < 10; ++i) parts.push_back(model->forward({}, batch.tokens.narrow(1, i, 1), &state));
    EXPECT_LT(test::relative_error(torch::cat(parts, 1), whole), 1e-5);
  }
  EXPECT_GT(test::relative_error(model->forward({}, batch.tokens), whole), 1e-3);
  EXPECT_THROW(model->forward(image.narrow(0, 0, 2), batch.tokens), Error);
}

/// Minutes of training are for `heed steer pairworld`; this is enough to name most of what is there.
struct CaptionsTest : ::testing::Test {
  static void SetUpTestSuite() {
    model = train::pair_world_model(2);
    train::PairWorldOptions options;
    options.steps = 500;
    options.batch = 32;
    options.seed = 2;
    double first = 0;
    last = train::train_pair_world(model, world(), options, [&](int64_t step, double loss) {
      if (step == 0) first = loss;
    });
    EXPECT_LT(last, 0.6 * first);
  }
  static const PairWorld& world() {
    static const PairWorld world(2);
    return world;
  }
  static inline VisionText model{nullptr};
  static inline double last = 0;
};

TEST_F(CaptionsTest, InterventionsAreComparedOnBothSplits) {
  CaptionOptions options;
  options.images = 64;
  options.targets = {16, 6};
  options.kept = {1, 0.3};
  const auto rows = compare_captions(model, world(), options);
  ASSERT_EQ(rows.size(), 2 * (3 + 2 + 6));
  const auto at = [&](const std::string& what, bool conflict) {
    for (const auto& row : rows)
      if (row.what == what && row.conflict == conflict) return row.score;
    ADD_FAILURE() << what;
    return tasks::CaptionScore();
  };
  for (const bool conflict : {false, true}) {
    const auto plain = at("plain", conflict);
    EXPECT_EQ(plain.captions, 64);
    EXPECT_GT(plain.recall(), 0.4);
    // Nothing taken away: the same captions.
    for (const char* what : {"var_redistribution kept=1", "flow_cut 16 of 16", "class attention 16 of 16"}) {
      EXPECT_EQ(at(what, conflict).mentioned, plain.mentioned) << what;
      EXPECT_EQ(at(what, conflict).found, plain.found) << what;
    }
  }
  // Captions follow habit: where its partner never comes, the second of a pair is named all the same.
  EXPECT_GT(at("plain", true).chair_i(), at("plain", false).chair_i());
}

TEST_F(CaptionsTest, ThePlantedSinkIsTheOneThatIsFound) {
  torch::NoGradGuard no_grad;
  const auto batch = train::pair_world_batch(world(), tasks::Split::test, 0, 16);
  const auto kept = torch::arange(PairWorld::kPatches).expand({16, PairWorld::kPatches});
  const auto image = model->image_tokens(model->vision->forward(batch.pixels).slice(1, 1));
  const auto planted = train::plant_sink(image, kept, batch.empty, 20);
  const auto ratio = planted.select(2, train::kSinkChannel).abs() / planted.square().mean(2).sqrt();
  EXPECT_TRUE(torch::equal(ratio.gt(4), kept.eq(batch.empty.unsqueeze(1))));
}

}  // namespace
}  // namespace heed::steer::captions_test
