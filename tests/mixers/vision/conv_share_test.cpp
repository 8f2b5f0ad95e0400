// The card of attention by shared convolutions.
#include <gtest/gtest.h>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "support/image_support.h"

namespace heed::conv_share_test {
namespace {

using nlohmann::json;
using test::image_input;
using test::image_mixer;
using test::kDouble;
using test::parameter;
using test::relative_error;
using torch::Tensor;

TEST(ConvShareAttention, KernelsOfAWholeMapAreLinear) {
  torch::manual_seed(1);
  const auto in = image_input(2, 3, 16, 2);
  const auto mixer = image_mixer("conv_share_attention", {{"dim", 16}, {"heads", 2}});
  const auto linear = [&](const std::string& name, const Tensor& x) {
    return torch::linear(x, parameter(*mixer, name + ".weight").flatten(1), parameter(*mixer, name + ".bias"));
  };
  const auto heads = [&](const char* name) { return split_heads(linear(name, in.x), 2); };
  EXPECT_EQ(parameter(*mixer, "q.weight").sizes(), torch::IntArrayRef({16, 1, 4, 4}));
  EXPECT_LT(relative_error(mixer->forward(in), linear("o", join_heads(attention(heads("q"), heads("k"), heads("v"))))),
            kDouble);
}

TEST(ConvShareAttention, TheFourierPlaneGivesTheSame) {
  torch::manual_seed(2);
  const auto in = image_input(2, 3, 36);
  for (const json& settings : {json{{"kernel", 6}}, json{{"kernel", 5}}, json{{"padding", "same"}, {"kernel", 3}},
                               json{{"padding", "same"}, {"kernel", 5}}}) {
    auto config = settings;
    config.update({{"dim", 36}, {"heads", 3}});
    const auto direct = image_mixer("conv_share_attention", config);
    config["optical"] = true;
    const auto optical = image_mixer("conv_share_attention", config);
    {
      torch::NoGradGuard no_grad;
      for (const auto& p : direct->named_parameters()) parameter(*optical, p.key()).copy_(p.value());
    }
    EXPECT_LT(relative_error(optical->forward(in), direct->forward(in)), kDouble) << settings;
  }
}

TEST(ConvShareAttention, BadSizesAreNamed) {
  EXPECT_THROW(make_mixer("conv_share_attention", {{"dim", 24}}), Error);
  EXPECT_THROW(make_mixer("conv_share_attention", {{"dim", 16}, {"kernel", 5}}), Error);
  EXPECT_THROW(make_mixer("conv_share_attention", {{"dim", 16}, {"kernel", 2}}), Error);  // 3 x 3 cells of 16 channels
  EXPECT_THROW(make_mixer("conv_share_attention", {{"dim", 16}, {"kernel", 2}, {"padding", "same"}}), Error);
}

}  // namespace
}  // namespace heed::conv_share_test
