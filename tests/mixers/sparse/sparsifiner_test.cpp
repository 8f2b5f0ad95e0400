// The card of sparsifiner: the mask that a cheap attention predicts, and what teaches it.
#include "heed/mixers/sparsifiner.h"

#include "heed/nn/core_report.h"
#include "mixers/sparse/sparse_support.h"

namespace heed::sparsifiner_test {
namespace {

using test::relative_error;
using torch::Tensor;

constexpr int64_t kTokens = 18;

std::shared_ptr<TokenMixer> drawn(nlohmann::json more) {
  nlohmann::json config{{"dim", 32}, {"heads", 4}, {"kv_heads", 2}, {"max_length", kTokens}};
  config.update(more);
  return test::drawn_mixer("sparsifiner", config, torch::kFloat64, 0.5);
}

Tensor full_logits(const CoreInput& in) {
  return torch::matmul(in.q, in.k.repeat_interleave(in.q.size(1) / in.k.size(1), 1).transpose(2, 3)) / std::sqrt(8.0);
}

TEST(Sparsifiner, KeepingAllIsDense) {
  test::seed_torch(1);
  const auto in = test::drawn_core(kTokens, kTokens, 4, 2, torch::kFloat64);
  const auto dense = torch::matmul(torch::softmax(full_logits(in), 3), test::values_of(in));
  EXPECT_LT(relative_error(drawn({{"keep", 1.0}})->mix(in), dense), 1e-12);
}

TEST(Sparsifiner, TheMaskIsTheTopOfTheLowRankMap) {
  test::seed_torch(2);
  for (const double threshold : {0.0, 0.2}) {
    auto mixer = drawn({{"keep", 0.3},
                        {"basis", 5},
                        {"coefficients", 2},
                        {"coefficient_threshold", threshold},
                        {"basis_threshold", 0.1}});
    const auto p = mixer->named_parameters();
    const auto in = test::drawn_core(kTokens, kTokens, 4, 2, torch::kFloat64);
    const auto keys = torch::matmul(p["tokens_down"].t(), torch::matmul(in.k, p["k_down"])).repeat_interleave(2, 1);
    auto a = torch::softmax(torch::matmul(torch::matmul(in.q, p["q_down"]), keys.transpose(2, 3)) / std::sqrt(8.0), 3);
    if (threshold > 0) {
      a = a.masked_fill(a <= threshold, 0);
    } else {
      const auto top = std::get<1>(a.topk(2, 3));
      a = a * torch::zeros_like(a).scatter_(3, top, 1);
    }
    auto u = p["basis"].abs();
    u = u.masked_fill(u <= 0.1, 0);
    const int64_t kept = 6;  // ceil(0.3 * 18)
    const auto order = std::get<1>(torch::matmul(a, u.t()).sort(c10::optional<bool>(true), 3, true)).slice(3, 0, kept);
    auto seen = torch::zeros({2, 4, kTokens, kTokens}, torch::kBool).scatter_(3, order, true);
    EXPECT_TRUE((seen.sum(3) == kept).all().item<bool>());
    seen.select(2, 0).fill_(true);  // the class token
    const auto weights = torch::softmax(full_logits(in).masked_fill(seen.logical_not(), -INFINITY), 3);
    auto asked = in;
    nn::CoreReport report;
    asked.report = &report;
    EXPECT_LT(relative_error(mixer->mix(asked), torch::matmul(weights, test::values_of(in))), 1e-12);
    EXPECT_EQ(report.pairs, 2 * 4 * (kTokens + (kTokens - 1) * kept));
  }
}

TEST(Sparsifiner, RowsSeeExactlyTheShareOfTheTokensThatAreThere) {
  test::seed_torch(7);
  torch::NoGradGuard no_grad;
  for (const auto& [tokens, keep, kept] :
       {std::tuple<int64_t, double, int64_t>{10, 0.25, 3}, {100, 0.07, 7}, {12, 0.25, 3}, {9, 0.01, 1}, {5, 1.0, 5}}) {
    auto mixer = drawn({{"keep", keep}, {"max_length", 100}, {"class_tokens", 0}});
    auto in = test::drawn_core(tokens, tokens, 4, 2, torch::kFloat64);
    nn::CoreReport report;
    in.report = &report;
    mixer->mix(in);
    EXPECT_EQ(report.pairs, 2 * 4 * tokens * kept) << tokens << " " << keep;
    // Padding is no token that is there: of the first item two are left.
    in.key_padding = torch::zeros({2, tokens}, torch::kBool);
    in.key_padding->select(0, 0).slice(0, 2).fill_(true);
    mixer->mix(in);
    EXPECT_EQ(report.pairs, 4 * tokens * (std::min<int64_t>(2, int64_t(std::ceil(2 * keep))) + kept)) << tokens;
  }
}

TEST(Sparsifiner, TheReleasedScaleCountsHeads) {
  test::seed_torch(8);
  torch::NoGradGuard no_grad;
  // With logits that differ by a factor, other coefficients pass a threshold.
  auto plain = drawn({{"keep", 0.3}, {"coefficient_threshold", 0.35}});
  auto released = drawn({{"keep", 0.3}, {"coefficient_threshold", 0.35}, {"released_scale", true}});
  test::copy_weights(*released, *plain);
  const auto in = test::drawn_core(kTokens, kTokens, 4, 2, torch::kFloat64);
  EXPECT_GT(relative_error(released->mix(in), plain->mix(in)), 1e-3);
  // Heads of as many channels as there are heads make no difference, and queries scaled by hand undo it.
  auto by_hand = drawn({{"keep", 0.3}, {"coefficient_threshold", 0.35}});
  test::copy_weights(*by_hand, *plain);
  by_hand->named_parameters()["q_down"].mul_(std::sqrt(8.0 / 4.0));
  EXPECT_LT(relative_error(by_hand->mix(in), released->mix(in)), 1e-12);
}

TEST(Sparsifiner, AFullBasisGivesTheTopOfTheCheapAttention) {
  test::seed_torch(3);
  torch::NoGradGuard no_grad;
  auto mixer = drawn(
      {{"keep", 0.2}, {"basis", kTokens}, {"coefficients", kTokens}, {"basis_threshold", 0.0}, {"class_tokens", 0}});
  auto p = mixer->named_parameters();
  p["tokens_down"].copy_(torch::eye(kTokens));
  p["basis"].copy_(torch::eye(kTokens));
  const auto in = test::drawn_core(kTokens, kTokens, 4, 2, torch::kFloat64);
  const auto cheap = torch::matmul(torch::matmul(in.q, p["q_down"]),
                                   torch::matmul(in.k, p["k_down"]).repeat_interleave(2, 1).transpose(2, 3));
  const auto order = std::get<1>(cheap.topk(4, 3));
  const auto seen = torch::zeros_like(cheap, torch::kBool).scatter_(3, order, true);
  const auto weights = torch::softmax(full_logits(in).masked_fill(seen.logical_not(), -INFINITY), 3);
  EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(weights, test::values_of(in))), 1e-12);
}

TEST(Sparsifiner, ThePredictorLearnsFromTheMapAlone) {
  test::seed_torch(4);
  auto mixer = drawn({{"keep", 0.3}});
  const auto x = torch::randn({2, kTokens, 32}, torch::kFloat64);
  const std::vector<const char*> predictor{"q_down", "k_down", "tokens_down", "basis"};
  mixer->forward({.x = x}).sum().backward();
  auto p = mixer->named_parameters();
  for (const char* name : predictor) EXPECT_FALSE(p[name].grad().defined()) << name;
  EXPECT_TRUE(p["q_proj.weight"].grad().defined());
  for (auto& parameter : mixer->parameters())
    if (parameter.grad().defined()) parameter.mutable_grad() = Tensor();
  sparsifiner_loss(*mixer, {.x = x}).backward();
  for (const char* name : predictor) EXPECT_GT(p[name].grad().abs().max().item<double>(), 0) << name;
  EXPECT_FALSE(p["q_proj.weight"].grad().defined());
}

TEST(Sparsifiner, AnyTrainingTeachesThePredictor) {
  test::seed_torch(8);
  auto mixer = drawn({{"keep", 0.3}, {"reconstruction", 0.02}});
  const auto x = torch::randn({2, kTokens, 32}, torch::kFloat64);
  MixerInput in{.x = x};
  in.key_padding = torch::zeros({2, kTokens}, torch::kBool);
  in.key_padding->slice(1, 15).fill_(true);
  const auto grads = [&](const Tensor& loss) {
    mixer->zero_grad();
    loss.backward();
    std::map<std::string, Tensor> found;
    for (const auto& entry : mixer->named_parameters())
      found[entry.key()] = entry.value().grad().defined() ? entry.value().grad().clone() : torch::zeros({});
    return found;
  };
  const auto plain = grads(mixer->forward(in).sum());
  mixer->train();
  const auto with = grads(mixer->forward(in).sum());
  // Two images: the mean of what each is away from its dense map.
  const auto wanted = grads(sparsifiner_loss(*mixer, in, {}, 0.01));
  for (const char* name : {"q_down", "k_down", "tokens_down", "basis"}) {
    EXPECT_LT(relative_error(with.at(name), wanted.at(name)), 1e-10) << name;
    EXPECT_EQ(plain.at(name).abs().max().item<double>(), 0) << name;
  }
  for (const auto& [name, grad] : plain)
    if (name.find("proj") != std::string::npos) {
      EXPECT_TRUE(torch::equal(grad, with.at(name))) << name;
    }
}

TEST(Sparsifiner, TokensThatAreLeftKeepTheirPlaces) {
  test::seed_torch(9);
  torch::NoGradGuard no_grad;
  auto mixer = drawn({{"keep", 0.3}});
  const auto x = torch::randn({2, kTokens, 32}, torch::kFloat64);
  // Each image has lost other patches.
  const auto kept = torch::tensor({{0, 2, 3, 7, 8, 11, 15}, {0, 1, 5, 6, 9, 12, 17}}, torch::kInt64);
  const auto index = kept.unsqueeze(2).expand({2, 7, 32});
  MixerInput whole{.x = x}, few{.x = x.gather(1, index)};
  whole.key_padding = torch::ones({2, kTokens}, torch::kBool).scatter_(1, kept, false);
  few.positions = kept;
  const auto expected = mixer->forward(whole).gather(1, index);
  EXPECT_LT(relative_error(mixer->forward(few), expected), 1e-10);
  few.positions.reset();
  EXPECT_GT(relative_error(mixer->forward(few), expected), 1e-3);
  few.positions = kept + 1;
  EXPECT_THROW(mixer->forward(few), Error);
}

TEST(Sparsifiner, AMapOfLowRankIsFound) {
  test::seed_torch(5);
  auto mixer = test::drawn_mixer("sparsifiner", {{"dim", 16}, {"heads", 2}, {"max_length", 12}, {"basis", 4}});
  // Two kinds of tokens, each attending to a distribution of its own.
  const auto kinds = torch::arange(12).remainder(2);
  const auto x = torch::randn({2, 16}).index_select(0, kinds).unsqueeze(0) * 2;
  const auto teacher = torch::softmax(torch::randn({2, 12}) * 2, 1).index_select(0, kinds).expand({1, 2, 12, 12});
  std::vector<Tensor> learned;
  for (auto& entry : mixer->named_parameters())
    if (entry.key().find("proj") == std::string::npos) learned.push_back(entry.value());
  torch::optim::Adam optimizer(learned, torch::optim::AdamOptions(0.01));
  const double before = sparsifiner_loss(*mixer, {.x = x}, teacher).item<double>();
  for (int64_t step = 0; step < 2000; ++step) {
    optimizer.zero_grad();
    sparsifiner_loss(*mixer, {.x = x}, teacher, 1).backward();
    optimizer.step();
  }
  EXPECT_LT(sparsifiner_loss(*mixer, {.x = x}, teacher).item<double>(), 1e-3 * before);
}

TEST(Sparsifiner, PaddingIsNeverChosen) {
  test::seed_torch(6);
  torch::NoGradGuard no_grad;
  auto mixer = drawn({{"keep", 0.3}});
  auto x = torch::randn({2, kTokens, 32}, torch::kFloat64);
  MixerInput in{.x = x};
  in.key_padding = torch::zeros({2, kTokens}, torch::kBool);
  in.key_padding->slice(1, 14).fill_(true);
  const auto before = mixer->forward(in);
  in.x = x.clone();
  in.x.slice(1, 14).add_(4);
  EXPECT_TRUE(torch::equal(mixer->forward(in).slice(1, 0, 14), before.slice(1, 0, 14)));
  in.key_padding->fill_(true);
  EXPECT_TRUE(test::all_finite(mixer->forward(in)));
}

TEST(Sparsifiner, BadInputIsNamed) {
  EXPECT_THROW(make_mixer("sparsifiner", {{"keep", 0.0}}), Error);
  EXPECT_THROW(make_mixer("sparsifiner", {{"causal", true}}), Error);
  EXPECT_THROW(drawn(nlohmann::json::object())->forward({.x = torch::randn({1, kTokens + 1, 32}, torch::kFloat64)}),
               Error);
  EXPECT_THROW(drawn(nlohmann::json::object())->make_state(1), Error);
  EXPECT_THROW(sparsifiner_loss(*drawn(nlohmann::json::object()), {.x = torch::randn({1, 5, 32}, torch::kFloat64)},
                                torch::zeros({1, 4, 4, 4})),
               Error);
  EXPECT_THROW(sparsifiner_loss(*make_mixer("dense", {}), {.x = torch::randn({1, 5, 64})}), Error);
}

}  // namespace
}  // namespace heed::sparsifiner_test
