// Every policy over every storage of keys and values.
#include <gtest/gtest.h>

#include "cache/layer_driver.h"
#include "cache/small_model.h"
#include "heed/error.h"
#include "support/naive_kv.h"

namespace heed::cache::kv_quant_test {
namespace {

using testing::LayerText;
using testing::random_tokens;
using testing::small_decoder;
using torch::Tensor;

constexpr int64_t kPrompt = 187, kSteps = 16, kRecent = 40;

/// Settings with which only `kRecent` tokens stay exact.
nlohmann::json with_storage(nlohmann::json settings, const std::string& kv) {
  settings["kv"] = kv;
  settings.erase("kv_recent");
  if (nn::KvFormat::parse(kv).recent) settings["kv_recent"] = kRecent;
  return settings;
}

nn::KvFormat format_of(const std::string& kv) {
  auto format = nn::KvFormat::parse(kv);
  if (format.recent) format.recent = kRecent;
  return format;
}

class StoredPolicies : public ::testing::TestWithParam<std::tuple<size_t, std::string>> {
 protected:
  const PolicyRow& row() const { return policies()[std::get<0>(GetParam())]; }
  const std::string& kv() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(All, StoredPolicies,
                         ::testing::Combine(::testing::Range(size_t{0}, policies().size()),
                                            ::testing::Values("int8", "int4", "kivi2", "kivi2_token")),
                         [](const auto& info) {
                           return policies()[std::get<0>(info.param)].row.name + "_" + std::get<1>(info.param);
                         });

// The formula over what the format's definition makes of each key and value. The difference is float arithmetic alone:
// logits of size 10 in float, and a sum of weights near 1.
TEST_P(StoredPolicies, AttendToWhatTheFormatKeeps) {
  for (const char* positions : {"none", "rope"}) {
    // Keys that are rotated when they are read are stored as they come, others rotated.
    const auto& name = row().row.name;
    const bool unrotated = name == "token_select" || name == "long_heads" || name == "act_qkv";
    const auto text = testing::random_text(2, 4, 2, kPrompt + kSteps, 51, positions, 32);
    auto policy = make_policy(name, with_storage(row().covering, kv()), shape_of(text))({0, 1});
    policy->meet({policy.get()});
    const auto got = testing::drive(*policy, text, kPrompt, 64);
    const auto all = torch::arange(text.length());
    const auto rotated = unrotated ? text.k : text.encoding->rotate(text.k, all);
    double worst = 0;
    for (int64_t i = kPrompt; i < text.length(); ++i) {
      for (int64_t r = 0; r < 4; ++r) {
        const int64_t b = r / 2, h = r % 2;
        auto k = testing::stored(rotated[b][h].narrow(0, 0, i + 1), format_of(kv()), true);
        const auto v = testing::stored(text.v[b][h].narrow(0, 0, i + 1), format_of(kv()), false).to(torch::kFloat64);
        k = k.to(torch::kFloat64).unsqueeze(0).unsqueeze(0);
        if (unrotated) k = text.encoding->rotate(k, all.narrow(0, 0, i + 1));
        for (int64_t g = 0; g < 2; ++g) {
          const auto q = text.q[b][2 * h + g].narrow(0, i, 1).to(torch::kFloat64).unsqueeze(0).unsqueeze(0);
          const auto asked = text.encoding->rotate(q, all.narrow(0, i, 1));
          const auto weights = (asked.matmul(k.transpose(2, 3)) * text.factor()).softmax(3).flatten();
          const auto difference = got[b][2 * h + g][i] - weights.unsqueeze(0).matmul(v).squeeze(0);
          worst = std::max(worst, difference.abs().max().item<double>());
        }
      }
    }
    EXPECT_LE(worst, 1e-5) << positions;
  }
}

// Dropping, overwriting and selecting over codes: a sequence's result is its own.
TEST_P(StoredPolicies, SequencesDoNotSeeEachOtherWhatIsDropped) {
  auto model = small_decoder();
  const auto tokens = random_tokens(3, kPrompt + 80, 52);
  const auto policy = make_policy(row().row.name, with_storage(row().tight, kv()), shape_of(model->config()));
  const auto run = [&](const Tensor& of) {
    Session session(model, policy, of.size(0), 64);
    session.prefill(of.narrow(1, 0, kPrompt), of.size(1));
    return session.steps(of.slice(1, kPrompt));
  };
  const auto got = run(tokens);
  EXPECT_TRUE(got.isfinite().all().item<bool>());
  for (int64_t b = 0; b < 3; ++b) {
    const auto want = run(testing::among_others(tokens, b)).narrow(0, b, 1);
    EXPECT_LE(testing::largest_difference(got.narrow(0, b, 1), want), 1e-5 * want.abs().max().item<double>()) << b;
  }
}

TEST(KvQuant, AShortTextIsTheFullCache) {
  auto model = small_decoder();
  const auto tokens = random_tokens(2, 128, 53);
  Session session(model, make_policy("kv_quant", {}, shape_of(model->config())), 2);
  session.prefill(tokens.narrow(1, 0, 100), 128);
  const auto got = session.steps(tokens.slice(1, 100));
  const auto want = model->forward(tokens).slice(1, 100);
  EXPECT_LE(testing::largest_difference(got, want), 1e-5 * want.abs().max().item<double>());
}

TEST(KvQuant, SessionsHoldTheBytesOfTheFormat) {
  auto model = small_decoder();
  const auto tokens = random_tokens(2, 100, 54);
  const auto bytes = [&](const char* policy, const char* kv) {
    Session session(model, make_policy(policy, {{"kv", kv}}, shape_of(model->config())), 2);
    session.prefill(tokens.narrow(1, 0, 96), 100);
    session.steps(tokens.slice(1, 96));
    return session.cache_bytes();
  };
  const int64_t rows = 2 * 2 * 2;  // of 16 channels of keys and 16 of values
  EXPECT_EQ(bytes("full", "exact"), rows * 112 * 32 * 4);
  EXPECT_EQ(bytes("full", "int8"), rows * 128 * (32 + 2 * 4));
  EXPECT_EQ(bytes("full", "int4"), rows * 128 * (16 + 2 * 4));
  EXPECT_EQ(bytes("kv_quant", "int4"), bytes("full", "int4"));
}

TEST(KvQuant, OtherStorageIsRefused) {
  const auto shape = shape_of(small_decoder()->config());
  EXPECT_THROW(make_policy("full", {{"kv", "int3"}}, shape), Error);
  EXPECT_THROW(make_policy("full", {{"kv", "int8"}, {"kv_recent", 64}}, shape), Error);
  EXPECT_THROW(make_policy("full", {{"kv", "kivi2"}, {"kv_recent", 0}}, shape), Error);
  EXPECT_NO_THROW(make_policy("h2o", {{"kv", "kivi2"}, {"kv_recent", 64}}, shape));
}

}  // namespace
}  // namespace heed::cache::kv_quant_test
