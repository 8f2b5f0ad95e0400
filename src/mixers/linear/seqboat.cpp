// SeqBoat: a moving average decides which tokens attend; those are packed into a short sequence with local attention.
#include <cmath>

#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/positions.h"
#include "mixers/linear/damped_ema.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

struct SeqBoatConfig {
  int64_t dim = 64, ema_dim = 16, key_dim = 0, value_dim = 0, window = 256, distances = 1024;
  double temperature = 1;
  std::string normalizer = "relu2", bias = "table";
  bool causal = true;
};

/// Active tokens, in order, at the front of rows as long as the longest.
struct Packed {
  explicit Packed(const Tensor& active) : batch(active.size(0)), tokens(active.size(1)) {
    const auto counts = active.sum(1);
    length = tokens == 0 ? 0 : counts.max().item<int64_t>();
    const auto cells = active.nonzero();
    const auto row = cells.select(1, 0), rank = (active.cumsum(1) - 1).index({row, cells.select(1, 1)});
    token = torch::zeros({batch, length}, torch::kInt64);
    token.index_put_({row, rank}, cells.select(1, 1));
    valid = torch::arange(length).unsqueeze(0) < counts.unsqueeze(1);
    count = counts;
  }
  /// x [B, N, C] -> [B, length, C]
  Tensor pack(const Tensor& x) const { return x.gather(1, token.unsqueeze(2).expand({-1, -1, x.size(2)})); }
  /// The reverse, 0 for tokens that were left out.
  Tensor unpack(const Tensor& y) const {
    const auto shown = y.masked_fill(valid.logical_not().unsqueeze(2), 0);
    return torch::zeros({batch, tokens, y.size(2)}, y.options())
        .scatter_add(1, token.unsqueeze(2).expand_as(shown), shown);
  }

  int64_t batch, tokens, length = 0;
  Tensor token, valid, count;  ///< int64 [B, length], bool [B, length], int64 [B]
};

class SeqBoat final : public RecurrentMixer {
 public:
  explicit SeqBoat(const SeqBoatConfig& c) : RecurrentMixer("seqboat", c.dim, c.causal), config_(c) {
    norm_ = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({c.dim})));
    ema_ = register_module("ema", linear::DampedEma(c.dim, c.ema_dim, !c.causal));
    router_ = project("router", c.dim, 2 + c.dim, true);
    z_proj_ = project("z_proj", c.dim, c.key_dim, true);
    r_proj_ = project("r_proj", c.dim, c.value_dim, true);
    v_proj_ = project("v_proj", c.dim, c.value_dim, true);
    o_proj_ = project("o_proj", c.value_dim, c.dim, true);
    log_temperature_ = register_parameter(
        "log_temperature", torch::full({1}, std::log(c.temperature * std::sqrt(static_cast<double>(c.dim)))));
    affine_ = register_parameter("affine", torch::stack({torch::ones({2, c.key_dim}), torch::zeros({2, c.key_dim})}));
    if (c.bias == "table") {
      distance_bias_ = register_parameter("distance_bias", torch::zeros({2 * c.distances + 1}));
    } else {
      // Rotations turn pairs of channels.
      const int64_t size = (c.key_dim + 1) / 2 * 2;
      query_bias_ = register_parameter("query_bias", torch::randn({size}) * 0.02);
      key_bias_ = register_parameter("key_bias", torch::randn({size}) * 0.02);
    }
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    require(!call.input.cu_seqlens, "seqboat: cu_seqlens are not accepted");
    const auto x = call.without_padding(call.x);
    Tensor* held = call.carries() ? &call.slot(0) : nullptr;
    const auto m = torch::silu(ema_->forward(call.without_padding(norm_(x)), held));
    const auto routed = router_(m);
    const auto chance = torch::softmax(routed.narrow(2, 0, 2) / torch::exp(log_temperature_), 2).select(2, 1);
    auto active = chance > 0.5;
    if (call.input.key_padding) active = active.logical_and(call.input.key_padding->logical_not());
    const Packed packed(active.detach());
    const auto attended = packed.unpack(attend(call, packed, m)) * chance.unsqueeze(2);
    return torch::silu(routed.narrow(2, 2, config_.dim) + attended + x);
  }

 private:
  /// The gated attention unit over packed tokens: [B, length, C].
  Tensor attend(RecurrentCall& call, const Packed& packed, const Tensor& m) {
    const auto& c = config_;
    const auto tokens = packed.pack(m);
    const auto z = torch::silu(z_proj_(tokens)), r = torch::silu(r_proj_(tokens));
    const auto q = z * affine_[0][0] + affine_[1][0];
    const auto place = call.positions().expand({packed.batch, packed.tokens}).gather(1, packed.token);
    // In front of the new keys, the last window - 1 active ones of each sequence, right-aligned.
    const int64_t before = c.window - 1;
    const auto with_past = [&](size_t slot, const Tensor& now) {
      auto& past = call.slot(slot);
      if (!past.defined()) {
        auto size = now.sizes().vec();
        size[1] = before;
        past = torch::zeros(size, now.options());
      }
      const auto all = torch::cat({past, now}, 1);
      auto last = torch::arange(before).unsqueeze(0) + packed.count.unsqueeze(1);
      if (all.dim() == 3) last = last.unsqueeze(2).expand({-1, -1, all.size(2)});
      past = all.gather(1, last);
      return all;
    };
    const auto k = with_past(1, z * affine_[0][1] + affine_[1][1]), v = with_past(2, torch::silu(v_proj_(tokens)));
    const auto places = with_past(3, place), valid = with_past(4, packed.valid);
    return o_proj_(local_attention(q, k, v, place, places, valid) * r);
  }

  /// Query i stands at key i + window - 1 and sees keys less than a window away. Blocks of a window of queries, or of
  /// all where they are fewer, read the keys around them, so that nothing of size N x N is made.
  Tensor local_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& place, const Tensor& places,
                         const Tensor& valid) const {
    const int64_t length = q.size(1), w = config_.window, rows = std::min(w, length);
    if (length == 0) return torch::zeros({q.size(0), 0, v.size(2)}, v.options());
    const int64_t blocks = (length + rows - 1) / rows, behind = blocks * rows - length,
                  seen = rows + (config_.causal ? w - 1 : 2 * (w - 1));
    const auto padded = [](const Tensor& t, int64_t count) {
      auto size = t.sizes().vec();
      size[1] = count;
      return count == 0 ? t : torch::cat({t, torch::zeros(size, t.options())}, 1);
    };
    const auto around = [&](const Tensor& t) {
      return padded(t, behind + (config_.causal ? 0 : w - 1)).unfold(1, seen, rows);
    };
    const auto q_blocks = padded(q, behind).unflatten(1, {blocks, rows});
    const auto scores = torch::matmul(q_blocks, around(k));  // [B, blocks, rows, seen]
    const auto offset = torch::arange(rows).unsqueeze(1) + (w - 1) - torch::arange(seen);
    const auto near = config_.causal ? (offset >= 0).logical_and(offset < w) : offset.abs() < w;
    const auto visible = near.logical_and(around(valid).unsqueeze(2));
    const auto bias = of_places(padded(place, behind).unflatten(1, {blocks, rows}), around(places));
    Tensor weights;
    if (config_.normalizer == "relu2") {
      const double count = static_cast<double>(config_.causal ? w : 2 * w);
      weights = torch::relu(scores / count + bias).pow(2).masked_fill(visible.logical_not(), 0);
    } else {
      const auto logits = scores / std::sqrt(static_cast<double>(config_.key_dim)) + bias;
      // Rows that are padding see nothing; a finite number keeps their gradients finite.
      weights =
          torch::softmax(logits.masked_fill(visible.logical_not(), -1e30), -1).masked_fill(visible.logical_not(), 0);
    }
    return torch::matmul(weights, around(v).transpose(2, 3)).flatten(1, 2).narrow(1, 0, length);
  }

  /// What the original places of queries [B, blocks, rows] and keys [B, blocks, seen] add to their scores.
  Tensor of_places(const Tensor& queries, const Tensor& keys) const {
    if (distance_bias_.defined()) {
      const auto distance = queries.unsqueeze(3) - keys.unsqueeze(2);
      return distance_bias_.index({distance.clamp(-config_.distances, config_.distances) + config_.distances});
    }
    const auto turned = [](const Tensor& vector, const Tensor& places) {
      const auto rows = vector.expand({places.size(0) * places.size(1), 1, places.size(2), -1});
      return nn::apply_rope(rows, places.flatten(0, 1), {}).squeeze(1).unflatten(0, places.sizes().slice(0, 2));
    };
    return torch::matmul(turned(query_bias_, queries), turned(key_bias_, keys).transpose(2, 3));
  }

  SeqBoatConfig config_;
  torch::nn::LayerNorm norm_{nullptr};
  linear::DampedEma ema_{nullptr};
  torch::nn::Linear router_{nullptr}, z_proj_{nullptr}, r_proj_{nullptr}, v_proj_{nullptr}, o_proj_{nullptr};
  Tensor log_temperature_, affine_;  // [1], [2, 2, key_dim]
  Tensor distance_bias_;             // [2 distances + 1], of a table
  Tensor query_bias_, key_bias_;     // [key_dim, even], of rotations
};

}  // namespace

RegistryRow rows::seqboat() {
  return {.name = "seqboat",
          .family = "linear_and_recurrent",
          .paper = "Sparse Modular Activation for Efficient Sequence Modeling (arXiv 2306.11197)",
          .year = 2023,
          .patterns = {true, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .spectral = true,
          .cost = "O(N log N + r N w), r the share of active tokens",
          .parameters = {{"dim", 64, "channels C of the tokens"},
                         {"ema_dim", 16, "decaying sums of a channel"},
                         {"key_dim", 0, "of queries and keys; 0: dim / 2"},
                         {"value_dim", 0, "of values and gates; 0: dim"},
                         {"window", 256, "active tokens a query sees on a side, the own one included"},
                         {"bias", "table",
                          "of scores, by the distance of original places: table, or rotary (the product of two learned "
                          "vectors, rotated to their places)"},
                         {"distances", 1024, "of the table: largest distance with a bias of its own"},
                         {"temperature", 1.0, "initial temperature of the router, in units of sqrt(dim)"},
                         {"normalizer", "relu2", "relu2 or softmax"},
                         {"causal", true, "token i sees tokens up to i"}},
          .small = {{"dim", 16}, {"ema_dim", 3}, {"window", 6}, {"distances", 8}, {"temperature", 0.05}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("seqboat", json);
            SeqBoatConfig c;
            c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
            c.ema_dim = reader.integer("ema_dim", c.ema_dim, 1, 1 << 12);
            c.key_dim = reader.integer("key_dim", 0, 0, 1 << 16);
            if (c.key_dim == 0) c.key_dim = std::max<int64_t>(1, c.dim / 2);
            c.value_dim = reader.integer("value_dim", 0, 0, 1 << 20);
            if (c.value_dim == 0) c.value_dim = c.dim;
            c.window = reader.integer("window", c.window, 1, 1 << 16);
            c.distances = reader.integer("distances", c.distances, 1, 1 << 20);
            c.temperature = reader.get("temperature", c.temperature);
            require(c.temperature > 0, "seqboat: temperature = {}: a positive number is accepted", c.temperature);
            c.normalizer = reader.choice("normalizer", c.normalizer, {"relu2", "softmax"});
            c.bias = reader.choice("bias", c.bias, {"table", "rotary"});
            c.causal = reader.get("causal", true);
            reader.finish();
            return std::make_shared<SeqBoat>(c);
          }};
}

}  // namespace heed
