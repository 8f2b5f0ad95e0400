// A learned operator on the rows of scores in the place of softmax: sums of learned functions of one score each.
#include <algorithm>
#include <cmath>

#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/mixers/shared_parameters.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"
#include "mixers/vision/score_basis.h"

namespace heed {
namespace {

using torch::Tensor;

struct ArnoldConfig {
  vision::WindowHeads heads;
  int64_t max_length = 64, rank = 12;
  vision::ScoreBasis basis;
  bool simplex = false, universal = false;
};

/// The nearest point of the probability simplex to each row (Duchi et al., 2008).
Tensor to_simplex(const Tensor& rows) {
  const auto sorted = std::get<0>(rows.sort(-1, true));
  const auto count = torch::arange(1, rows.size(-1) + 1, rows.options());
  const auto excess = (sorted.cumsum(-1) - 1) / count;
  const auto kept = (sorted > excess).sum(-1, true).clamp_min(1);
  return torch::relu(rows - excess.gather(-1, kept - 1));
}

class KolmogorovArnoldAttention final : public RecurrentMixer, public SharedParameters {
 public:
  explicit KolmogorovArnoldAttention(const ArnoldConfig& c)
      : RecurrentMixer("kolmogorov_arnold_attention", c.heads.dim, false), config_(c) {
    const int64_t n = c.max_length, heads = c.heads.heads, count = c.basis.count();
    qkv_ = project("qkv", dim_, 3 * dim_, true);
    out_ = project("o_proj", dim_, dim_, true);
    const int64_t inner = c.rank == 0 ? n : c.rank;
    // Of cos and sin one half is large where the other is small.
    const double terms = c.basis.kind == "fourier" ? double(c.basis.size) : double(count);
    functions_ = register_parameter("functions", torch::randn({heads, inner, n, count}) / std::sqrt(double(n) * terms));
    if (const auto shape = c.basis.first_shape(heads); shape.defined()) shape_ = register_parameter("shape", shape);
    if (c.rank > 0) {
      const double bound = std::sqrt(6.0 / double(n + c.rank));
      expand_ = register_parameter("expand", torch::empty({heads, n, c.rank}).uniform_(-bound, bound));
    }
  }

  void take_from(TokenMixer& first) override {
    auto& leader = dynamic_cast<KolmogorovArnoldAttention&>(first);
    if (!config_.universal || !leader.config_.universal) return;
    const bool fits = functions_.sizes() == leader.functions_.sizes() &&
                      expand_.defined() == leader.expand_.defined() && config_.basis == leader.config_.basis;
    require(fits,
            "kolmogorov_arnold_attention: an operator of {} {} beside one of {} {} [heads, rank, max_length, "
            "functions]: equal ones are accepted with operator = universal",
            config_.basis.kind, c10::str(functions_.sizes()), leader.config_.basis.kind,
            c10::str(leader.functions_.sizes()));
    for (const char* name : {"functions", "expand", "shape"})
      if (parameters_.contains(name)) parameters_.erase(name);
    functions_ = leader.functions_, expand_ = leader.expand_, shape_ = leader.shape_;
  }

  Tensor mix(const CoreInput& in) override {
    const int64_t n = in.k.size(2);
    require(
        n <= config_.max_length && in.q.size(1) == config_.heads.heads,
        "kolmogorov_arnold_attention: {} heads over {} keys: {} heads and at most max_length = {} keys are accepted",
        in.q.size(1), n, config_.heads.heads, config_.max_length);
    const auto scores = torch::matmul(in.q, in.k.transpose(2, 3)) / std::sqrt(double(in.q.size(3)));
    auto rows = operate(scores, in.key_padding);
    if (config_.simplex) rows = to_simplex(rows);
    return torch::matmul(rows, in.v);
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    const int64_t n = call.tokens();
    require(n <= config_.max_length, "kolmogorov_arnold_attention: {} tokens: at most max_length = {} are accepted", n,
            config_.max_length);
    require(!call.input.cu_seqlens, "kolmogorov_arnold_attention: cu_seqlens is not accepted");
    const auto parts = qkv_(call.x).chunk(3, 2);
    const auto heads = [&](size_t i) { return split_heads(parts[i], config_.heads.heads); };
    CoreInput core;
    core.q = heads(0), core.k = heads(1), core.v = call.heads_without_padding(heads(2));
    core.key_padding = call.input.key_padding;
    return out_(join_heads(mix(core)));
  }

 private:
  /// sigma(s)_p = sum_q phi_pq(s_q) of every row: [B, heads, N, N]. A padded key has no function.
  Tensor operate(const Tensor& scores, const std::optional<Tensor>& key_padding) const {
    const int64_t n = scores.size(3), inner = config_.rank == 0 ? n : config_.rank;
    auto stacked = config_.basis.values(scores, shape_);  // [B, heads, N, keys, functions]
    if (key_padding) stacked = stacked.masked_fill(key_padding->view({-1, 1, 1, n, 1}), 0);
    const auto functions = functions_.narrow(1, 0, inner).narrow(2, 0, n).flatten(2);  // [heads, inner, keys functions]
    const auto sums = torch::matmul(stacked.flatten(3), functions.transpose(1, 2).unsqueeze(0));
    if (config_.rank == 0) return sums;
    return torch::matmul(sums, expand_.narrow(1, 0, n).transpose(1, 2).unsqueeze(0));
  }

  ArnoldConfig config_;
  torch::nn::Linear qkv_{nullptr}, out_{nullptr};
  Tensor functions_;  // [heads, rank or N, N, functions]
  Tensor shape_;      // what the functions learn; undefined: nothing
  Tensor expand_;     // [heads, N, rank]
};

}  // namespace

RegistryRow rows::kolmogorov_arnold_attention() {
  return {
      .name = "kolmogorov_arnold_attention",
      .family = "sparse_and_vision",
      .paper =
          "Kolmogorov-Arnold Attention: Is Learnable Attention Better For Vision Transformers? "
          "(arXiv 2503.10632)",
      .year = 2025,
      .patterns = {true, false, false, false},
      .fixed_n = true,
      .cost = "O(N^2 r G)",
      .parameters = vision::window_parameters(
          {{"max_length", 64, "most tokens; fewer use the first of the weights"},
           {"rank", 12, "r of the operator; 0: full, N x N functions"},
           {"basis", "fourier",
            "functions of a score are sums of: fourier, cos(m s) and sin(m s), m = 1..G; spline, silu and cubic "
            "B-splines over G intervals; wavelet, G Mexican hats with learned centres and widths; rational, powers up "
            "to G over 1 + |b_1 s + ...|, b learned"},
           {"frequencies", 3, "G"},
           {"range", 3.0, "splines and the first wavelets lie over scores from -range to range"},
           {"operator", "layer", "layer: each layer has its own; universal: all layers of a model use the first one's"},
           {"simplex", false, "rows are projected to the probability simplex, which the paper found to hurt"}}),
      .small = {{"dim", 24}, {"heads", 3}, {"max_length", 64}, {"rank", 4}, {"frequencies", 2}},
      .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
        ConfigReader reader("kolmogorov_arnold_attention", json);
        ArnoldConfig c;
        c.heads = vision::WindowHeads::read(reader);
        c.max_length = reader.integer("max_length", c.max_length, 1, 1 << 16);
        c.rank = reader.integer("rank", c.rank, 0, 1 << 16);
        c.basis.kind = reader.choice("basis", c.basis.kind, {"fourier", "spline", "wavelet", "rational"});
        c.basis.size = reader.integer("frequencies", c.basis.size, 1, 64);
        c.basis.range = reader.get("range", c.basis.range);
        require(c.basis.range > 0 && std::isfinite(c.basis.range),
                "kolmogorov_arnold_attention: range = {}: above 0 is accepted", c.basis.range);
        c.universal = reader.choice("operator", "layer", {"layer", "universal"}) == "universal";
        c.simplex = reader.get("simplex", false);
        reader.finish();
        return std::make_shared<KolmogorovArnoldAttention>(c);
      }};
}

}  // namespace heed
