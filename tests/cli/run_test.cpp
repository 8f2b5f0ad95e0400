// `heed run`: what it writes is what the formula says; what is wrong ends in one line and leaves nothing behind.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "cli/heed_command.h"
#include "heed/formats/safetensors.h"

namespace heed::run_test {
namespace {

struct Array {
  std::vector<int64_t> shape;
  std::vector<double> values;
};
using Arrays = std::map<std::string, Array>;

Array random_array(std::vector<int64_t> shape, unsigned seed) {
  size_t count = 1;
  for (const auto size : shape) count *= size_t(size);
  std::mt19937 random(seed);
  Array array{std::move(shape), std::vector<double>(count)};
  for (auto& value : array.values) value = double(random()) / double(std::mt19937::max()) * 2 - 1;
  return array;
}

void write(const std::filesystem::path& path, const Arrays& arrays) {
  std::vector<formats::TensorToWrite> tensors;
  for (const auto& [name, array] : arrays)
    tensors.push_back({name, formats::TensorType::f64, array.shape, std::as_bytes(std::span(array.values))});
  formats::write_safetensors(path, tensors);
}

Array read(const std::filesystem::path& path, const std::string& name) {
  const auto file = formats::SafetensorsFile::open(path);
  const auto& info = file.info(name);
  EXPECT_EQ(info.dtype, formats::TensorType::f64) << name;
  Array array{info.shape, std::vector<double>(info.bytes() / sizeof(double))};
  std::memcpy(array.values.data(), file.bytes(name).data(), info.bytes());
  return array;
}

constexpr int64_t kHeads = 2, kQueries = 5, kKeys = 9, kSize = 4;

Arrays qkv() {
  return {{"q", random_array({1, kHeads, kQueries, kSize}, 1)},
          {"k", random_array({1, kHeads, kKeys, kSize}, 2)},
          {"v", random_array({1, kHeads, kKeys, kSize}, 3)}};
}

/// The formula, written out: bottom-right causal, a window of visible keys, sinks.
void expect_attention(const Arrays& in, const std::filesystem::path& path, double scale, int64_t window,
                      int64_t sinks) {
  const auto out = read(path, "out"), lse = read(path, "lse");
  const auto at = [&](const char* name, int64_t h, int64_t i, int64_t d, int64_t rows) {
    return in.at(name).values[size_t((h * rows + i) * kSize + d)];
  };
  for (int64_t h = 0; h < kHeads; ++h)
    for (int64_t i = 0; i < kQueries; ++i) {
      double sum = 0;
      std::vector<double> expected(kSize, 0);
      const int64_t own = i + kKeys - kQueries;
      for (int64_t j = 0; j <= own; ++j) {
        if (j <= own - window && j >= sinks) continue;
        double logit = 0;
        for (int64_t d = 0; d < kSize; ++d) logit += scale * at("q", h, i, d, kQueries) * at("k", h, j, d, kKeys);
        sum += std::exp(logit);
        for (int64_t d = 0; d < kSize; ++d) expected[size_t(d)] += std::exp(logit) * at("v", h, j, d, kKeys);
      }
      EXPECT_NEAR(lse.values[size_t(h * kQueries + i)], std::log(sum), 1e-12);
      for (int64_t d = 0; d < kSize; ++d)
        EXPECT_NEAR(out.values[size_t((h * kQueries + i) * kSize + d)], expected[size_t(d)] / sum, 1e-12);
    }
}

TEST(Run, FlashIsTheFormula) {
  const TemporaryDirectory folder;
  const auto in = qkv();
  write(folder / "in", in);
  const auto result = test::heed("run op:flash --in " + (folder / "in").string() + " --out " +
                                 (folder / "out").string() + " --set causal=true window=3 sinks=2 scale=0.3");
  ASSERT_EQ(result.status, 0) << result.err;
  expect_attention(in, folder / "out", 0.3, 3, 2);
}

TEST(Run, DecodeIsTheFormulaToo) {
  const TemporaryDirectory folder;
  const auto in = qkv();
  write(folder / "in", in);
  for (const char* name : {"op:decode", "op:lean_attention"}) {
    const auto result = test::heed(std::string("run ") + name + " --in " + (folder / "in").string() + " --out " +
                                   (folder / "out").string() + " --set scale=0.5");
    ASSERT_EQ(result.status, 0) << result.err;
    expect_attention(in, folder / "out", 0.5, kKeys, 0);
  }
}

TEST(Run, GradientsAreDifferences) {
  const TemporaryDirectory folder;
  auto in = qkv();
  in["bias"] = random_array({1, 1, kQueries, kKeys}, 5);
  in["grad"] = random_array({1, kHeads, kQueries, kSize}, 4);
  const std::string settings = " --set causal=true softcap=2";
  const auto loss = [&](const Arrays& arrays) {
    write(folder / "in", arrays);
    const auto result = test::heed("run op:flash --grad --in " + (folder / "in").string() + " --out " +
                                   (folder / "out").string() + settings);
    EXPECT_EQ(result.status, 0) << result.err;
    const auto out = read(folder / "out", "out");
    double sum = 0;
    for (size_t i = 0; i < out.values.size(); ++i) sum += out.values[i] * arrays.at("grad").values[i];
    return sum;
  };
  loss(in);
  std::map<std::string, Array> gradients;
  for (const char* name : {"q", "k", "v", "bias"}) gradients[name] = read(folder / "out", std::string("d_") + name);
  for (const auto& [name, gradient] : gradients) {
    constexpr double kStep = 1e-5;
    const size_t index = gradient.values.size() / 3;
    auto up = in, down = in;
    up[name].values[index] += kStep;
    down[name].values[index] -= kStep;
    EXPECT_NEAR((loss(up) - loss(down)) / (2 * kStep), gradient.values[index], 1e-7) << name;
  }
}

TEST(Run, RecurrencesAreTheirSteps) {
  const TemporaryDirectory folder;
  const int64_t tokens = 9;
  Arrays in{{"q", random_array({1, kHeads, tokens, kSize}, 1)},
            {"k", random_array({1, kHeads, tokens, kSize}, 2)},
            {"v", random_array({1, kHeads, tokens, kSize}, 3)},
            {"log_decay", random_array({1, kHeads, tokens}, 4)},
            {"initial_state", random_array({1, kHeads, kSize, kSize}, 5)}};
  for (auto& value : in["log_decay"].values) value = -std::abs(value);
  for (const bool delta : {false, true}) {
    if (delta) in["beta"] = random_array({1, kHeads, tokens}, 6);
    write(folder / "in", in);
    const std::string name = delta ? "op:delta_chunk" : "op:linear_chunk";
    const auto result = test::heed("run " + name + " --in " + (folder / "in").string() + " --out " +
                                   (folder / "out").string() + " --set scale=0.5 chunk=4");
    ASSERT_EQ(result.status, 0) << result.err;
    const auto out = read(folder / "out", "out"), last = read(folder / "out", "state");
    for (int64_t h = 0; h < kHeads; ++h) {
      const auto row = [&](const char* tensor, int64_t t) {
        return in.at(tensor).values.data() + (h * tokens + t) * (std::string(tensor).size() == 1 ? kSize : 1);
      };
      for (int64_t e = 0; e < kSize; ++e) {
        std::vector<double> state(kSize);
        for (int64_t c = 0; c < kSize; ++c)
          state[size_t(c)] = in.at("initial_state").values[size_t((h * kSize + c) * kSize + e)];
        for (int64_t t = 0; t < tokens; ++t) {
          double found = 0, sum = 0;
          for (int64_t c = 0; c < kSize; ++c) {
            state[size_t(c)] *= std::exp(*row("log_decay", t));
            found += row("k", t)[c] * state[size_t(c)];
          }
          const double written = delta ? *row("beta", t) * (row("v", t)[e] - found) : row("v", t)[e];
          for (int64_t c = 0; c < kSize; ++c) {
            state[size_t(c)] += row("k", t)[c] * written;
            sum += 0.5 * row("q", t)[c] * state[size_t(c)];
          }
          EXPECT_NEAR(out.values[size_t((h * tokens + t) * kSize + e)], sum, 1e-12) << name;
        }
        for (int64_t c = 0; c < kSize; ++c)
          EXPECT_NEAR(last.values[size_t((h * kSize + c) * kSize + e)], state[size_t(c)], 1e-12) << name;
      }
    }
  }
}

TEST(Run, MixersKeepTheirWeights) {
  const TemporaryDirectory folder;
  write(folder / "in", {{"x", random_array({2, 11, 16}, 6)}});
  const auto run = [&](const std::string& more) {
    return test::heed("run dense --in " + (folder / "in").string() + " --set heads=2 positions=rope " + more);
  };
  ASSERT_EQ(run("--seed 3 --out " + (folder / "a").string() + " --save-weights " + (folder / "w").string()).status, 0);
  ASSERT_EQ(run("--seed 4 --out " + (folder / "b").string() + " --weights " + (folder / "w").string()).status, 0);
  ASSERT_EQ(run("--seed 4 --out " + (folder / "c").string()).status, 0);
  EXPECT_EQ(read(folder / "a", "out").values, read(folder / "b", "out").values);
  EXPECT_NE(read(folder / "a", "out").values, read(folder / "c", "out").values);
}

/// One line on stderr that holds `word`, exit 2, and no output file.
void expect_refused(const TemporaryDirectory& folder, const std::string& arguments, const std::string& word) {
  const auto out = folder / "refused";
  const auto result = test::heed(arguments + " --out " + out.string());
  EXPECT_EQ(result.status, 2) << arguments;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_NE(result.err.find(word), std::string::npos) << arguments << ": " << result.err;
  EXPECT_FALSE(std::filesystem::exists(out)) << arguments;
}

TEST(Run, BadInputIsOneClearLine) {
  const TemporaryDirectory folder;
  auto in = qkv();
  const auto path = (folder / "in").string();
  write(path, in);
  expect_refused(folder, "run op:flsh --in " + path, "op:flash");
  expect_refused(folder, "run dens --in " + path, "dense");
  expect_refused(folder, "run op:flash --in " + path + " --set widow=3", "window");
  expect_refused(folder, "run op:flash --in " + path + " --set causal=maybe", "maybe");
  expect_refused(folder, "run op:flash --in " + path + " --set normalizer=softmx", "softmax");
  expect_refused(folder, "run op:flash --in " + path + " --set mask='causal & wndow(3)'", "window");
  expect_refused(folder, "run op:flash --in " + path + " --grad", "grad");
  expect_refused(folder, "run op:flash --in " + (folder / "missing").string(), "missing");
  expect_refused(folder, "run dense --in " + path, "x");

  auto wrong = in;
  wrong["k"] = random_array({1, kHeads, kKeys, kSize + 1}, 7);
  write(path, wrong);
  expect_refused(folder, "run op:flash --in " + path, std::to_string(kSize + 1));
  wrong = in;
  wrong["k"] = wrong["v"] = random_array({1, 3, kKeys, kSize}, 7);
  write(path, wrong);
  expect_refused(folder, "run op:flash --in " + path, "3");
  wrong = in;
  wrong["biass"] = random_array({1, 1, kQueries, kKeys}, 7);
  write(path, wrong);
  expect_refused(folder, "run op:flash --in " + path, "bias");

  auto same = in;
  same["q"] = random_array({1, kHeads, kKeys, kSize}, 7);
  write(path, same);
  expect_refused(folder, "run op:linear_chunk --in " + path + " --set chunk=0", "chunk");
  expect_refused(folder, "run op:linear_chunk --in " + path + " --set window=3", "window");
  expect_refused(folder, "run op:delta_chunk --in " + path, "beta");
  same["log_decay"] = {{kHeads}, {-0.5, 0.25}};
  write(path, same);
  expect_refused(folder, "run op:linear_chunk --in " + path, "0.25");

  write(path, {{"x", random_array({2, 11, 16}, 6)}});
  expect_refused(folder, "run dense --in " + path + " --set heads=4 kv_heads=3", "3");
  expect_refused(folder, "run linformer --in " + path + " --set causal=true", "future");
}

TEST(Run, ScansAreTheirSteps) {
  const TemporaryDirectory folder;
  constexpr int64_t tokens = 6, channels = 3, states = 2;
  Arrays in{{"x", random_array({1, tokens, channels}, 1)},  {"delta", random_array({1, tokens, channels}, 2)},
            {"A", random_array({channels, states}, 3)},     {"B", random_array({1, tokens, 1, states}, 4)},
            {"C", random_array({1, tokens, 1, states}, 5)}, {"D", random_array({channels}, 6)},
            {"z", random_array({1, tokens, channels}, 7)}};
  for (auto& rate : in["A"].values) rate = -std::abs(rate);  // states fade
  write(folder / "in", in);
  const auto result = test::heed("run op:selective_scan --in " + (folder / "in").string() + " --out " +
                                 (folder / "out").string() + " --set delta_softplus=true");
  ASSERT_EQ(result.status, 0) << result.err;
  const auto out = read(folder / "out", "out"), last = read(folder / "out", "state");
  const auto at = [&](const char* name, int64_t i) { return in.at(name).values[size_t(i)]; };
  for (int64_t d = 0; d < channels; ++d) {
    double h[states] = {};
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t i = t * channels + d;
      const double step = std::log1p(std::exp(at("delta", i)));
      double y = at("D", d) * at("x", i);
      for (int64_t n = 0; n < states; ++n) {
        h[n] = std::exp(step * at("A", d * states + n)) * h[n] + step * at("x", i) * at("B", t * states + n);
        y += h[n] * at("C", t * states + n);
      }
      EXPECT_NEAR(out.values[size_t(i)], y * at("z", i) / (1 + std::exp(-at("z", i))), 1e-12);
    }
    for (int64_t n = 0; n < states; ++n) EXPECT_NEAR(last.values[size_t(d * states + n)], h[n], 1e-12);
  }

  const Arrays scores{{"scores", random_array({1, 1, tokens}, 8)}, {"v", random_array({1, 1, tokens, 1}, 9)}};
  write(folder / "in", scores);
  ASSERT_EQ(
      test::heed("run op:softmax_scan --in " + (folder / "in").string() + " --out " + (folder / "out").string()).status,
      0);
  const auto mean = read(folder / "out", "out"), lse = read(folder / "out", "lse");
  double sum = 0, weighted = 0;
  for (size_t t = 0; t < tokens; ++t) {
    const double weight = std::exp(scores.at("scores").values[t]);
    sum += weight, weighted += weight * scores.at("v").values[t];
    EXPECT_NEAR(mean.values[t], weighted / sum, 1e-12);
    EXPECT_NEAR(lse.values[t], std::log(sum), 1e-12);
  }

  const Arrays toeplitz{{"c", random_array({tokens, 1}, 8)}, {"x", random_array({tokens, 2}, 9)}};
  write(folder / "in", toeplitz);
  ASSERT_EQ(
      test::heed("run op:toeplitz_fft --in " + (folder / "in").string() + " --out " + (folder / "out").string()).status,
      0);
  const auto product = read(folder / "out", "out");
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t e = 0; e < 2; ++e) {
      double want = 0;
      for (int64_t j = 0; j <= t; ++j)
        want += toeplitz.at("c").values[size_t(t - j)] * toeplitz.at("x").values[size_t(j * 2 + e)];
      EXPECT_NEAR(product.values[size_t(t * 2 + e)], want, 1e-12);
    }
  }
  expect_refused(folder, "run op:toeplitz_fft --in " + (folder / "in").string() + " --set causal=false", "11");
  expect_refused(folder, "run op:selective_scan --in " + (folder / "in").string(), "delta");
}

TEST(Run, NeighbourhoodsAreTheirWindows) {
  const TemporaryDirectory folder;
  const auto in = folder / "in.safetensors", out = folder / "out.safetensors", band = folder / "band.safetensors";
  constexpr int64_t kRows = 3, kColumns = 5, kCells = kRows * kColumns;
  const Arrays arrays{{"q", random_array({1, 1, kCells, kSize}, 4)},
                      {"k", random_array({1, 1, kCells, kSize}, 5)},
                      {"v", random_array({1, 1, kCells, kSize}, 6)}};
  write(in, arrays);
  const std::string settings = " --set grid=3x5 --set window=3x2 --in " + in.string() + " --out ";
  ASSERT_EQ(test::heed("run op:neighborhood" + settings + out.string()).status, 0);
  const auto got = read(out, "out");
  for (int64_t i = 0; i < kCells; ++i) {
    // All rows, and the columns before and at the own one, or the first two.
    const int64_t first = std::max<int64_t>(i % kColumns - 1, 0);
    double sum = 0;
    std::vector<double> expected(kSize, 0);
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t j = row * kColumns + first; j < row * kColumns + first + 2; ++j) {
        double logit = 0;
        for (int64_t d = 0; d < kSize; ++d)
          logit += arrays.at("q").values[size_t(i * kSize + d)] * arrays.at("k").values[size_t(j * kSize + d)] / 2;
        sum += std::exp(logit);
        for (int64_t d = 0; d < kSize; ++d)
          expected[size_t(d)] += std::exp(logit) * arrays.at("v").values[size_t(j * kSize + d)];
      }
    }
    for (int64_t d = 0; d < kSize; ++d)
      EXPECT_NEAR(got.values[size_t(i * kSize + d)], expected[size_t(d)] / sum, 1e-12);
  }
  write(in, {{"weights", {{1, 1, kCells, 6}, std::vector<double>(kCells * 6, 1)}}, {"v", arrays.at("v")}});
  ASSERT_EQ(test::heed("run op:neighborhood_av" + settings + band.string()).status, 0);
  double total = 0;
  for (const int64_t j : {0, 1, 5, 6, 10, 11}) total += arrays.at("v").values[size_t(j * kSize)];
  EXPECT_NEAR(read(band, "out").values[0], total, 1e-12);
  const auto wrong =
      test::heed("run op:neighborhood_av --set grid=3x5 --set window=4 --in " + in.string() + " --out " + out.string());
  EXPECT_EQ(wrong.status, 2);
  EXPECT_NE(wrong.err.find("window 4 along axis 0 of 3 cells"), std::string::npos) << wrong.err;
}

TEST(Run, BrokenFilesAreRefused) {
  const TemporaryDirectory folder;
  write(folder / "good", qkv());
  const auto bytes = slurp(folder / "good");
  const auto broken = [&](const std::string& contents, const std::string& word) {
    std::ofstream(folder / "broken", std::ios::binary) << contents;
    expect_refused(folder, "run op:flash --in " + (folder / "broken").string(), word);
  };
  broken(bytes.substr(0, bytes.size() / 2), "broken");
  broken(bytes.substr(0, 5), "broken");
  broken("", "broken");
  auto lying = bytes;
  const auto end = lying.find("\"data_offsets\":[");
  ASSERT_NE(end, std::string::npos);
  lying.replace(end + 16, 1, "9");
  broken(lying, "broken");
  broken(std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8) + bytes.substr(8), "broken");
}

}  // namespace
}  // namespace heed::run_test
