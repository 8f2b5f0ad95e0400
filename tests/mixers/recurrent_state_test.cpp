// States know who made them; what has no step says so.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/registry.h"

namespace heed::recurrent_state_test {
namespace {

using nlohmann::json;

std::string refusal(TokenMixer& mixer, MixerState* state, int64_t batch, int64_t dim) {
  torch::NoGradGuard no_grad;
  MixerInput in;
  in.x = torch::randn({batch, 3, dim});
  try {
    mixer.forward(in, state);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(RecurrentState, OfAnotherMixerIsRefused) {
  auto gla = make_mixer("gla", {{"dim", 16}, {"heads", 2}}),
       lightning = make_mixer("lightning_attention", {{"dim", 16}, {"heads", 2}});
  auto state = lightning->make_state(2);
  EXPECT_PRED2(holds, refusal(*gla, state.get(), 2, 16), "gla: the state is one of lightning_attention");
  auto dense = make_mixer("dense", {{"dim", 16}, {"heads", 2}});
  EXPECT_PRED2(holds, refusal(*gla, dense->make_state(2).get(), 2, 16), "not of its kind");
  EXPECT_EQ(refusal(*lightning, state.get(), 2, 16), "accepted");
}

TEST(RecurrentState, OfAnotherBatchIsRefused) {
  auto mixer = make_mixer("mamba", {{"dim", 16}});
  auto state = mixer->make_state(2);
  const auto before_use = refusal(*mixer, state.get(), 3, 16);
  EXPECT_PRED2(holds, before_use, "a batch of 3 with a state of 2 sequences");
  EXPECT_EQ(refusal(*mixer, state.get(), 2, 16), "accepted");
  EXPECT_PRED2(holds, refusal(*mixer, state->clone().get(), 1, 16), "a batch of 1 with a state of 2 sequences");
  EXPECT_THROW(mixer->make_state(0), Error);
}

TEST(RecurrentState, OfAnotherConfigurationIsRefusedAndTheDifferenceNamed) {
  // The same parameters, other heads.
  auto four = make_mixer("lightning_attention", {{"dim", 16}, {"heads", 4}}),
       two = make_mixer("lightning_attention", {{"dim", 16}, {"heads", 2}}),
       undecayed = make_mixer("lightning_attention", {{"dim", 16}, {"heads", 2}, {"decay", false}});
  auto state = two->make_state(1);
  EXPECT_EQ(refusal(*two, state.get(), 1, 16), "accepted");
  EXPECT_PRED2(holds, refusal(*four, state.get(), 1, 16), "heads = 2, here 4");
  EXPECT_PRED2(holds, refusal(*undecayed, state.get(), 1, 16), "decay = true, here false");
  // Defaults that are written down change nothing: weights may differ, configurations not.
  auto same = make_mixer("lightning_attention", {{"heads", 2}, {"dim", 16}, {"causal", true}, {"key_dim", nullptr}});
  EXPECT_EQ(refusal(*same, state.get(), 1, 16), "accepted");
}

TEST(RecurrentState, OfAnotherSizeIsRefusedByEveryRecurrentMixer) {
  int64_t seen = 0;
  for (const auto& row : mixer_rows()) {
    if (!row.step) continue;
    auto config = row.small;
    config["causal"] = true;
    auto mixer = row.make(config);
    const int64_t dim = row.small.value("dim", 64);
    config["dim"] = 2 * dim;
    auto state = row.make(config)->make_state(2);
    if (dynamic_cast<RecurrentState*>(state.get()) == nullptr) continue;
    EXPECT_PRED2(holds, refusal(*mixer, state.get(), 2, dim),
                 "dim = " + std::to_string(2 * dim) + ", here " + std::to_string(dim))
        << row.name;
    ++seen;
  }
  EXPECT_GT(seen, 20);
}

TEST(RecurrentState, MixersWithoutAStepMakeNone) {
  for (const auto& row : mixer_rows()) {
    // Of hyper_attention tokens behind a prompt attend exactly, which is no step of its estimate, but no silence.
    if (row.step || row.name == "hyper_attention") continue;
    auto config = row.small;
    config["causal"] = row.patterns.causal_self;
    auto mixer = row.make(config);
    EXPECT_THROW(mixer->make_state(1), Error) << row.name;
  }
  auto positional =
      make_mixer("positional_attention", {{"dim", 8}, {"heads", 2}, {"max_length", 16}, {"causal", true}});
  try {
    positional->make_state(1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_PRED2(holds, error.what(), "positional_attention has no step: its weights");
  }
  RecurrentState nobodys;
  EXPECT_PRED2(holds, refusal(*positional, &nobodys, 1, 8), "has no step");
}

}  // namespace
}  // namespace heed::recurrent_state_test
