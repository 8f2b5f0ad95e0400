// ops::panel_attention against masked softmax by torch with its gradients.
#include "heed/ops/panel_attention.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::ops::panel_attention_test {
namespace {

using test::relative_error;
using torch::Tensor;

/// The panels of a mask bool [B, choosers, N, M]: of each block what some of its queries sees.
KeyPanels panels_of(const Tensor& visible, int64_t block) {
  const int64_t n = visible.size(2), m = visible.size(3);
  return key_panels(visible.size(0), visible.size(1), n, block,
                    [&](int64_t b, int64_t chooser, int64_t first, int64_t count) {
                      const auto rows = visible[b][chooser].narrow(0, first, count).contiguous();
                      const bool* const seen = rows.data_ptr<bool>();
                      std::vector<int32_t> keys;
                      for (int64_t j = 0; j < m; ++j)
                        for (int64_t r = 0; r < count; ++r)
                          if (seen[r * m + j]) {
                            keys.push_back(int32_t(j));
                            break;
                          }
                      KeyPanel panel(block, keys);
                      for (int64_t r = 0; r < count; ++r)
                        for (int64_t c = 0; c < int64_t(keys.size()); ++c)
                          if (seen[r * m + keys[size_t(c)]]) panel.see(r, c, c + 1);
                      return panel;
                    });
}

TEST(PanelAttentionOp, IsMaskedSoftmaxWithItsGradients) {
  torch::manual_seed(5);
  for (const auto dtype : {torch::kFloat32, torch::kFloat64})
    for (const int64_t choosers : {1, 2, 4})
      for (const double softcap : {0.0, 1.5}) {
        SCOPED_TRACE(std::to_string(choosers) + " " + std::to_string(softcap));
        const auto q = torch::randn({2, 4, 71, 9}, dtype).requires_grad_(),
                   k = torch::randn({2, 2, 90, 9}, dtype).requires_grad_(),
                   v = torch::randn({2, 2, 90, 5}, dtype).requires_grad_();
        const auto visible = torch::rand({2, choosers, 71, 90}) < 0.3;
        visible.select(2, 13).fill_(false);
        const auto panels = panels_of(visible, 20);
        EXPECT_EQ(kernels::visible_pairs(panels.view()), visible.sum().item<int64_t>());
        const auto got = panel_attention(q, k, v, panels, 0.4, softcap);
        auto s = torch::matmul(q, k.repeat_interleave(2, 1).transpose(2, 3)) * 0.4;
        if (softcap > 0) s = torch::tanh(s / softcap) * softcap;
        const auto hidden = visible.repeat_interleave(4 / choosers, 1).logical_not();
        // A finite floor, so that the row that sees nothing has a gradient of 0 and not NaN.
        const auto p = torch::softmax(s.masked_fill(hidden, -1e30), 3).masked_fill(hidden, 0);
        const auto out = torch::matmul(p, v.repeat_interleave(2, 1)),
                   lse = torch::logsumexp(s.masked_fill(hidden, -1e30), 3);
        EXPECT_LT(relative_error(got.out, out), test::kForwardTolerance);
        EXPECT_TRUE((got.lse.select(2, 13) == -INFINITY).all().item<bool>());
        const auto some = torch::cat({torch::arange(13), torch::arange(14, 71)});
        const auto rows = [&](const Tensor& x) { return x.index_select(2, some); };
        EXPECT_LT(relative_error(rows(got.lse), rows(lse)), test::kForwardTolerance);
        const auto d_out = torch::randn_like(out), d_lse = torch::randn({2, 4, 70}, dtype);
        const auto grads = [&](const Tensor& o, const Tensor& l) {
          return torch::autograd::grad({(o * d_out).sum() + (rows(l) * d_lse).sum()}, {q, k, v});
        };
        const auto found = grads(got.out, got.lse), wanted = grads(out, lse);
        for (size_t i = 0; i < 3; ++i) EXPECT_LT(relative_error(found[i], wanted[i]), test::kGradientTolerance) << i;
      }
}

TEST(PanelAttentionOp, TheOperatorIsTheFunction) {
  torch::manual_seed(6);
  const auto q = torch::randn({1, 2, 30, 8}), k = torch::randn({1, 1, 40, 8}), v = torch::randn({1, 1, 40, 8});
  const auto panels = panels_of(torch::rand({1, 1, 30, 40}) < 0.5, 16);
  const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("heed::panel_attention", "")
          .typed<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                            const Tensor&, int64_t, int64_t, double, double)>();
  const auto [out, lse] = op.call(q, k, v, panels.offsets, panels.keys, panels.seen, 1, 16, 0, 0);
  const auto same = panel_attention(q, k, v, panels);
  EXPECT_TRUE(torch::equal(out, same.out));
  EXPECT_TRUE(torch::equal(lse, same.lse));
}

TEST(PanelAttentionOp, SaysWhatDoesNotFit) {
  const auto q = torch::randn({1, 2, 30, 8}), k = torch::randn({1, 1, 40, 8});
  const auto panels = panels_of(torch::ones({1, 1, 30, 40}, torch::kBool), 16);
  const auto spoiled = [&](auto&& spoil) {
    auto bad = panels;
    spoil(bad);
    return bad;
  };
  EXPECT_NO_THROW(panel_attention(q, k, k, panels));
  EXPECT_THROW(panel_attention(q, k, k, spoiled([](KeyPanels& p) { p.seen = p.seen.slice(0, 1); })), Error);
  EXPECT_THROW(panel_attention(q, k, k, spoiled([](KeyPanels& p) { p.keys = p.keys.to(torch::kInt64); })), Error);
  EXPECT_THROW(panel_attention(q, k, k, spoiled([](KeyPanels& p) { p.block = 8; })), Error);
  EXPECT_THROW(panel_attention(q, k, k, spoiled([](KeyPanels& p) { p.block = 0; })), Error);
}

}  // namespace
}  // namespace heed::ops::panel_attention_test
