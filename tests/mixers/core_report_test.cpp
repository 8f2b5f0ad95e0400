// What cores report of themselves, against weights written out.
#include "heed/nn/core_report.h"

#include <gtest/gtest.h>

#include "heed/mixers/token_mixer.h"
#include "heed/registry.h"

namespace heed::core_report_test {
namespace {

struct ReportCase {
  std::string mixer;
  nlohmann::json config;
};

/// P of exact causal attention, float64 [B, H, N, N].
torch::Tensor exact_weights(const CoreInput& in) {
  const int64_t n = in.q.size(2);
  const auto k = in.k.to(torch::kFloat64).repeat_interleave(in.q.size(1) / in.k.size(1), 1);
  auto logits = torch::matmul(in.q.to(torch::kFloat64), k.transpose(2, 3)) / std::sqrt(double(in.q.size(3)));
  logits.masked_fill_(torch::ones({n, n}, torch::kBool).triu(1), -INFINITY);
  return torch::softmax(logits, -1);
}

CoreInput some_input(int64_t n) {
  torch::manual_seed(5);
  CoreInput in;
  in.q = torch::randn({1, 4, n, 16}) * 1.5;
  in.k = torch::randn({1, 2, n, 16}) * 1.5;
  in.v = torch::randn({1, 2, n, 16});
  return in;
}

/// Which keys a mixer gives weight to, seen from outside: with one-hot values the output is the weights.
torch::Tensor visible(TokenMixer& mixer, CoreInput in) {
  const int64_t n = in.q.size(2);
  in.v = torch::eye(n).expand({1, in.k.size(1), n, n}).contiguous();
  return mixer.mix(in) > 0;
}

class CoreReport : public ::testing::TestWithParam<ReportCase> {};

TEST_P(CoreReport, KeptMassAndPairsAreThoseOfTheVisibleKeys) {
  torch::NoGradGuard no_grad;
  auto config = GetParam().config;
  config.update({{"dim", 64}, {"heads", 4}, {"kv_heads", 2}});
  const auto mixer = make_mixer(GetParam().mixer, config);
  mixer->eval();
  auto in = some_input(150);
  const auto seen = visible(*mixer, in);
  nn::CoreReport report;
  in.report = &report;
  mixer->mix(in);
  ASSERT_TRUE(report.lse.defined());
  const auto exact = attention_with_lse(in.q, in.k, in.v, {.mask = Causal{}});
  const auto kept = torch::exp(report.lse - exact.lse).to(torch::kFloat64);
  const auto expected = (exact_weights(in) * seen).sum(-1);
  EXPECT_LT((kept - expected).abs().max().item<double>(), 1e-5);
  if (GetParam().mixer != "longformer") {  // whose global rows are computed twice
    EXPECT_EQ(report.pairs, seen.sum().item<int64_t>());
  } else {
    EXPECT_GE(report.pairs, seen.sum().item<int64_t>());
  }
}

INSTANTIATE_TEST_SUITE_P(Mixers, CoreReport,
                         ::testing::Values(ReportCase{"dense", {}},
                                           ReportCase{"sliding_window", {{"window", 20}, {"sinks", 3}}},
                                           ReportCase{"longformer", {{"window", 17}, {"global_tokens", 5}}},
                                           ReportCase{"bigbird", {{"block", 16}, {"random_blocks", 1}}},
                                           ReportCase{"flash_attention", {{"block", 32}}},
                                           ReportCase{"s2_attention", {{"block", 16}, {"local_blocks", 1}}}),
                         [](const auto& info) { return info.param.mixer; });

TEST(CoreReportOfOthers, WithoutAMeaningTheLseStaysUndefined) {
  for (const auto& [name, config] : {ReportCase{"sigmoid_attention", nlohmann::json::object()},
                                     ReportCase{"quantizable_attention", nlohmann::json::object()},
                                     ReportCase{"sliding_window", {{"sink_logit", "zero"}}},
                                     ReportCase{"dense", {{"positions", {{"kind", "alibi"}}}}}}) {
    auto full = config;
    full.update({{"dim", 64}, {"heads", 4}, {"kv_heads", 2}});
    const auto mixer = make_mixer(name, full);
    mixer->eval();
    auto in = some_input(40);
    nn::CoreReport report;
    in.report = &report;
    mixer->mix(in);
    EXPECT_FALSE(report.lse.defined()) << name;
    EXPECT_EQ(report.pairs, 4 * 40 * 41 / 2) << name;
  }
}

}  // namespace
}  // namespace heed::core_report_test
