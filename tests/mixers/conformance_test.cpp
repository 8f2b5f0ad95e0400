// Every claim of every mixer's row. A new mechanism is tested here by registering it.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/mixers/token_mixer.h"
#include "heed/registry.h"
#include "heed/threads.h"
#include "support/gradient_check.h"

namespace heed::conformance_test {
namespace {

using test::expect_gradient;
using test::relative_error;
using torch::Tensor;

constexpr int64_t kBatch = 2;
constexpr int64_t kPrime = 37, kOdd = 50;  // 50 is no multiple of any block of the small configurations but 2

struct Case {
  const RegistryRow* row;
  bool causal, cross;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& row : mixer_rows()) {
    if (row.patterns.causal_self) all.push_back({&row, true, false});
    if (row.patterns.noncausal_self) all.push_back({&row, false, false});
    if (row.patterns.causal_cross) all.push_back({&row, true, true});
    if (row.patterns.noncausal_cross) all.push_back({&row, false, true});
  }
  return all;
}

std::string case_name(const testing::TestParamInfo<Case>& info) {
  return info.param.row->name + (info.param.causal ? "_causal" : "_noncausal") +
         (info.param.cross ? "_cross" : "_self");
}

class Conformance : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    // --gtest_random_seed=N draws others. A fixed one by default: a difference across a kink is no gradient.
    const auto seed = uint64_t(testing::GTEST_FLAG(random_seed)) + 17;
    seed_trace_.emplace(__FILE__, __LINE__, "seed " + std::to_string(seed));
    torch::manual_seed(seed);
  }
  void TearDown() override { seed_trace_.reset(); }

  std::optional<testing::ScopedTrace> seed_trace_;

  const RegistryRow& row() const { return *GetParam().row; }
  int64_t dim() const { return row().small.value("dim", 64); }

  std::shared_ptr<TokenMixer> make() const {
    auto config = row().small;
    config["causal"] = GetParam().causal;
    auto mixer = row().make(config);
    mixer->eval();
    // Parameters that start at 0 would hide what they do.
    torch::NoGradGuard no_grad;
    for (auto& parameter : mixer->parameters()) parameter.add_(torch::randn_like(parameter) * 0.2);
    return mixer;
  }

  /// x, and memory for cross patterns, longer than x where causal so that every row sees something.
  MixerInput input(int64_t n, torch::ScalarType dtype = torch::kFloat32) const {
    MixerInput in;
    in.x = torch::randn({kBatch, n, dim()}, dtype);
    if (GetParam().cross) in.memory = torch::randn({kBatch, n + 5, dim()}, dtype);
    if (row().grid) in.grid = grid(n);
    return in;
  }
  /// Wider than high, of no square.
  static Grid grid(int64_t n) {
    int64_t height = 1;
    for (int64_t h = 2; h * h < n; ++h)
      if (n % h == 0) height = h;
    return {{height, n / height}};
  }
  /// Outputs that must not depend on what was changed.
  bool unchanged(const Tensor& after, const Tensor& before) const {
    return row().spectral ? relative_error(after, before) < test::kForwardTolerance : torch::equal(after, before);
  }
  int64_t keys(int64_t n) const { return GetParam().cross ? n + 5 : n; }
};

TEST_P(Conformance, FiniteAtEveryLength) {
  auto mixer = make();
  for (const int64_t n : {row().min_n, row().min_n + 1, kPrime, kOdd}) {
    const auto in = input(n);
    const auto out = mixer->forward(in);
    ASSERT_EQ(out.sizes(), in.x.sizes()) << "N = " << n;
    EXPECT_TRUE(test::all_finite(out)) << "N = " << n;
  }
}

TEST_P(Conformance, ThePastDoesNotSeeTheFuture) {
  if (!GetParam().causal) return;
  auto mixer = make();
  torch::NoGradGuard no_grad;
  auto in = input(kPrime);
  const auto before = mixer->forward(in);
  for (const int64_t t : {int64_t{0}, int64_t{5}, kPrime / 2, kPrime - 2}) {
    auto changed = in;
    // Query t sits on key t + M - N.
    auto& source = GetParam().cross ? *changed.memory : changed.x;
    const int64_t first_hidden = t + 1 + keys(kPrime) - kPrime;
    source = source.clone();
    source.slice(1, first_hidden).add_(torch::randn_like(source.slice(1, first_hidden)) * 3);
    const auto after = mixer->forward(changed);
    EXPECT_TRUE(unchanged(after.slice(1, 0, t + 1), before.slice(1, 0, t + 1))) << "t = " << t;
    EXPECT_FALSE(torch::equal(after.slice(1, t + 1), before.slice(1, t + 1))) << "t = " << t;
  }
}

TEST_P(Conformance, StepsAndChunksEqualOneForward) {
  if (!row().step || !GetParam().causal || GetParam().cross) return;
  auto mixer = make();
  torch::NoGradGuard no_grad;
  const auto in = input(kOdd);
  const auto whole = mixer->forward(in);
  for (const std::vector<int64_t>& chunks : {std::vector<int64_t>{1}, {7}, {kOdd}, {20, 1, 1, 3, 11}}) {
    auto state = mixer->make_state(kBatch);
    std::vector<Tensor> parts;
    for (int64_t at = 0, turn = 0; at < kOdd; ++turn) {
      const int64_t count = std::min(chunks[turn % chunks.size()], kOdd - at);
      MixerInput part;
      part.x = in.x.slice(1, at, at + count);
      parts.push_back(mixer->forward(part, state.get()));
      at += count;
      EXPECT_EQ(state->seen(), at);
    }
    EXPECT_LT(relative_error(torch::cat(parts, 1), whole), test::kForwardTolerance) << "chunks of " << chunks[0];
    EXPECT_GT(state->bytes(), 0);
  }
}

TEST_P(Conformance, StateCanBeClonedAndCutBack) {
  if (!row().step || !GetParam().causal || GetParam().cross) return;
  auto mixer = make();
  torch::NoGradGuard no_grad;
  const auto x = torch::randn({kBatch, 6, dim()});
  const auto feed = [&](MixerState& state, int64_t begin, int64_t end) {
    MixerInput part;
    part.x = x.slice(1, begin, end);
    return mixer->forward(part, &state);
  };
  auto state = mixer->make_state(kBatch);
  feed(*state, 0, 4);
  auto copy = state->clone();
  const auto once = feed(*state, 4, 6);
  EXPECT_EQ(copy->seen(), 4);
  EXPECT_LT(relative_error(feed(*copy, 4, 6), once), 1e-6);
  EXPECT_THROW(state->truncate(99), Error);
  if (row().one_way) {
    EXPECT_THROW(state->truncate(4), Error);
    state->truncate(0);
    feed(*state, 0, 4);
  } else {
    state->truncate(4);
  }
  EXPECT_EQ(state->seen(), 4);
  EXPECT_LT(relative_error(feed(*state, 4, 6), once), 1e-6);
}

TEST_P(Conformance, AFixedStateDoesNotGrow) {
  if (!row().fixed_state || !GetParam().causal || GetParam().cross) return;
  auto mixer = make();
  torch::NoGradGuard no_grad;
  auto state = mixer->make_state(kBatch);
  MixerInput part;
  part.x = torch::randn({kBatch, 48, dim()});  // a multiple of the chunks of the small configurations
  mixer->forward(part, state.get());
  const auto held = state->bytes();
  mixer->forward(part, state.get());
  EXPECT_EQ(state->bytes(), held);
}

TEST_P(Conformance, BatchItemsDoNotSeeEachOther) {
  auto mixer = make();
  torch::NoGradGuard no_grad;
  const auto in = input(kPrime);
  const auto both = mixer->forward(in);
  for (int64_t b = 0; b < kBatch; ++b) {
    MixerInput alone;
    alone.x = in.x.narrow(0, b, 1);
    if (in.memory) alone.memory = in.memory->narrow(0, b, 1);
    alone.grid = in.grid;
    EXPECT_LT(relative_error(mixer->forward(alone), both.narrow(0, b, 1)), test::kForwardTolerance);
  }
}

TEST_P(Conformance, PaddingDoesNotLeak) {
  auto mixer = make();
  torch::NoGradGuard no_grad;
  auto in = input(kPrime);
  const int64_t m = keys(kPrime), real = m - 6;
  in.key_padding = torch::zeros({kBatch, m}, torch::kBool);
  in.key_padding->narrow(0, 0, 1).slice(1, real).fill_(true);
  const auto before = mixer->forward(in);
  EXPECT_TRUE(test::all_finite(before));
  auto changed = in;
  auto& source = GetParam().cross ? *changed.memory : changed.x;
  source = source.clone();
  source.narrow(0, 0, 1).slice(1, real).add_(5);
  const auto after = mixer->forward(changed);
  const int64_t unpadded_queries = GetParam().cross ? kPrime : real;
  EXPECT_TRUE(unchanged(after.narrow(0, 0, 1).slice(1, 0, unpadded_queries),
                        before.narrow(0, 0, 1).slice(1, 0, unpadded_queries)));
  EXPECT_TRUE(unchanged(after.narrow(0, 1, 1), before.narrow(0, 1, 1)));
}

TEST_P(Conformance, PackedSequencesAreSeparateOrRefused) {
  if (GetParam().cross) return;
  auto mixer = make();
  torch::NoGradGuard no_grad;
  MixerInput packed;
  packed.x = torch::randn({1, 20, dim()});
  packed.cu_seqlens = torch::tensor({0, 7, 7, 20}, torch::kInt64);
  Tensor out;
  try {
    out = mixer->forward(packed);
  } catch (const Error&) {
    return;
  }
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 7}, {7, 20}}) {
    MixerInput alone;
    alone.x = packed.x.slice(1, begin, end);
    EXPECT_LT(relative_error(out.slice(1, begin, end), mixer->forward(alone)), test::kForwardTolerance) << begin;
  }
}

TEST_P(Conformance, GradientsAgreeWithDifferences) {
  auto mixer = make();
  mixer->to(torch::kFloat64);
  for (const int64_t n : {row().min_n, int64_t{13}}) {
    auto in = input(n, torch::kFloat64);
    in.x.requires_grad_();
    std::vector<Tensor> inputs{in.x};
    if (in.memory) inputs.push_back(in.memory->requires_grad_());
    for (auto& parameter : mixer->parameters()) inputs.push_back(parameter);
    expect_gradient([&] { return mixer->forward(in); }, inputs);
  }
}

TEST_P(Conformance, FloatKernelsAgreeWithTheReference) {
  auto mixer = make();
  auto wide = make();
  wide->to(torch::kFloat64);
  {
    torch::NoGradGuard no_grad;
    auto target = wide->named_parameters();
    for (auto& entry : mixer->named_parameters()) target[entry.key()].copy_(entry.value());
  }
  auto in = input(kPrime);
  auto in_wide = in;
  in_wide.x = in.x.to(torch::kFloat64).requires_grad_();
  in.x.requires_grad_();
  if (in.memory) in_wide.memory = in.memory->to(torch::kFloat64);
  const auto out = mixer->forward(in), out_wide = wide->forward(in_wide);
  EXPECT_EQ(out_wide.scalar_type(), torch::kFloat64);
  EXPECT_LT(relative_error(out, out_wide), test::kForwardTolerance);
  const auto weights = torch::randn_like(out_wide);
  (out * weights.to(torch::kFloat32)).sum().backward();
  (out_wide * weights).sum().backward();
  EXPECT_LT(relative_error(in.x.grad(), in_wide.x.grad()), test::kGradientTolerance);
  std::map<std::string, torch::Tensor> expected;
  for (auto& entry : wide->named_parameters()) expected[entry.key()] = entry.value().grad();
  // What one rounding of x moves a gradient by, which chains of norms magnify; a call rounds some 64 times as much,
  // each time at random, which moves it by 8 times that.
  const auto unavoidable = [&](const std::string& name) {
    wide->zero_grad(true);
    in_wide.x = in_wide.x.detach() * (1 + std::exp2(-24) * torch::randn_like(in_wide.x));
    (wide->forward(in_wide) * weights).sum().backward();
    return 8 * relative_error(wide->named_parameters()[name].grad(), expected[name]);
  };
  for (auto& entry : mixer->named_parameters()) {
    const auto& grad = entry.value().grad();
    const auto& reference = expected[entry.key()];
    ASSERT_EQ(grad.defined(), reference.defined()) << entry.key();
    // A gradient that is 0 in exact arithmetic (a key's bias under softmax) leaves rounding of the whole sum.
    if (grad.defined() && reference.norm().item<double>() > 1e-6) {
      const double error = relative_error(grad, reference);
      if (error >= test::kGradientTolerance) EXPECT_LT(error, unavoidable(entry.key())) << entry.key();
    }
  }
}

TEST_P(Conformance, SavedWeightsGiveTheSameOutputs) {
  auto mixer = make(), other = make();
  torch::NoGradGuard no_grad;
  const auto in = input(kPrime);
  const auto expected = mixer->forward(in);
  EXPECT_FALSE(torch::equal(other->forward(in), expected));
  std::stringstream file;
  torch::serialize::OutputArchive out;
  mixer->save(out);
  out.save_to(file);
  torch::serialize::InputArchive archive;
  archive.load_from(file);
  other->load(archive);
  EXPECT_TRUE(torch::equal(other->forward(in), expected));
}

TEST_P(Conformance, OneAndTwoThreadsAgree) {
  auto mixer = make();
  const auto in = input(kOdd);
  std::vector<Tensor> outs, grads;
  for (const int threads : {1, 2}) {
    set_num_threads(threads);
    auto run = in;
    run.x = in.x.clone().requires_grad_();
    outs.push_back(mixer->forward(run));
    grads.push_back(torch::autograd::grad({outs.back().sum()}, {run.x})[0]);
  }
  init_threads();
  EXPECT_LT(relative_error(outs[1], outs[0]), 1e-6);
  EXPECT_LT(relative_error(grads[1], grads[0]), 1e-5);
}

TEST_P(Conformance, WrongInputIsNamed) {
  auto mixer = make();
  MixerInput in;
  in.x = torch::randn({kBatch, 5, dim() + 1});
  EXPECT_THROW(mixer->forward(in), Error);
  in.x = torch::randn({5, dim()});
  EXPECT_THROW(mixer->forward(in), Error);
  auto config = row().small;
  config["no_such_key"] = 1;
  EXPECT_THROW(row().make(config), Error);
}

INSTANTIATE_TEST_SUITE_P(Registry, Conformance, testing::ValuesIn(cases()), case_name);

TEST(Registry, RowsAreComplete) {
  std::set<std::string> names;
  for (const auto& row : mixer_rows()) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
    EXPECT_FALSE(row.family.empty()) << row.name;
    EXPECT_FALSE(row.paper.empty()) << row.name;
    EXPECT_GT(row.year, 1990) << row.name;
    EXPECT_FALSE(row.cost.empty()) << row.name;
    EXPECT_TRUE(row.make != nullptr) << row.name;
    const auto& p = row.patterns;
    EXPECT_TRUE(p.causal_self || p.noncausal_self || p.causal_cross || p.noncausal_cross) << row.name;
    for (const auto& parameter : row.parameters)
      EXPECT_FALSE(parameter.meaning.empty()) << row.name << " " << parameter.name;
  }
}

TEST(Registry, UnknownNamesGetTheNearest) {
  try {
    make_mixer("slidng_window", {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("sliding_window"), std::string::npos) << error.what();
  }
}

/// core claims: a core is asked with q, k, v alone; a mixer without one says so.
TEST(Registry, CoresExistWhereClaimed) {
  for (const auto& row : mixer_rows()) {
    auto mixer = row.make(row.small);
    mixer->eval();
    torch::NoGradGuard no_grad;
    const int64_t heads = row.small.value("heads", 4), kv_heads = row.small.value("kv_heads", heads),
                  size = row.small.value("dim", 64) / heads;
    CoreInput in{torch::randn({2, heads, 19, size}), torch::randn({2, kv_heads, 19, size}),
                 torch::randn({2, kv_heads, 19, size})};
    if (row.grid) in.grid = Grid{{1, 19}};
    if (!row.core) continue;
    const auto out = mixer->mix(in);
    EXPECT_EQ(out.sizes(), in.q.sizes()) << row.name;
    EXPECT_TRUE(test::all_finite(out)) << row.name;
  }
}

}  // namespace
}  // namespace heed::conformance_test
