// A model of two attention layers without training whose answers are known: it goes on with a run of tokens that it
// has seen once, and falls back to token 0 where it can't find it.
#pragma once

#include <cmath>
#include <limits>

#include "heed/cache/policy.h"

namespace heed::testing {

/// Tokens are one-hot vectors of 64. Layer 0, "prev": one head that attends to the token before, by the rotation of
/// constant queries and keys. Layer 1, "ind": one head without positions; the query is the token, a key the token
/// before it, token 0 a sink. Its value, the key's own token, is the answer. Layer 0 keeps a full cache; the policy
/// under test serves layer 1.
class OracleInduction {
 public:
  static constexpr int64_t kTokens = 64;
  static constexpr int64_t kDim = 72;  ///< of layer 1: a channel for the sink behind the tokens, and zeros

  OracleInduction(std::string_view policy, const nlohmann::json& settings)
      : policy_(cache::make_policy(policy, settings, {2, 1, 1, kDim, 4096, {}})) {
    nn::PositionsConfig rope;
    rope.kind = "rope";
    rotary_ = nn::Positions(rope, kTokens, 1, true);
    none_ = nn::Positions(nn::PositionsConfig(), kDim, 1, true);
  }

  /// BOS, N - 2 random tokens of 1..39 with the run 50..55 inserted before token `at` of them, and the final 50.
  static std::vector<int64_t> prompt(int64_t length, int64_t at, uint64_t seed) {
    torch::manual_seed(seed);
    const auto hay = torch::randint(1, 40, {length - 8}, torch::kInt64);
    std::vector<int64_t> tokens(hay.data_ptr<int64_t>(), hay.data_ptr<int64_t>() + hay.numel());
    for (int64_t i = 0; i < 6; ++i) tokens.insert(tokens.begin() + at + i, 50 + i);
    tokens.insert(tokens.begin(), 0);
    tokens.push_back(50);
    return tokens;
  }

  /// Greedy answer of `count` tokens to a prompt fed in chunks. `in_step`: its last token is a decode step, so that
  /// the policy's choice for it is its own.
  std::vector<int64_t> answer(const std::vector<int64_t>& prompt, int64_t count = 5, int64_t chunk = 512,
                              bool in_step = false) {
    prev_ = std::make_unique<cache::LayerCache>();
    ind_ = policy_({1, 2});
    sharpness_ = 12 + std::max(0.0, std::log(double(prompt.size()) / 1000));
    const int64_t n = int64_t(prompt.size()) - in_step;
    torch::Tensor out;
    for (int64_t i = 0; i < n; i += chunk) out = feed({prompt.begin() + i, prompt.begin() + std::min(i + chunk, n)});
    for (auto* layer : {prev_.get(), ind_.get()}) layer->finish_prompt();
    if (in_step) out = feed({prompt.back()});
    std::vector<int64_t> tokens;
    least_ = 1;
    while (true) {
      const auto best = out[0][0][out.size(2) - 1].narrow(0, 0, kTokens).max(0);
      tokens.push_back(std::get<1>(best).item<int64_t>());
      least_ = std::min(least_, std::get<0>(best).item<double>());
      if (int64_t(tokens.size()) == count) return tokens;
      out = feed({tokens.back()});
    }
  }

  /// Smallest probability of an answered token.
  double least_probability() const { return least_; }
  const cache::LayerCache& ind() const { return *ind_; }

  /// How many tokens of an answer go on with the run: 51, 52, ...
  static int64_t correct(const std::vector<int64_t>& answer) {
    int64_t count = 0;
    while (count < int64_t(answer.size()) && answer[count] == 51 + count) ++count;
    return count;
  }

 private:
  /// The output of layer 1.
  torch::Tensor feed(const std::vector<int64_t>& tokens) {
    const int64_t n = int64_t(tokens.size()), first = prev_->seen(), pairs = kTokens / 2;
    const auto positions = torch::arange(first, first + n);
    const auto one_hot = torch::one_hot(torch::tensor(tokens), kTokens).to(torch::kFloat32).view({1, 1, n, kTokens});
    // score(i, j) = 20 sum_m cos(theta_m (i - j - 1)): a query that is rotated to the place before its own.
    const auto toward = torch::cat({torch::ones({pairs}), torch::zeros({pairs})}).view({1, 1, 1, kTokens});
    const auto back = rotary_->rotate(toward, torch::full({1}, -1, torch::kInt64));
    AttentionOptions options;
    options.mask = Causal{};
    options.scale = 1;
    const auto before = prev_->attend(
        {{0, 2}, 20 * back.expand_as(one_hot), toward.expand_as(one_hot), one_hot, positions, rotary_.get(), options});
    const auto widened = [](const torch::Tensor& x) { return torch::constant_pad_nd(x, {0, kDim - kTokens}); };
    auto q = widened(one_hot), k = widened(sharpness_ * before);
    q.select(3, kTokens).fill_(1);
    if (first == 0) k.select(2, 0).select(1, 0).select(0, 0)[kTokens] = 6;
    return ind_->attend({{1, 2}, q, k, widened(one_hot), positions, none_.get(), options});
  }

  cache::Policy policy_;
  nn::Positions rotary_{nullptr}, none_{nullptr};
  std::unique_ptr<cache::LayerCache> prev_, ind_;
  double sharpness_ = 12, least_ = 1;
};

}  // namespace heed::testing
