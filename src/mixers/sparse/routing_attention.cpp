// Attention inside clusters of queries and keys, whose centroids follow them (Routing Transformer, arXiv 2003.05997).
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "heed/error.h"
#include "heed/nn/added_loss.h"
#include "heed/nn/buckets.h"
#include "heed/nn/spherical_clusters.h"
#include "heed/ops/cache.h"
#include "mixers/sparse/shared_qk.h"

namespace heed {
namespace {

using torch::Tensor;

struct ClusterRouting {
  int64_t clusters = 0;     ///< C; 0: round(sqrt(max_length))
  int64_t local_heads = 0;  ///< the first heads see a window
  int64_t window = 256;
  std::string assignment = "argmax";  ///< argmax, topw
  std::string init = "normal";        ///< normal, kmeans
  bool shared = true;
  double decay = 0.999, commitment = 0;
  int64_t seed = 0;
};

class RoutingAttention final : public sparse::BucketMixer {
 public:
  RoutingAttention(const AttentionConfig& config, const ClusterRouting& own)
      : BucketMixer("routing_attention", config, own.shared), own_(own) {
    if (own_.clusters == 0)
      own_.clusters = std::max<int64_t>(1, std::lround(std::sqrt(static_cast<double>(config.max_length))));
    if (own_.local_heads < config.heads)
      clusters_ = register_module("clusters", nn::SphericalClusters(config.heads - own_.local_heads, own_.clusters,
                                                                    config.head_dim, uint64_t(own_.seed)));
  }

  std::unique_ptr<MixerState> make_state(int64_t batch) const override {
    require(own_.assignment == "argmax",
            "routing_attention: no step with assignment topw: later tokens displace "
            "earlier ones; argmax is accepted");
    return BucketMixer::make_state(batch);
  }

 protected:
  void before_core(const MixerInput& in, const KvState* state, Tensor& q, Tensor& k, Tensor& v) override {
    BucketMixer::before_core(in, state, q, k, v);
    crosses_ = in.memory.has_value();
  }

  /// Of the local heads.
  Mask mask() const override {
    if (config_.causal) return Causal{} & Window{own_.window};
    return Window{own_.window / 2, own_.window / 2};
  }

  Tensor buckets_of(const Tensor& k) const override {
    const auto routed = k.slice(1, own_.local_heads);
    if (routed.size(1) == 0) return torch::zeros({k.size(0), 0, 1, k.size(2)}, torch::kInt64);
    return clusters_->nearest(nn::direction(routed)).unsqueeze(2);
  }

  Tensor attend(const CoreInput& in, const Tensor& buckets) override {
    const int64_t local = own_.local_heads, heads = in.q.size(1);
    const bool crosses = std::exchange(crosses_, false) || in.q.size(2) != in.k.size(2);
    const auto heads_from = [&](int64_t begin, int64_t end) {
      auto part = in;
      part.q = in.q.slice(1, begin, end), part.k = in.k.slice(1, begin, end), part.v = in.v.slice(1, begin, end);
      return part;
    };
    std::vector<Tensor> outs;
    if (local > 0) {
      const auto part = heads_from(0, local);
      outs.push_back(attention(part.q, part.k, part.v, options_for(part)));
    }
    if (local < heads) {
      const auto part = heads_from(local, heads);
      const bool learns = is_training() && torch::GradMode::is_enabled();
      if (learns && own_.init == "kmeans" && !clusters_->fitted()) {
        clusters_->fit(nn::direction(part.k), shown(in), 10);
        outs.push_back(route(part, buckets_of(in.k), crosses));
      } else {
        outs.push_back(route(part, buckets, crosses));
      }
      if (learns) {
        const auto clustered = clustered_of(part, crosses);
        if (own_.commitment > 0) outs.back() = nn::with_loss(outs.back(), own_.commitment * distance(clustered));
        clusters_->follow(clustered.directions.detach(), clustered.shown, own_.decay);
      }
    }
    return torch::cat(outs, 1);
  }

 private:
  static Tensor shown(const CoreInput& in) { return in.key_padding ? in.key_padding->logical_not() : Tensor(); }

  /// What the centroids follow: directions [B, H, n, D] of keys, and of queries where they are no keys, and which of
  /// them are no padding (bool [B, n], undefined: all).
  struct Clustered {
    Tensor directions, shown;
  };
  Clustered clustered_of(const CoreInput& in, bool crosses) const {
    const auto keys = nn::direction(in.k), seen = shown(in);
    if (shared_) return {keys, seen};
    const auto real = crosses && seen.defined() ? torch::ones({in.q.size(0), in.q.size(2)}, torch::kBool) : seen;
    return {torch::cat({keys, nn::direction(in.q)}, 2), seen.defined() ? torch::cat({seen, real}, 1) : seen};
  }

  /// Mean squared difference between directions and their centroids.
  Tensor distance(const Clustered& c) const {
    const auto index = clusters_->nearest(c.directions).unsqueeze(3).expand_as(c.directions);
    const auto own = clusters_->centroids().unsqueeze(0).expand({index.size(0), -1, -1, -1}).gather(2, index);
    const auto apart = (c.directions - own).square().mean(at::IntArrayRef{1, 3});  // [B, n]
    return c.shown.defined() ? apart.masked_fill(c.shown.logical_not(), 0).sum() / c.shown.sum().clamp_min(1)
                             : apart.mean();
  }

  Tensor route(const CoreInput& in, const Tensor& buckets, bool crosses) {
    if (own_.assignment == "topw") return attend_top(in, crosses);
    const int64_t n = in.q.size(2), m = in.k.size(2), clusters = own_.clusters;
    auto k_buckets = buckets.select(2, 0);
    if (shared_ && n * 8 <= m) {
      const auto visible = k_buckets.slice(2, m - n).unsqueeze(3) == k_buckets.unsqueeze(2);
      return own_where_alone(attend_listed(in, visible), in.v);
    }
    // Padding is a cluster of its own.
    if (in.key_padding) k_buckets = k_buckets.masked_fill(in.key_padding->unsqueeze(1), clusters);
    const auto q_buckets = shared_ ? k_buckets.slice(2, m - n) : clusters_->nearest(nn::direction(in.q));
    auto options = plain_options(in);
    options.mask = bucket_mask();
    return own_where_alone(nn::bucket_attention(in.q, in.k, in.v, q_buckets, k_buckets, clusters + 1, options), in.v);
  }

  /// Tokens that clusters take, in order of time.
  struct Taken {
    Tensor places;  ///< int64 [B, H, C w]
    Tensor real;  ///< bool [B, C w]: false behind what a sequence of fewer tokens gives a cluster; undefined: all true
    int64_t width = 1;

    Tensor rows(const Tensor& x) const {  // [B H C, 1, w, D]
      return x.gather(2, places.unsqueeze(3).expand({-1, -1, -1, x.size(3)})).reshape({-1, 1, width, x.size(3)});
    }
  };

  /// The w = max(1, round(n / C)) best tokens for each centroid; `padding` bool [B, N] or undefined, n are the others.
  Taken best(const Tensor& x, const Tensor& padding) const {
    const int64_t batch = x.size(0), clusters = own_.clusters;
    const auto width_of = [&](int64_t tokens) { return std::max<int64_t>(1, (tokens + clusters / 2) / clusters); };
    const auto top = [](const Tensor& scores, int64_t width) {
      return ops::top_k(scores.contiguous(), width).to(torch::kInt64);
    };
    const auto scores = clusters_->scores(nn::direction(x)).to(torch::kFloat32);
    if (!padding.defined()) {
      const int64_t width = width_of(x.size(2));
      return {top(scores, width).flatten(2), {}, width};
    }
    const auto shown = scores.masked_fill(padding.unsqueeze(1).unsqueeze(2), -std::numeric_limits<float>::infinity());
    std::vector<int64_t> widths;
    for (int64_t b = 0; b < batch; ++b) widths.push_back(width_of(padding[b].logical_not().sum().item<int64_t>()));
    const int64_t width = *std::max_element(widths.begin(), widths.end());
    std::vector<Tensor> places, real;
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t own = widths[size_t(b)];
      places.push_back(torch::constant_pad_nd(top(shown.narrow(0, b, 1), own), {0, width - own}));
      real.push_back((torch::arange(width) < own).repeat({clusters}));
    }
    return {torch::cat(places).flatten(2), torch::stack(real), width};
  }

  /// Each centroid takes its w best queries and keys; a token is the mean over the clusters it is in.
  Tensor attend_top(const CoreInput& in, bool crosses) {
    const int64_t n = in.q.size(2), heads = in.q.size(1);
    const auto padding = in.key_padding.value_or(Tensor());
    const auto keys = best(in.k, padding);
    const auto queries = shared_ ? keys : best(in.q, crosses ? Tensor() : padding);
    auto options = plain_options(in);
    options.mask = bucket_mask();
    if (padding.defined()) {
      const auto hidden =
          padding.unsqueeze(1).expand({-1, heads, -1}).gather(2, keys.places) | keys.real.logical_not().unsqueeze(1);
      options.k_documents = hidden.to(torch::kInt32).neg().view({-1, keys.width});
      options.q_documents = torch::zeros({options.k_documents->size(0), queries.width}, torch::kInt32);
    }
    const auto values = keys.rows(in.v);
    const auto seen = attention_with_lse(queries.rows(in.q), keys.rows(in.k), values, options);
    auto out = own_where_alone(seen, values).reshape({in.q.size(0), heads, -1, in.v.size(3)});
    auto once = torch::ones(queries.places.sizes(), out.options());
    if (queries.real.defined()) {
      const auto nobody = queries.real.logical_not().unsqueeze(1);
      out = out.masked_fill(nobody.unsqueeze(3), 0), once = once.masked_fill(nobody, 0);
    }
    const auto times = torch::zeros({in.q.size(0), heads, n}, out.options()).scatter_add(2, queries.places, once);
    const auto sums = torch::zeros({in.q.size(0), heads, n, in.v.size(3)}, out.options())
                          .scatter_add(2, queries.places.unsqueeze(3).expand_as(out), out);
    return sums / times.clamp_min(1).unsqueeze(3);
  }

  ClusterRouting own_;
  bool crosses_ = false;  // the forward under way has a memory
  nn::SphericalClusters clusters_{nullptr};
};

}  // namespace

RegistryRow rows::routing_attention() {
  return {
      .name = "routing_attention",
      .family = "sparse_and_vision",
      .paper = "Efficient Content-Based Sparse Attention with Routing Transformers (arXiv 2003.05997)",
      .year = 2020,
      .patterns = {true, true, true, false},
      .step = true,
      .cost = "O(N C + N^2 / C), N^1.5 at C = sqrt(N)",
      .parameters = sparse::bucket_parameters(
          {{"clusters", 0, "clusters C of a head; 0: the root of max_length"},
           {"local_heads", -1, "the first heads see a window instead; -1: half of them"},
           {"window", 256, "visible keys of a local head, the own one included; bidirectional: half on either side"},
           {"assignment", "argmax",
            "argmax: a token is in its nearest cluster; topw (the paper's): a cluster takes its N / C best tokens, N "
            "without padding, so that later tokens decide which earlier ones are in, and there is no step"},
           {"shared", nullptr, "keys are the queries, brought to length 1; causal attention needs it; default: causal"},
           {"init", "normal", "centroids start as normal directions, or from kmeans of the first batch"},
           {"decay", 0.999, "of centroids in training: the share that stays"},
           {"commitment", 0.0,
            "weight of a loss added in training, the mean squared difference between directions and their centroids; "
            "the paper has 1e-4"},
           {"seed", 0, "of the first centroids"}}),
      .small = {{"dim", 24}, {"heads", 4}, {"clusters", 3}, {"window", 5}, {"positions", "rope"}},
      .make = attention_maker("routing_attention", [](const AttentionConfig& config, ConfigReader& reader) {
        ClusterRouting own;
        own.clusters = reader.integer("clusters", own.clusters, 0, 1 << 20);
        own.local_heads = reader.integer("local_heads", -1, -1, config.heads);
        if (own.local_heads < 0) own.local_heads = config.heads / 2;
        own.window = reader.integer("window", own.window, 1);
        own.assignment = reader.choice("assignment", own.assignment, {"argmax", "topw"});
        own.shared = reader.get("shared", config.causal);
        own.init = reader.choice("init", own.init, {"normal", "kmeans"});
        own.decay = reader.get("decay", own.decay);
        require(own.decay >= 0 && own.decay <= 1, "routing_attention: decay = {}: 0 to 1 is accepted", own.decay);
        own.commitment = reader.get("commitment", own.commitment);
        require(own.commitment >= 0 && std::isfinite(own.commitment),
                "routing_attention: commitment = {}: 0 or more is accepted", own.commitment);
        own.seed = reader.integer("seed", own.seed, 0);
        return std::make_shared<RoutingAttention>(config, own);
      })};
}

}  // namespace heed
