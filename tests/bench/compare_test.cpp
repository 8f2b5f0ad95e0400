// Comparisons: exact attention, kept mass and errors that are known, what takes part, what is reported.
#include "heed/bench/compare.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "bench/contestants.h"
#include "bench/memory_meter.h"
#include "heed/attention.h"
#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/checkpoint/tensor_file.h"
#include "heed/error.h"
#include "heed/registry.h"
#include "support/xml_check.h"

namespace heed::bench::compare_test {
namespace {

using torch::Tensor;

struct CompareTest : ::testing::Test {
  CompareTest() : folder(std::filesystem::temp_directory_path() / ("heed-compare-" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder);
    torch::manual_seed(3);
  }
  ~CompareTest() override { std::filesystem::remove_all(folder); }

  std::filesystem::path write_qkv(const Tensor& q, const Tensor& k, const Tensor& v) const {
    const auto path = folder / "qkv.safetensors";
    checkpoint::save_tensors(path, {{"q", q}, {"k", k}, {"v", v}});
    return path;
  }
  std::unique_ptr<QkvSource> random_source(int64_t n) const {
    return file_source(
        write_qkv(torch::randn({1, 4, n, 16}), torch::randn({1, 2, n, 16}), torch::randn({1, 2, n, 16})));
  }
  /// A model of three layers trained, so it says, on 64 tokens.
  std::filesystem::path write_model() const {
    DecoderConfig config;
    config.dim = 32;
    config.heads = 4;
    config.kv_heads = 2;
    config.head_dim = 8;
    config.hidden = 48;
    config.max_length = 64;
    config.positions.kind = "rope";
    config.layers.assign(3, {});
    DecoderLm model(config);
    checkpoint::save_decoder(folder / "model", model);
    return folder / "model";
  }
  std::filesystem::path write_text(const std::string& text) const {
    std::ofstream(folder / "text.txt") << text;
    return folder / "text.txt";
  }

  std::filesystem::path folder;
};

const CompareRow& row_of(const Comparison& c, const std::string& name, int64_t length) {
  for (const auto& row : c.rows)
    if (row.name == name && row.length == length) return row;
  throw std::runtime_error("no row " + name);
}

TEST_F(CompareTest, ExactAttentionIsTheFormula) {
  for (const bool causal : {false, true}) {
    for (const auto& [n, m] : {std::pair<int64_t, int64_t>{300, 300}, {7, 150}}) {
      const auto q = torch::randn({2, 6, n, 10}), k = torch::randn({2, 3, m, 10}), v = torch::randn({2, 3, m, 5});
      auto logits =
          torch::matmul(q.to(torch::kFloat64), k.to(torch::kFloat64).repeat_interleave(2, 1).transpose(2, 3)) /
          std::sqrt(10.0);
      if (causal) logits.masked_fill_(torch::ones({n, m}, torch::kBool).triu(m - n + 1), -INFINITY);
      const auto out = torch::matmul(torch::softmax(logits, -1), v.to(torch::kFloat64).repeat_interleave(2, 1));
      const auto result = exact_attention(q, k, v, causal);
      EXPECT_LT((result.out - out).abs().max().item<double>(), 1e-12);
      EXPECT_LT((result.lse - torch::logsumexp(logits, -1)).abs().max().item<double>(), 1e-12);
    }
  }
}

TEST_F(CompareTest, EqualLogitsKeepTheShareOfTheKeysThatAreSeen) {
  // With q = 0 every weight of row i is 1 / (i + 1): a window of w keeps min(i + 1, w) of them.
  const int64_t n = 100, w = 16;
  const auto source =
      file_source(write_qkv(torch::zeros({1, 2, n, 8}), torch::randn({1, 2, n, 8}), torch::randn({1, 2, n, 8})));
  const auto result = compare(*source, {.lengths = {n},
                                        .only = {"sliding_window", "dense", "op:flash", "op:decode"},
                                        .settings = {{"sliding_window", {{"window", w}, {"sinks", 0}}}},
                                        .repeats = 1});
  double expected = 0;
  for (int64_t i = 0; i < n; ++i) expected += double(std::min(i + 1, w)) / double(i + 1) / double(n);
  EXPECT_NEAR(*row_of(result, "sliding_window", n).mass, expected, 1e-5);
  for (const char* name : {"dense", "op:flash", "op:decode"}) {
    const auto& row = row_of(result, name, n);
    EXPECT_NEAR(*row.mass, 1, 1e-5) << name;
    EXPECT_LT(*row.error, 2e-5) << name;
  }
  EXPECT_TRUE(row_of(result, "op:decode", n).one_query);
  EXPECT_TRUE(result.failed.empty());
}

TEST_F(CompareTest, ErrorsAreThoseOfTheOutputs) {
  const int64_t n = 80;
  const auto source = random_source(n);
  const auto result = compare(*source, {.lengths = {n},
                                        .only = {"sliding_window"},
                                        .settings = {{"sliding_window", {{"window", 8}, {"sinks", 2}}}},
                                        .repeats = 1});
  const auto tensors = source->tensors(n).at(0);
  const auto exact = exact_attention(tensors.q, tensors.k, tensors.v, true).out;
  const auto out = attention(tensors.q, tensors.k, tensors.v, {.mask = Causal{} & (Window{8} | SinkTokens{2})});
  EXPECT_NEAR(*row_of(result, "sliding_window", n).error,
              (out - exact).norm().item<double>() / exact.norm().item<double>(), 1e-9);
}

TEST_F(CompareTest, EveryRowWithACoreTakesPart) {
  std::vector<std::string> expected, got;
  for (const auto& row : mixer_rows())
    if (row.core && !row.grid) expected.push_back(row.name);
  for (const char* name : {"op:flash", "op:block_sparse", "op:decode"}) expected.emplace_back(name);
  for (const auto& c : contestants({})) got.push_back(c.name);
  std::sort(expected.begin(), expected.end());
  std::sort(got.begin(), got.end());
  EXPECT_EQ(got, expected);
  const auto source = random_source(96);
  const auto result = compare(*source, {.lengths = {96}, .repeats = 1});
  EXPECT_EQ(result.rows.size(), expected.size());
  for (const auto& row : result.rows) {
    if (!row.skipped.empty()) continue;
    EXPECT_GT(row.time_ms, 0) << row.name;
    EXPECT_TRUE(row.error.has_value()) << row.name;
  }
  EXPECT_TRUE(result.failed.empty());
}

TEST_F(CompareTest, NamesAndSettingsThatFitNothingAreErrors) {
  const auto source = random_source(32);
  EXPECT_THROW(compare(*source, {.only = {"sliding_windw"}}), Error);
  EXPECT_THROW(compare(*source, {.skip = {"nobody"}}), Error);
  EXPECT_THROW(compare(*source, {.settings = {{"nobody", {{"a", 1}}}}}), Error);
  EXPECT_THROW(compare(*source, {.only = {"sliding_window"}, .settings = {{"sliding_window", {{"windw", 1}}}}}), Error);
  EXPECT_THROW(compare(*source, {.lengths = {33}, .only = {"dense"}}), Error);
  EXPECT_THROW(compare(*source, {.lengths = {0}, .only = {"dense"}}), Error);
}

TEST_F(CompareTest, ATapGivesWhatTheLayerComputesWith) {
  const auto text = write_text("It was a bright cold day in April, and the clocks were striking thirteen.");
  const auto path = write_model();
  const auto source = model_source({.model = path, .text = text, .layers = {0, 2}});
  const auto layers = source->tensors(40);
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[0].layer, 0);
  EXPECT_EQ(layers[1].layer, 2);
  EXPECT_EQ(layers[0].q.sizes(), (torch::IntArrayRef{1, 4, 40, 8}));
  EXPECT_EQ(layers[0].k.sizes(), (torch::IntArrayRef{1, 2, 40, 8}));
  // A causal model: the tensors of a shorter text are the first of a longer one's.
  const auto shorter = source->tensors(25);
  EXPECT_TRUE(torch::allclose(shorter[1].q, layers[1].q.narrow(2, 0, 25), 1e-4, 1e-5));
}

TEST_F(CompareTest, BeyondTheTrainedLengthOnlyTimesCount) {
  const auto text = write_text("short");
  const auto source = model_source({.model = write_model(), .text = text});
  const auto result = compare(*source, {.lengths = {64, 65}, .only = {"dense"}, .repeats = 1});
  EXPECT_FALSE(row_of(result, "dense", 64).timing_only);
  EXPECT_TRUE(row_of(result, "dense", 64).error.has_value());
  EXPECT_TRUE(row_of(result, "dense", 65).timing_only);
  EXPECT_FALSE(row_of(result, "dense", 65).error.has_value());
  EXPECT_NE(compare_table(result).find("timing only"), std::string::npos);
  EXPECT_NE(compare_table(result).find("repeated"), std::string::npos);
}

TEST_F(CompareTest, FidelityBeyondTheTrainedLengthIsMeasuredWhenAskedFor) {
  const auto source = model_source({.model = write_model(), .text = write_text("a short text")});
  const auto result = compare(*source, {.lengths = {65}, .only = {"dense"}, .repeats = 1, .far_fidelity = true});
  EXPECT_FALSE(row_of(result, "dense", 65).timing_only);
  EXPECT_LT(row_of(result, "dense", 65).error.value(), 2e-5);
}

TEST_F(CompareTest, LongSequencesAreJudgedBySpreadQueries) {
  torch::manual_seed(5);
  const int64_t n = 4200;
  const auto source = random_source(n);
  const auto result = compare(*source, {.lengths = {n},
                                        .only = {"dense", "sliding_window", "op:decode"},
                                        .settings = {{"sliding_window", {{"window", n / 2}, {"sinks", 0}}}},
                                        .repeats = 1});
  for (const char* exact : {"dense", "op:decode"}) {
    EXPECT_LT(row_of(result, exact, n).error.value(), 2e-5) << exact;
    EXPECT_NEAR(row_of(result, exact, n).mass.value(), 1, 1e-4) << exact;
  }
  // Of a query at t the window holds min(1, n / 2t), which is (1 + log 2) / 2 on the mean of spread queries.
  EXPECT_NEAR(row_of(result, "sliding_window", n).mass.value(), (1 + std::log(2)) / 2, 0.03);
}

TEST_F(CompareTest, BadSourcesAreRefused) {
  const auto model = write_model();
  EXPECT_THROW(model_source({.model = model, .text = folder / "nothing.txt"}), Error);
  EXPECT_THROW(model_source({.model = model, .text = write_text("")}), Error);
  EXPECT_THROW(model_source({.model = model, .text = write_text("a"), .layers = {3}}), Error);
  const auto x = torch::randn({1, 4, 8, 16});
  EXPECT_THROW(file_source(write_qkv(x, x.narrow(3, 0, 8), x)), Error);
  EXPECT_THROW(file_source(write_qkv(x, x.narrow(1, 0, 3), x.narrow(1, 0, 3))), Error);
  EXPECT_THROW(file_source(write_qkv(x, x.narrow(2, 0, 3), x)), Error);
  EXPECT_THROW(file_source(write_qkv(x[0], x, x)), Error);
}

TEST_F(CompareTest, TheReportsHoldEveryFigure) {
  const auto source = random_source(64);
  const auto result =
      compare(*source, {.lengths = {32, 64}, .only = {"dense", "sliding_window", "op:decode"}, .repeats = 2});
  const auto json = to_json(result);
  for (const char* key : {"machine", "source", "lengths", "results"}) EXPECT_TRUE(json.contains(key)) << key;
  ASSERT_EQ(json["results"].size(), 6u);
  for (const auto& row : json["results"])
    for (const char* key : {"name", "N", "time_ms", "gflops", "extra_bytes", "error", "mass", "timing_only", "layers"})
      EXPECT_TRUE(row.contains(key)) << key;
  const auto html = compare_html(result);
  const auto body = html.substr(html.find("<html"));
  EXPECT_EQ(testing::xml_complaint(body, {"meta"}), "");
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_EQ(html.find("src="), std::string::npos);
  EXPECT_EQ(html.find("url("), std::string::npos);
  size_t plots = 0;
  for (auto at = html.find("<svg"); at != std::string::npos; at = html.find("<svg", at + 1)) ++plots;
  EXPECT_EQ(plots, 3u);
}

TEST_F(CompareTest, NamesFromOutsideCantBreakThePage) {
  const auto source = random_source(32);
  auto result = compare(*source, {.lengths = {32}, .only = {"dense"}, .repeats = 1});
  result.source["qkv"] = "<b onload=\"x\">&";
  result.rows[0].skipped = "</td><script>";
  const auto html = compare_html(result);
  EXPECT_EQ(testing::xml_complaint(html.substr(html.find("<html")), {"meta"}), "");
  EXPECT_EQ(html.find("<script"), std::string::npos);
}

TEST(MemoryMeter, CountsTensorsAndScratch) {
  const auto q = torch::randn({1, 2, 400, 32});
  MemoryMeter meter;
  {
    const auto tensor = torch::empty({1 << 20}, torch::kFloat32);
    EXPECT_GE(meter.held(), 4 << 20);
  }
  EXPECT_EQ(meter.held(), 0);
  EXPECT_LT(meter.peak(), 5 << 20);
  const auto before = meter.peak();
  EXPECT_GE(before, 4 << 20);
  EXPECT_THROW(MemoryMeter second, std::logic_error);
}

TEST(MemoryMeter, SeesTheScratchOfKernels) {
  torch::NoGradGuard no_grad;
  const auto q = torch::randn({1, 2, 400, 32});
  MemoryMeter meter;
  const auto out = attention(q, q, q, {.mask = Causal{}});
  EXPECT_GT(meter.peak(), int64_t(out.nbytes()));
  EXPECT_EQ(meter.held(), int64_t(out.nbytes()));
}

}  // namespace
}  // namespace heed::bench::compare_test
