// Exact attention where keys hash near to a query, a sample for the rest (HyperAttention, arXiv 2310.05869).
//
// Buckets are placed by the inverse of the Gray code, so that neighbours differ in one bit. A query's block of keys is
// that in which it would stand among the sorted keys, whatever other queries there are, so that causal attention is
// causal to the last bit.
#include <cmath>
#include <limits>
#include <utility>

#include "heed/error.h"
#include "heed/nn/buckets.h"
#include "heed/nn/generator.h"
#include "heed/nn/lsh.h"
#include "heed/nn/partial.h"
#include "mixers/layer_numbers.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct HyperConfig {
  int64_t block = 256, samples = 256;
  int64_t bits = 7;
  int64_t exact_length = 4096;
  std::string alignment = "place";  ///< place, rank
  bool whole_sample = false;        ///< every key once
  bool by_values = false;           ///< numerators are sampled by the lengths of values
  int64_t seed = 0;
  std::vector<int64_t> dense_layers;  ///< below 0: from the last
};

class HyperAttention final : public AttentionMixer {
 public:
  HyperAttention(const AttentionConfig& config, const HyperConfig& own)
      : AttentionMixer("hyper_attention", config), own_(own) {
    const auto& kind = config_.positions.kind;
    require(kind != "alibi" && kind != "t5",
            "hyper_attention: positions {}: none, rope, learned and sinusoidal are accepted", kind);
    directions_ = register_buffer("directions", nn::seeded_normal({config.head_dim, own.bits}, uint64_t(own.seed)));
  }

  Tensor forward(const MixerInput& in, MixerState* state) override {
    require(!in.cu_seqlens, "hyper_attention: cu_seqlens is not accepted");
    return AttentionMixer::forward(in, state);
  }

  /// Behind a prompt, tokens attend exactly.
  Tensor mix(const CoreInput& in) override {
    const bool dense = std::exchange(dense_, false);
    const int64_t n = in.q.size(2), m = in.k.size(2), group = in.q.size(1) / in.k.size(1);
    if (dense || m <= own_.exact_length || (config_.causal && n != m)) return AttentionMixer::mix(in);
    const auto by_query_head = [&](const Tensor& x) { return group == 1 ? x : x.repeat_interleave(group, 1); };
    Part all{in.q, by_query_head(in.k), by_query_head(in.v)};
    all.shown = in.key_padding ? in.key_padding->logical_not() : torch::ones({in.q.size(0), m}, torch::kBool);
    all.padded = in.key_padding.has_value();
    return (config_.causal ? causal(all, in) : estimate(all, in.seed)).out;
  }

 protected:
  void before_core(const MixerInput& in, const KvState*, Tensor&, Tensor&, Tensor&) override {
    dense_ = among(own_.dense_layers, in.layer);
  }

 private:
  /// Queries from `first_query` on, keys and values from `first_key` on.
  struct Part {
    Tensor q, k, v;
    Tensor shown;  ///< bool [B, M]
    bool padded = false;
    int64_t first_query = 0, first_key = 0;
  };

  AttentionOptions plain_options(uint64_t seed) const {
    AttentionOptions options;
    options.scale = config_.scale;
    options.softcap = config_.softcap;
    if (is_training() && config_.dropout > 0) options.dropout = config_.dropout, options.seed = seed;
    return options;
  }

  /// Short parts exactly; of longer ones either half by itself, and the second half's queries against the first half's
  /// keys.
  AttentionResult causal(const Part& part, const CoreInput& in) const {
    const int64_t n = part.q.size(2), half = n / 2;
    if (n <= own_.exact_length || half == 0) {
      auto options = plain_options(in.seed);
      options.mask = Causal{};
      if (part.padded) {
        options.k_documents = part.shown.to(torch::kInt32) - 1;
        options.q_documents = torch::zeros({part.q.size(0), n}, torch::kInt32);
      }
      return attention_with_lse(part.q, part.k, part.v, options);
    }
    const auto cut = [&](int64_t queries, int64_t q_count, int64_t keys, int64_t k_count) {
      Part p{part.q.narrow(2, queries, q_count), part.k.narrow(2, keys, k_count), part.v.narrow(2, keys, k_count)};
      p.shown = part.shown.narrow(1, keys, k_count);
      p.padded = part.padded;
      p.first_query = part.first_query + queries, p.first_key = part.first_key + keys;
      return p;
    };
    const auto top = causal(cut(0, half, 0, half), in), own = causal(cut(half, n - half, half, n - half), in),
               before = estimate(cut(half, n - half, 0, half), in.seed);
    const auto bottom = nn::merge(own, before);
    return {torch::cat({top.out, bottom.out}, 2), torch::cat({top.lse, bottom.lse}, 2)};
  }

  /// All queries of a part see all of its shown keys: those of a block exactly, the others by a sample.
  AttentionResult estimate(const Part& part, uint64_t seed) const {
    const auto count = part.shown.sum(1);  // [B]
    std::vector<AttentionResult> parts;
    Tensor q_blocks, k_blocks;
    const bool by_values = own_.by_values && !own_.whole_sample && own_.samples > 0;
    if (own_.block > 0) {
      blocks_of(part, count, q_blocks, k_blocks);
      const int64_t blocks = (part.k.size(2) + own_.block - 1) / own_.block;
      // What is not shown stands in a block behind them.
      parts.push_back(nn::bucket_attention(part.q, part.k, part.v, q_blocks,
                                           k_blocks.masked_fill(~part.shown.unsqueeze(1), blocks), blocks + 1,
                                           plain_options(seed)));
    }
    if (own_.whole_sample || own_.samples > 0) {
      parts.push_back(seen_by(part, drawn_alike(part, count, seed), q_blocks, k_blocks, seed));
      if (by_values) parts.back().out = torch::zeros_like(parts.back().out);  // of them the sum of weights alone
    }
    auto all = nn::merge(parts);
    if (by_values) add_values(all, seen_by(part, drawn_by_values(part, seed), q_blocks, k_blocks, seed));
    return all;
  }

  /// Keys that stand for all: their places, and what their weights are multiplied by, as a logarithm; -inf: none.
  struct Drawn {
    Tensor keys;        ///< int64 [B, H, S]
    Tensor log_weight;  ///< [B, H or 1, S]
  };

  /// int64 [B, H, N] and [B, H, M]: blocks of the keys in the order of their hashes, and the block of each query.
  void blocks_of(const Part& part, const Tensor& count, Tensor& q_blocks, Tensor& k_blocks) const {
    const int64_t n = part.q.size(2), places = int64_t{1} << own_.bits;
    const auto q_places = nn::gray_places(part.q, directions_);
    const auto k_places =
        nn::gray_places(part.k, directions_).masked_fill(part.shown.logical_not().unsqueeze(1), places);
    const auto [sorted, order] = k_places.sort(c10::optional<bool>(true), 2, false);
    const auto ranks = torch::empty_like(order).scatter_(2, order, torch::arange(order.size(2)).expand_as(order));
    k_blocks = ranks.div(own_.block, "floor");
    const auto last = ((count + own_.block - 1).div(own_.block, "floor") - 1).clamp_min(0).view({-1, 1, 1});
    if (own_.alignment == "rank") {
      const auto q_order = std::get<1>(q_places.sort(c10::optional<bool>(true), 2, false));
      const auto q_ranks = torch::empty_like(q_order).scatter_(2, q_order, torch::arange(n).expand_as(q_order));
      q_blocks = (q_ranks * (last + 1)).div(std::max<int64_t>(n, 1), "floor");
      return;
    }
    // Keys of one place fill a span of ranks, over which queries of that place spread evenly, by their number.
    const auto begin = torch::searchsorted(sorted, q_places), end = torch::searchsorted(sorted, q_places + 1);
    constexpr double kGolden = 0.6180339887498949;
    const auto spread = ((torch::arange(n, torch::kFloat64) + double(part.first_query)) * kGolden).frac();
    const auto rank = begin + ((end - begin).to(torch::kFloat64) * spread).to(torch::kInt64);
    q_blocks = torch::minimum(rank.div(own_.block, "floor"), last);
  }

  /// `samples` of the keys that are shown, with replacement, or each of all keys once.
  Drawn drawn_alike(const Part& part, const Tensor& count, uint64_t seed) const {
    const int64_t batch = part.q.size(0), heads = part.q.size(1), m = part.k.size(2);
    const auto hidden = part.shown.logical_not();
    if (own_.whole_sample) {
      const auto keys = torch::arange(m).expand({batch, heads, m});
      return {keys, torch::zeros({batch, 1, m}, torch::kFloat64).masked_fill(hidden.unsqueeze(1), -kInfinity)};
    }
    // Draws of a sequence do not depend on its companions: the same fractions for all, of as many as are shown.
    const auto shown_first = std::get<1>(hidden.to(torch::kInt8).sort(c10::optional<bool>(true), 1, false));
    const auto keys = count.view({-1, 1, 1});
    const auto rank =
        torch::minimum((fractions(part, seed) * keys.to(torch::kFloat64)).to(torch::kInt64), (keys - 1).clamp_min(0));
    return {shown_first.unsqueeze(1).expand({-1, heads, -1}).gather(2, rank),
            (keys.to(torch::kFloat64) / double(own_.samples)).log().expand({-1, 1, own_.samples})};
  }

  /// `samples` keys, each as probable as the square of its value's length says; those without a value are not drawn.
  Drawn drawn_by_values(const Part& part, uint64_t seed) const {
    torch::NoGradGuard no_grad;
    const auto mass = part.v.to(torch::kFloat64).square().sum(3) * part.shown.unsqueeze(1);  // [B, H, M]
    const auto below = mass.cumsum(2);
    const auto total = below.slice(2, -1);
    const auto keys = torch::searchsorted(below, (fractions(part, ~seed) * total).contiguous(), false, true)
                          .clamp_max(part.k.size(2) - 1);
    return {keys, (total / (mass.gather(2, keys) * double(own_.samples))).log().masked_fill(total == 0, -kInfinity)};
  }

  /// [1, H, S] in [0, 1).
  Tensor fractions(const Part& part, uint64_t seed) const {
    auto generator = nn::seeded_generator(draw_seed(part, seed));
    return torch::rand({1, part.q.size(1), own_.samples}, generator, torch::kFloat64);
  }

  /// Attention over drawn keys; those of a query's own block are left out.
  AttentionResult seen_by(const Part& part, const Drawn& drawn, const Tensor& q_blocks, const Tensor& k_blocks,
                          uint64_t seed) const {
    const auto rows = [&](const Tensor& x) {
      return x.gather(2, drawn.keys.unsqueeze(3).expand({-1, -1, -1, x.size(3)}));
    };
    auto options = plain_options(seed);
    const auto type = part.q.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
    auto weight = drawn.log_weight.to(type).unsqueeze(2);
    if (own_.block > 0)
      weight = weight.masked_fill(q_blocks.unsqueeze(3) == k_blocks.gather(2, drawn.keys).unsqueeze(2), -kInfinity);
    options.bias = weight;
    return attention_with_lse(part.q, rows(part.k), rows(part.v), options);
  }

  /// Adds sums of weighed values to the output over the sum of weights that `all` has.
  static void add_values(AttentionResult& all, const AttentionResult& values) {
    const auto share = (values.lse - all.lse).masked_fill(all.lse == -kInfinity, -kInfinity).exp();
    all.out = all.out + (values.out * share.unsqueeze(3)).to(all.out.scalar_type());
  }

  /// Every part of the causal recursion, and every call's seed, draws its own sample.
  uint64_t draw_seed(const Part& part, uint64_t seed) const {
    uint64_t x = uint64_t(own_.seed) ^ (seed * 0x9E3779B97F4A7C15ull);
    for (const int64_t place : {part.first_query, part.first_key})
      x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9ull + uint64_t(place);
    return x ^ (x >> 32);
  }

  HyperConfig own_;
  Tensor directions_;   // [D, bits]
  bool dense_ = false;  // the forward under way is of one of dense_layers
};

}  // namespace

RegistryRow rows::hyper_attention() {
  return {
      .name = "hyper_attention",
      .family = "exact_and_systems",
      .paper = "HyperAttention: Long-context Attention in Near-Linear Time (arXiv 2310.05869)",
      .year = 2023,
      .patterns = {true, true, true, false},
      .core = true,
      .training_free = true,
      .cost = "O(N (b + m) + N log N), causal times log N; steps behind a prompt read everything",
      .parameters = attention_parameters(
          {{"block", 256, "keys of a block, in the order of their hashes, that a query sees exactly"},
           {"samples", 256, "keys drawn for the rest, with replacement"},
           {"bits", 7, "random directions of the hash"},
           {"exact_length", 4096, "no longer sequences attend exactly; causal: nor do halves of halves"},
           {"alignment", "place",
            "a query's block of keys: that in which its hash stands (place), or the block of its rank among all "
            "queries (rank, the paper's, with which later queries move earlier ones)"},
           {"sampling", "alike",
            "how keys are drawn: all alike, or for the sums of values by the squared lengths of these (values, the "
            "paper's analysis), sums of weights by alike ones"},
           {"whole_sample", false, "every key is drawn once: exact"},
           {"seed", 0, "of hashes and samples"},
           {"dense_layers", nlohmann::json::array(), "numbers of layers that attend exactly; below 0: from the last"}}),
      .small = {{"dim", 24},
                {"heads", 4},
                {"kv_heads", 2},
                {"positions", "rope"},
                {"block", 4},
                {"samples", 5},
                {"bits", 3},
                {"exact_length", 8}},
      .make = attention_maker("hyper_attention", [](const AttentionConfig& config, ConfigReader& reader) {
        HyperConfig own;
        own.block = reader.integer("block", own.block, 0, 1 << 20);
        own.samples = reader.integer("samples", own.samples, 0, 1 << 20);
        own.bits = reader.integer("bits", own.bits, 1, 30);
        own.exact_length = reader.integer("exact_length", own.exact_length, 0);
        own.alignment = reader.choice("alignment", own.alignment, {"place", "rank"});
        own.by_values = reader.choice("sampling", "alike", {"alike", "values"}) == "values";
        own.whole_sample = reader.get("whole_sample", own.whole_sample);
        own.seed = reader.integer("seed", own.seed, 0);
        own.dense_layers = reader.get("dense_layers", own.dense_layers);
        require(own.block > 0 || own.samples > 0 || own.whole_sample,
                "hyper_attention: block = 0 and samples = 0: one of them above 0 is accepted");
        return std::make_shared<HyperAttention>(config, own);
      })};
}

}  // namespace heed
