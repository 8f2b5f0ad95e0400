// Attention whose linear maps are convolutions with kernels that all tokens share, as a free-space optical correlator
// computes them.
#include <algorithm>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/shared_conv.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;

class ConvShareAttention final : public RecurrentMixer {
 public:
  ConvShareAttention(const vision::WindowHeads& heads, const nn::SharedConvOptions& maps)
      : RecurrentMixer("conv_share_attention", heads.dim, false), heads_(heads.heads) {
    q_ = register_module("q", nn::SharedConv(maps));
    k_ = register_module("k", nn::SharedConv(maps));
    v_ = register_module("v", nn::SharedConv(maps));
    out_ = register_module("o", nn::SharedConv(maps));
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    AttentionOptions options;
    require(!call.input.cu_seqlens, "conv_share_attention: cu_seqlens is not accepted");
    if (call.input.key_padding) {
      options.k_documents = call.input.key_padding->to(torch::kInt32).neg();
      options.q_documents = torch::zeros_like(*options.k_documents);
    }
    const auto heads = [&](nn::SharedConv& map) { return split_heads(map(call.x), heads_); };
    return out_(join_heads(attention(heads(q_), heads(k_), heads(v_), options)));
  }

 private:
  int64_t heads_;
  nn::SharedConv q_{nullptr}, k_{nullptr}, v_{nullptr}, out_{nullptr};
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
              {{"kernel", 0,
                "side of the kernels; 0: that of a token's map, sqrt(dim) rounded up, which is a linear map. Others "
                "need a square dim"},
               {"padding", "valid", "valid: kernels stay inside the map; same: maps keep their side"},
               {"optical", false, "compute the correlations in the Fourier plane"}}),
          .small = {{"dim", 16}, {"heads", 2}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("conv_share_attention", json);
            const auto heads = vision::WindowHeads::read(reader);
            nn::SharedConvOptions maps;
            maps.side = nn::side_of_map(heads.dim);
            maps.cells = heads.dim;
            maps.kernel = reader.integer("kernel", 0, 0, maps.side);
            maps.same = reader.choice("padding", "valid", {"valid", "same"}) == "same";
            if (maps.kernel == 0) maps.kernel = maps.same ? std::min<int64_t>(3, maps.side) : maps.side;
            require(!maps.same || maps.kernel % 2 == 1,
                    "conv_share_attention: kernel = {} with padding = same; odd sizes are accepted", maps.kernel);
            require(
                maps.side * maps.side == heads.dim || (!maps.same && maps.kernel == maps.side),
                "conv_share_attention: kernel = {} and padding = {} of dim = {}, which is no square: kernel = {} with "
                "padding = valid is accepted",
                maps.kernel, maps.same ? "same" : "valid", heads.dim, maps.side);
            maps.optical = reader.get("optical", false);
            reader.finish();
            const int64_t out = maps.out_side();
            require(heads.dim % (out * out) == 0,
                    "conv_share_attention: {} channels are no multiple of the {} x {} cells that a kernel of {} leaves",
                    heads.dim, out, out, maps.kernel);
            maps.kernels = heads.dim / (out * out);
            return std::make_shared<ConvShareAttention>(heads, maps);
          }};
}

}  // namespace heed
