// Attention whose linear maps are convolutions with kernels that all tokens share, as a free-space optical correlator
// computes them.
#include <algorithm>
#include <cmath>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;

struct ConvShareConfig {
  vision::WindowHeads heads;
  int64_t side = 8, kernel = 8;  ///< of a token's map, side^2 = dim, and of the kernels
  bool same = false;             ///< maps keep their side; else kernels stay inside
  bool optical = false;          ///< through the Fourier plane
};

/// Cross-correlation of maps [M, 1, a, a] with kernels [K, 1, k, k] by Fourier transforms of maps with zeros around
/// them, as a 4f system multiplies spectra: [M, K, b, b].
Tensor correlate(const Tensor& maps, const Tensor& kernels, int64_t padding) {
  const int64_t a = maps.size(2), k = kernels.size(2), size = a + k - 1, side = a + 2 * padding - k + 1;
  const std::vector<int64_t> sizes{size, size}, axes{2, 3};
  const auto spectrum =
      torch::fft_rfftn(maps, sizes, axes) * torch::fft_rfftn(kernels.flip(axes).transpose(0, 1), sizes, axes);
  // Entry i of the full convolution has the kernel's last cell over cell i.
  const auto full = torch::fft_irfftn(spectrum, sizes, axes);
  return full.narrow(2, k - 1 - padding, side).narrow(3, k - 1 - padding, side);
}

/// A linear map of tokens as shared kernels: [B, N, side^2] -> [B, N, side^2].
class SharedConvImpl : public torch::nn::Module {
 public:
  explicit SharedConvImpl(const ConvShareConfig& c) : config_(c) {
    const int64_t out = c.same ? c.side : c.side - c.kernel + 1;
    require((c.side * c.side) % (out * out) == 0,
            "conv_share_attention: {} channels are no multiple of the {} x {} cells that a kernel of {} leaves",
            c.side * c.side, out, out, c.kernel);
    const int64_t kernels = c.side * c.side / (out * out);
    const double bound = 1 / static_cast<double>(c.kernel);
    weight_ = register_parameter("weight", torch::empty({kernels, 1, c.kernel, c.kernel}).uniform_(-bound, bound));
    bias_ = register_parameter("bias", torch::zeros({kernels}));
  }

  Tensor forward(const Tensor& x) {
    const auto maps = x.reshape({-1, 1, config_.side, config_.side});
    const int64_t padding = config_.same ? config_.kernel / 2 : 0;
    const auto y = config_.optical ? correlate(maps, weight_, padding) + bias_.view({1, -1, 1, 1})
                                   : torch::conv2d(maps, weight_, bias_, 1, padding);
    return y.flatten(1).view(x.sizes());
  }

 private:
  ConvShareConfig config_;
  Tensor weight_, bias_;
};
TORCH_MODULE(SharedConv);

class ConvShareAttention final : public RecurrentMixer {
 public:
  explicit ConvShareAttention(const ConvShareConfig& c)
      : RecurrentMixer("conv_share_attention", c.heads.dim, false), heads_(c.heads.heads) {
    q_ = register_module("q", SharedConv(c));
    k_ = register_module("k", SharedConv(c));
    v_ = register_module("v", SharedConv(c));
    out_ = register_module("o", SharedConv(c));
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    AttentionOptions options;
    require(!call.input.cu_seqlens, "conv_share_attention: cu_seqlens is not accepted");
    if (call.input.key_padding) {
      options.k_documents = call.input.key_padding->to(torch::kInt32).neg();
      options.q_documents = torch::zeros_like(*options.k_documents);
    }
    const auto heads = [&](SharedConv& map) { return split_heads(map(call.x), heads_); };
    return out_(join_heads(attention(heads(q_), heads(k_), heads(v_), options)));
  }

 private:
  int64_t heads_;
  SharedConv q_{nullptr}, k_{nullptr}, v_{nullptr}, out_{nullptr};
};

}  // namespace

RegistryRow rows::conv_share_attention() {
  return {.name = "conv_share_attention",
          .family = "sparse_and_vision",
          .paper =
              "ConvShareViT: Enhancing Vision Transformers with Convolutional Attention Mechanisms for Free-Space "
              "Optical Accelerators (arXiv 2504.11517)",
          .year = 2025,
          .patterns = {true, false, false, false},
          .cost = "O(N^2)",
          .parameters = vision::window_parameters(
              {{"kernel", 0, "side of the kernels; 0: that of a token's map, sqrt(dim), which is a linear map"},
               {"padding", "valid", "valid: kernels stay inside the map; same: maps keep their side"},
               {"optical", false, "compute the correlations in the Fourier plane"}}),
          .small = {{"dim", 16}, {"heads", 2}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("conv_share_attention", json);
            ConvShareConfig c;
            c.heads = vision::WindowHeads::read(reader);
            c.side = static_cast<int64_t>(std::llround(std::sqrt(double(c.heads.dim))));
            require(c.side * c.side == c.heads.dim, "conv_share_attention: dim = {}; a square is accepted",
                    c.heads.dim);
            c.kernel = reader.integer("kernel", 0, 0, c.side);
            c.same = reader.choice("padding", "valid", {"valid", "same"}) == "same";
            if (c.kernel == 0) c.kernel = c.same ? std::min<int64_t>(3, c.side) : c.side;
            require(!c.same || c.kernel % 2 == 1,
                    "conv_share_attention: kernel = {} with padding = same; odd sizes are accepted", c.kernel);
            c.optical = reader.get("optical", false);
            reader.finish();
            return std::make_shared<ConvShareAttention>(c);
          }};
}

}  // namespace heed
