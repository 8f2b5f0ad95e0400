// A large convolution, taken apart into two small ones, gates what it is computed from.
#include <algorithm>

#include "heed/error.h"
#include "heed/nn/gelu.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;
using vision::Image;

enum class Gate { product, sigmoid, sum };

struct LargeKernelConfig {
  int64_t dim = 64, kernel = 21, dilation = 3;
  Gate gate = Gate::product;
  bool dilated = true;
};

class LargeKernelAttention final : public vision::ImageMixer {
 public:
  explicit LargeKernelAttention(const LargeKernelConfig& c)
      : ImageMixer("large_kernel_attention", c.dim), kind_(c.gate) {
    in_ = register_module("in_proj", torch::nn::Linear(c.dim, c.dim));
    near_ = register_module("near", nn::GridConv(c.dim, 2 * c.dilation - 1));
    if (c.dilated) far_ = register_module("far", nn::GridConv(c.dim, far_size(c), true, c.dilation));
    gate_ = register_module("gate", torch::nn::Linear(c.dim, c.dim));
    out_ = register_module("o_proj", torch::nn::Linear(c.dim, c.dim));
  }

  static int64_t far_size(const LargeKernelConfig& c) { return (c.kernel + c.dilation - 1) / c.dilation; }

 protected:
  Tensor mix_image(const Image& image) override {
    const auto x = nn::gelu(in_(image.cells));
    auto around = vision::convolve(near_, image.shown(x));
    if (far_) around = vision::convolve(far_, image.shown(around));
    return image.cells + out_(gated(gate_(around), x));
  }

 private:
  Tensor gated(const Tensor& gate, const Tensor& x) const {
    if (kind_ == Gate::sum) return gate + x;
    return (kind_ == Gate::sigmoid ? torch::sigmoid(gate) : gate) * x;
  }

  Gate kind_;
  torch::nn::Linear in_{nullptr}, gate_{nullptr}, out_{nullptr};
  nn::GridConv near_{nullptr}, far_{nullptr};
};

}  // namespace

RegistryRow rows::large_kernel_attention() {
  return vision::image_row(
      {.name = "large_kernel_attention",
       .paper = "Visual Attention Network (arXiv 2202.09741)",
       .year = 2022,
       .cost = "O(N)",
       .parameters = {{"dim", 64, "channels C of the tokens"},
                      {"kernel", 21, "K: side of the convolution that is taken apart"},
                      {"dilation", 3, "d: into 2 d - 1 cells, and ceil(K / d), odd, cells d apart"},
                      {"gate", "product",
                       "what the convolutions do to what they are computed from: product multiplies it, sigmoid "
                       "multiplies it by numbers between 0 and 1, sum is added"},
                      {"dilated", true, "false: without the cells d apart, the 2 d - 1 near ones alone"},
                      {"causal", false, "only false is accepted"}},
       .small = {{"dim", 24}, {"kernel", 5}, {"dilation", 2}},
       .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
         ConfigReader reader("large_kernel_attention", json);
         LargeKernelConfig c;
         c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
         c.kernel = reader.integer("kernel", c.kernel, 1, 1024);
         c.dilation = reader.integer("dilation", c.dilation, 1, 64);
         static const std::vector<std::string> kGates{"product", "sigmoid", "sum"};
         const auto gate = reader.choice("gate", "product", kGates);
         c.gate = static_cast<Gate>(std::find(kGates.begin(), kGates.end(), gate) - kGates.begin());
         c.dilated = reader.get("dilated", c.dilated);
         require(!reader.get("causal", false), "large_kernel_attention: causal = true is not accepted");
         require(LargeKernelAttention::far_size(c) % 2 == 1,
                 "large_kernel_attention: kernel = {} and dilation = {} give {} cells; an odd number is accepted",
                 c.kernel, c.dilation, LargeKernelAttention::far_size(c));
         reader.finish();
         return std::make_shared<LargeKernelAttention>(c);
       }});
}

}  // namespace heed
