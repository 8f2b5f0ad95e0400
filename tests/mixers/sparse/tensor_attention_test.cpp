// The card of tensor_attention: the softmax over pairs, its polynomial, and what they have in common.
#include "mixers/exact/tensor_core.h"
#include "mixers/sparse/sparse_support.h"

namespace heed::tensor_attention_test {
namespace {

using exact::TupleKeys;
using test::relative_error;
using torch::Tensor;

struct Pairs {
  Tensor q;
  TupleKeys keys;
};

Pairs draw(int64_t n, int64_t m, int64_t d, double size = 1) {
  const auto make = [&](int64_t tokens) { return torch::randn({2, 2, tokens, d}, torch::kFloat64) * size; };
  return {make(n), {{make(m), make(m)}, {make(m), make(m)}, {}}};
}

/// All pairs at once.
Tensor formula(const Pairs& p, bool causal) {
  const int64_t n = p.q.size(2), m = p.keys.k[0].size(2), d = p.q.size(3);
  auto s = torch::einsum("bhic,bhjc,bhkc->bhijk", {p.q, p.keys.k[0], p.keys.k[1]}) / double(d);
  auto hidden = torch::zeros({2, 1, n, m, m}, torch::kBool);
  const auto j = torch::arange(m).view({1, m, 1}), k = torch::arange(m).view({1, 1, m});
  if (causal) hidden = hidden | (torch::maximum(j, k) > (torch::arange(n) + m - n).view({n, 1, 1}));
  if (p.keys.hidden.defined())
    hidden = hidden | p.keys.hidden.view({2, 1, 1, m, 1}) | p.keys.hidden.view({2, 1, 1, 1, m});
  s = s.masked_fill(hidden, -1e30);
  const auto w = torch::softmax(s.flatten(3), 3).view_as(s).masked_fill(hidden, 0);
  return torch::einsum("bhijk,bhjv,bhkv->bhiv", {w, p.keys.v[0], p.keys.v[1]});
}

Tensor fast(const Pairs& p, int64_t degree, bool causal) {
  std::vector<Tensor> sums;
  return exact::polynomial_tuple_attention(p.q, p.keys, degree, causal, sums);
}

TEST(PairAttention, IsTheSoftmaxOverAllPairs) {
  test::seed_torch(1);
  for (const bool causal : {true, false})
    for (const auto& [n, m] : {std::pair<int64_t, int64_t>{20, 20}, {3, 19}, {37, 37}}) {
      auto p = draw(n, m, 6);
      EXPECT_LT(relative_error(exact::tuple_attention(p.q, p.keys, causal), formula(p, causal)), 1e-12) << causal << n;
      p.keys.hidden = torch::zeros({2, m}, torch::kBool);
      p.keys.hidden[0].slice(0, 2, 9).fill_(true);
      p.keys.hidden[1].fill_(true);  // nothing to see
      const auto out = exact::tuple_attention(p.q, p.keys, causal);
      EXPECT_LT(relative_error(out, formula(p, causal)), 1e-12) << causal << n;
      EXPECT_EQ(out[1].abs().max().item<double>(), 0);
    }
}

TEST(PairAttention, GradientsAreThoseOfTheFormula) {
  test::seed_torch(2);
  for (const bool causal : {true, false}) {
    auto p = draw(18, 18, 4);
    const std::vector<Tensor> inputs{p.q, p.keys.k[0], p.keys.k[1], p.keys.v[0], p.keys.v[1]};
    for (auto t : inputs) t.requires_grad_();
    const auto direction = torch::randn({2, 2, 18, 4}, torch::kFloat64);
    const auto grads = [&](const Tensor& out) { return torch::autograd::grad({(out * direction).sum()}, inputs); };
    const auto found = grads(exact::tuple_attention(p.q, p.keys, causal)), expected = grads(formula(p, causal));
    for (size_t i = 0; i < 5; ++i) EXPECT_LT(relative_error(found[i], expected[i]), 1e-10) << i << causal;
  }
}

TEST(PairAttention, FactsOfTheCard) {
  test::seed_torch(3);
  auto p = draw(11, 11, 5);
  // Second keys that say nothing: plain attention times the mean of the second values.
  auto plain = p;
  plain.keys.k[1] = torch::ones_like(p.keys.k[1]);
  const auto a = torch::softmax(torch::matmul(p.q, p.keys.k[0].transpose(2, 3)) / 5, 3);
  const auto expected = torch::matmul(a, p.keys.v[0]) * p.keys.v[1].mean(2, true);
  EXPECT_LT(relative_error(exact::tuple_attention(plain.q, plain.keys, false), expected), 1e-12);
  // The members of a pair may change places.
  const TupleKeys swapped{{p.keys.k[1], p.keys.k[0]}, {p.keys.v[1], p.keys.v[0]}, {}};
  EXPECT_LT(relative_error(exact::tuple_attention(p.q, swapped, true), exact::tuple_attention(p.q, p.keys, true)),
            1e-12);
  // No question, the mean.
  auto silent = p;
  silent.q = torch::zeros_like(p.q);
  EXPECT_LT(relative_error(exact::tuple_attention(silent.q, p.keys, false),
                           (p.keys.v[0].mean(2, true) * p.keys.v[1].mean(2, true)).expand_as(p.q)),
            1e-12);
  // Large products do not overflow.
  auto large = draw(9, 9, 5, 30);
  EXPECT_TRUE(test::all_finite(exact::tuple_attention(large.q, large.keys, true)));
}

TEST(PairPolynomial, FeaturesGiveTheTaylorPolynomial) {
  test::seed_torch(4);
  const int64_t d = 4, degree = 4;
  const auto x = torch::randn({3, d}, torch::kFloat64), y = torch::randn({3, d}, torch::kFloat64),
             z = torch::randn({3, d}, torch::kFloat64);
  const auto u = exact::monomials(x, degree, true);
  EXPECT_EQ(u.size(1), 70);  // C(8, 4)
  const auto found = (u * exact::monomials(y, degree, false) * exact::monomials(z, degree, false)).sum(1);
  const auto s = (x * y * z).sum(1) / double(d);
  auto expected = torch::ones_like(s), term = torch::ones_like(s);
  for (int64_t t = 1; t <= degree; ++t) expected = expected + (term = term * s / double(t));
  EXPECT_LT(relative_error(found, expected), 1e-12);
  // (A . B)^T (C . D) = (A^T C) * (B^T D) for the column-wise Kronecker product: what makes the fast form fast.
  const auto a = torch::randn({5, 3}, torch::kFloat64), b = torch::randn({6, 3}, torch::kFloat64),
             c = torch::randn({5, 3}, torch::kFloat64), e = torch::randn({6, 3}, torch::kFloat64);
  const auto rows = [](const Tensor& f, const Tensor& g) { return torch::einsum("ic,jc->ijc", {f, g}).flatten(0, 1); };
  EXPECT_LT(
      relative_error(torch::matmul(rows(a, b).t(), rows(c, e)), torch::matmul(a.t(), c) * torch::matmul(b.t(), e)),
      1e-12);
}

TEST(PairPolynomial, ComesCloserWithItsDegree) {
  test::seed_torch(5);
  const auto p = draw(5, 5, 3, 0.5);
  for (const bool causal : {false, true}) {
    const auto exact_out = exact::tuple_attention(p.q, p.keys, causal);
    double before = 1;
    for (const int64_t degree : {2, 4, 8}) {
      const double error = (fast(p, degree, causal) - exact_out).abs().max().item<double>();
      EXPECT_LT(error, before * 1e-1) << degree;
      before = error;
    }
    EXPECT_LT(before, 1e-8);
    // Entries of up to 1/2: |s| <= 1/8, and what the polynomial of degree p leaves out is at most s^(p+1) e^s / (p+1)!.
    Pairs bounded = p;
    for (auto* t : {&bounded.q, &bounded.keys.k[0], &bounded.keys.k[1], &bounded.keys.v[0], &bounded.keys.v[1]})
      *t = torch::tanh(*t) / 2;
    const auto wanted = exact::tuple_attention(bounded.q, bounded.keys, causal);
    for (const int64_t degree : {2, 4, 8}) {
      const double left_out = std::pow(1.0 / 8, double(degree + 1)) * std::exp(0.25) / std::tgamma(double(degree + 2));
      // Weights, in numerator and denominator, of values of up to 1/4; a dozen roundings.
      const double bound = 2 * left_out / (1 - left_out) / 4 + 12 * 2.2e-16;
      EXPECT_LT((fast(bounded, degree, causal) - wanted).abs().max().item<double>(), bound) << degree;
    }
  }
}

TEST(PairPolynomial, PrefixSumsAndPaddingAndGradients) {
  test::seed_torch(6);
  auto p = draw(70, 70, 3, 0.7);  // chunks of 32
  p.keys.hidden = torch::zeros({2, 70}, torch::kBool);
  p.keys.hidden[0].slice(0, 1, 9).fill_(true);
  const std::vector<Tensor> inputs{p.q, p.keys.k[0], p.keys.k[1], p.keys.v[0], p.keys.v[1]};
  for (auto t : inputs) t.requires_grad_();
  const auto direct = [&] {
    const auto f = [&](const Tensor& x, bool taylor) { return exact::monomials(x, 2, taylor); };
    const auto weights =
        torch::einsum("bhir,bhjr,bhkr->bhijk", {f(p.q, true), f(p.keys.k[0], false), f(p.keys.k[1], false)});
    const auto i = torch::arange(70).view({70, 1, 1}), j = torch::arange(70).view({1, 70, 1}),
               k = torch::arange(70).view({1, 1, 70});
    const auto hidden =
        (torch::maximum(j, k) > i) | p.keys.hidden.view({2, 1, 1, 70, 1}) | p.keys.hidden.view({2, 1, 1, 1, 70});
    const auto w = weights.masked_fill(hidden, 0);
    return torch::einsum("bhijk,bhjv,bhkv->bhiv", {w, p.keys.v[0], p.keys.v[1]}) /
           w.sum({3, 4}).clamp_min(1e-12).unsqueeze(3);
  };
  const auto out = fast(p, 2, true), expected = direct();
  EXPECT_LT(relative_error(out, expected), 1e-12);
  const auto direction = torch::randn_like(out);
  const auto grads = [&](const Tensor& o) { return torch::autograd::grad({(o * direction).sum()}, inputs); };
  const auto found = grads(out), wanted = grads(expected);
  for (size_t i = 0; i < 5; ++i) EXPECT_LT(relative_error(found[i], wanted[i]), 1e-10) << i;
}

/// Triples of keys, so that weights are a tensor of the fourth order.
TEST(TupleAttention, OfTheFourthOrderIsTheSoftmaxOverTriples) {
  test::seed_torch(8);
  const int64_t n = 19, d = 4;  // more than the first members of one call
  for (const bool causal : {true, false}) {
    const auto make = [&] { return (torch::randn({2, 2, n, d}, torch::kFloat64)).requires_grad_(); };
    const auto q = make();
    TupleKeys keys{{make(), make(), make()}, {make(), make(), make()}, torch::zeros({2, n}, torch::kBool)};
    keys.hidden[0].slice(0, 3, 6).fill_(true);
    const auto triples = [&](const Tensor& hidden) {
      auto s = torch::einsum("bhic,bhjc,bhkc,bhlc->bhijkl", {q, keys.k[0], keys.k[1], keys.k[2]}) / double(d);
      s = s.masked_fill(hidden, -1e30);
      const auto w = torch::softmax(s.flatten(3), 3).view_as(s).masked_fill(hidden, 0);
      return torch::einsum("bhijkl,bhjv,bhkv,bhlv->bhiv", {w, keys.v[0], keys.v[1], keys.v[2]});
    };
    auto hidden = torch::zeros({2, 1, n, n, n, n}, torch::kBool);
    const auto i = torch::arange(n).view({n, 1, 1, 1});
    for (const int64_t member : {0, 1, 2}) {
      std::vector<int64_t> own{1, 1, 1, 1}, padded{2, 1, 1, 1, 1, 1};
      own[size_t(member) + 1] = padded[size_t(member) + 3] = n;
      hidden = hidden | keys.hidden.view(padded);
      if (causal) hidden = hidden | (torch::arange(n).view(own) > i);
    }
    const auto found = exact::tuple_attention(q, keys, causal), expected = triples(hidden);
    EXPECT_LT(relative_error(found, expected), 1e-12) << causal;
    std::vector<Tensor> inputs{q};
    for (const auto& list : {keys.k, keys.v}) inputs.insert(inputs.end(), list.begin(), list.end());
    const auto direction = torch::randn_like(found);
    const auto grads = [&](const Tensor& out) { return torch::autograd::grad({(out * direction).sum()}, inputs); };
    const auto a = grads(found), b = grads(expected);
    for (size_t t = 0; t < inputs.size(); ++t) EXPECT_LT(relative_error(a[t], b[t]), 1e-10) << t << causal;
    // The polynomial of entries of at most 1/2: |s| <= d / 16 / d, so that what is left out is below (1/16)^9 / 9!.
    torch::NoGradGuard no_grad;
    for (auto* list : {&keys.k, &keys.v})
      for (auto& t : *list) t = torch::tanh(t.detach()) / 2;
    std::vector<Tensor> sums;
    const auto small = torch::tanh(q.detach()) / 2;
    EXPECT_LT(relative_error(exact::polynomial_tuple_attention(small, keys, 8, causal, sums),
                             exact::tuple_attention(small, keys, causal)),
              1e-12)
        << causal;
  }
}

TEST(TensorAttention, LayersOfEveryOrderStepAsTheyRun) {
  test::seed_torch(9);
  torch::NoGradGuard no_grad;
  const auto x = torch::randn({2, 13, 12}) * 0.5;
  for (const int64_t order : {3, 4, 5})
    for (const int64_t degree : {0, 2}) {
      auto mixer =
          test::drawn_mixer("tensor_attention", {{"dim", 12}, {"heads", 3}, {"degree", degree}, {"order", order}});
      int64_t size = 0;
      for (const auto& parameter : mixer->parameters()) size += parameter.numel();
      EXPECT_EQ(size, 12 * 12 * (2 * order));  // q, the output, and keys and values of order - 1 members
      EXPECT_LT(relative_error(test::in_parts(*mixer, x, {1, 4}), mixer->forward({.x = x})), test::kForwardTolerance)
          << order << " " << degree;
    }
}

TEST(TensorAttention, StepsOfTheFastFormHoldSums) {
  test::seed_torch(7);
  torch::NoGradGuard no_grad;
  const nlohmann::json config{{"dim", 12}, {"heads", 3}, {"degree", 2}};
  auto mixer = test::drawn_mixer("tensor_attention", config);
  const auto x = torch::randn({2, 45, 12}) * 0.5;
  EXPECT_LT(relative_error(test::in_parts(*mixer, x, {1, 7}), mixer->forward({.x = x})), test::kForwardTolerance);
  auto state = mixer->make_state(2);
  mixer->forward({.x = x}, state.get());
  EXPECT_EQ(state->bytes(), 2 * 2 * 3 * 15 * 5 * 4);  // two sums of r = C(6, 2) features by Dv + 1
}

TEST(TensorAttention, BadInputIsNamed) {
  EXPECT_THROW(make_mixer("tensor_attention", {{"degree", 3}}), Error);
  EXPECT_THROW(make_mixer("tensor_attention", {{"dim", 10}, {"heads", 4}}), Error);
  EXPECT_THROW(make_mixer("tensor_attention", {{"key_dim", 3}}), Error);
  EXPECT_THROW(make_mixer("tensor_attention", {{"order", 2}}), Error);
}

}  // namespace
}  // namespace heed::tensor_attention_test
