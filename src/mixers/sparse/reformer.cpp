// Attention among tokens whose shared queries and keys hash alike (Reformer, arXiv 2001.04451).
//
// SortedChunks are counted from the first token of each bucket, so that no later token moves a border: causal attention
// is causal to the last bit, and steps give what the whole sequence gives.
#include <cmath>

#include "heed/error.h"
#include "heed/nn/buckets.h"
#include "heed/nn/lsh.h"
#include "mixers/sparse/shared_qk.h"

namespace heed {
namespace {

using torch::Tensor;

struct ReformerConfig {
  int64_t rounds = 4;
  int64_t buckets = 0;  ///< even; 0: max_length / chunk
  int64_t chunk = 64;
  int64_t seed = 0;
};

/// Logit of a token for itself, which counts where it sees nobody else in a round.
constexpr double kLastResort = -1e5;

/// Tokens in chunks of one bucket each, every round by itself. Slots of a chunk that have no token are empty.
struct SortedChunks {
  /// buckets int64 [B, H, R, N] in [0, count).
  SortedChunks(const Tensor& buckets, int64_t count, int64_t size) : size(size) {
    const auto rank = nn::ranks_in_buckets(buckets);
    auto shape = buckets.sizes().vec();
    shape[3] = count;
    const auto members = torch::zeros(shape, torch::kInt64).scatter_add_(3, buckets, torch::ones_like(buckets));
    const auto chunks = (members + size - 1).div(size, "floor"), ends = chunks.cumsum(3);
    const auto place = rank.div(size, "floor");
    chunk = (ends - chunks).gather(3, buckets) + place;
    previous = torch::where(place > 0, chunk - 1, torch::full({1}, -1, torch::kInt64));
    slot = chunk * size + rank.remainder(size);
    shape[3] = this->count = ends.select(3, count - 1).max().item<int64_t>();
    shape[3] *= size;
    token = torch::full(shape, -1, torch::kInt64).scatter_(3, slot, torch::arange(buckets.size(3)).expand_as(buckets));
  }

  /// x [B, H, N, ...], or with rounds [B, H, R, N], as slots [B, H, R, count * size, ...].
  Tensor spread(const Tensor& x, bool by_round = false) const {
    const auto index = token.clamp_min(0);
    if (by_round) return x.gather(3, index);
    return x.unsqueeze(2)
        .expand({-1, -1, token.size(2), -1, -1})
        .gather(3, index.unsqueeze(4).expand({-1, -1, -1, -1, x.size(3)}));
  }
  /// Slots [B, H, R, count * size, ...] chunk by chunk: [G, size, ...].
  Tensor own(const Tensor& slots) const { return slots.unflatten(3, {count, size}).flatten(0, 3); }
  /// The chunk before, and the own one: [G, 2 size, ...]. The first chunk has nothing before it.
  Tensor with_previous(const Tensor& slots, double nothing) const {
    const auto chunks = slots.unflatten(3, {count, size});
    const auto before =
        torch::cat({torch::full_like(chunks.narrow(3, 0, 1), nothing), chunks.slice(3, 0, count - 1)}, 3);
    return torch::cat({before, chunks}, 4).flatten(0, 3);
  }
  /// The reverse of `own`, by token: [B, H, R, N, ...].
  Tensor gather(const Tensor& groups) const {
    const auto slots = groups.unflatten(0, {token.size(0), token.size(1), token.size(2), count}).flatten(3, 4);
    if (slots.dim() == 4) return slots.gather(3, slot);
    return slots.gather(3, slot.unsqueeze(4).expand({-1, -1, -1, -1, slots.size(4)}));
  }

  int64_t size, count = 0;
  Tensor chunk, previous;  ///< int64 [B, H, R, N]: of each token, and the one before it in its bucket or -1
  Tensor slot;             ///< int64 [B, H, R, N]
  Tensor token;            ///< int64 [B, H, R, count * size], -1: empty
};

class Reformer final : public sparse::BucketMixer {
 public:
  Reformer(const AttentionConfig& config, ReformerConfig own) : BucketMixer("reformer", config, true), own_(own) {
    if (own_.buckets == 0) own_.buckets = std::max<int64_t>(2, (config.max_length / own_.chunk + 1) / 2 * 2);
    rotations_ = register_buffer(
        "rotations", nn::seeded_normal({own_.rounds, config.head_dim, own_.buckets / 2}, uint64_t(own_.seed)));
  }

 protected:
  Tensor buckets_of(const Tensor& k) const override { return nn::polytope_buckets(k, rotations_); }

  Tensor attend(const CoreInput& in, const Tensor& buckets) override {
    const int64_t n = in.q.size(2), m = in.k.size(2);
    if (n == 0) return in.v.slice(2, 0, 0);
    if (n < m) return attend_newest(in, buckets);
    // Padding has a bucket of its own.
    const auto real = in.key_padding ? buckets.masked_fill(in.key_padding->view({-1, 1, 1, n}), own_.buckets) : buckets;
    return attend_chunks(in, real, SortedChunks(real, own_.buckets + 1, own_.chunk));
  }

 private:
  Tensor attend_chunks(const CoreInput& in, const Tensor& buckets, const SortedChunks& chunks) const {
    const auto group = [&](const Tensor& x) { return chunks.own(chunks.spread(x)).unsqueeze(1); };
    const auto group_keys = [&](const Tensor& x) { return chunks.with_previous(chunks.spread(x), 0).unsqueeze(1); };
    auto options = plain_options(in);
    options.mask = bucket_mask();
    // A document is a bucket; empty slots are seen by nobody and see nobody.
    const auto document = chunks.spread(buckets, true).to(torch::kInt32), empty = chunks.token < 0;
    options.q_documents = chunks.own(document.masked_fill(empty, -2)).contiguous();
    options.k_documents = chunks.with_previous(document.masked_fill(empty, -1), -1).contiguous();
    if (own_.rounds > 1) options.bias = shares(chunks).unsqueeze(1).to(side_type(in.q));
    const auto seen = attention_with_lse(group(in.q), group_keys(in.k), group_keys(in.v), options);

    const auto lse = chunks.gather(seen.lse.squeeze(1)), out = chunks.gather(seen.out.squeeze(1));
    const auto alone = lse == -std::numeric_limits<double>::infinity();
    const auto weights = torch::softmax(lse.masked_fill(alone, kLastResort), 2).unsqueeze(4).to(out.scalar_type());
    return (weights * torch::where(alone.unsqueeze(4), in.v.unsqueeze(2), out)).sum(2);
  }

  /// -log of the number of rounds in which a pair meets: [G, chunk, 2 chunk].
  Tensor shares(const SortedChunks& chunks) const {
    Tensor meetings;
    for (int64_t round = 0; round < own_.rounds; ++round) {
      const auto of_round = [&](const Tensor& x) {
        return chunks.spread(x.narrow(2, round, 1).expand({-1, -1, own_.rounds, -1}), true);
      };
      const auto chunk = of_round(chunks.chunk);
      const auto own = chunks.own(chunk).unsqueeze(2), before = chunks.own(of_round(chunks.previous)).unsqueeze(2);
      const auto keys = chunks.with_previous(chunk, -2).unsqueeze(1);
      const auto meets = ((keys == own) | (keys == before)).to(torch::kFloat32);
      meetings = round == 0 ? meets : meetings + meets;
    }
    return meetings.clamp_min(1).log().neg();
  }

  /// Queries are the last tokens: the keys they see in any round, one by one.
  Tensor attend_newest(const CoreInput& in, const Tensor& buckets) const {
    constexpr int64_t kPairs = int64_t{1} << 22;
    const int64_t n = in.q.size(2), m = in.k.size(2);
    const auto real = in.key_padding ? buckets.masked_fill(in.key_padding->view({-1, 1, 1, m}), own_.buckets) : buckets;
    const int64_t rows = std::max<int64_t>(1, kPairs / std::max<int64_t>(1, real.numel()));
    std::vector<Tensor> outs;
    for (int64_t begin = m - n; begin < m; begin += rows) {
      const int64_t count = std::min(rows, m - begin);
      const auto query = torch::arange(begin, begin + count).unsqueeze(1);
      const auto before = (real.narrow(3, begin, count).unsqueeze(4) == real.unsqueeze(3)) & (torch::arange(m) < query);
      // Members of a bucket are numbered from 0; a query's own number is how many stand before it.
      const auto chunk = (before.cumsum(4) - 1).div(own_.chunk, "floor"),
                 own = before.sum(4, true).div(own_.chunk, "floor");
      auto part = in;
      part.q = in.q.narrow(2, begin - (m - n), count);
      part.k = in.k.slice(2, 0, begin + count), part.v = in.v.slice(2, 0, begin + count);
      if (in.key_padding) part.key_padding = in.key_padding->slice(1, 0, begin + count);
      const auto visible = (before & (chunk >= own - 1)).any(2).slice(3, 0, part.k.size(2));
      outs.push_back(own_where_alone(attend_listed(part, visible), part.v));
    }
    return torch::cat(outs, 2);
  }

  static torch::ScalarType side_type(const Tensor& q) {
    return q.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
  }

  ReformerConfig own_;
  Tensor rotations_;  // [R, D, buckets / 2]
};

}  // namespace

RegistryRow rows::reformer() {
  return {.name = "reformer",
          .family = "exact_and_systems",
          .paper = "Reformer: The Efficient Transformer (arXiv 2001.04451)",
          .year = 2020,
          .patterns = {true, true, false, false},
          .step = true,
          .cost = "O(R N chunk + R N log N)",
          .parameters =
              sparse::bucket_parameters({{"rounds", 4, "hash rounds R; a token attends to what it meets in any"},
                                         {"buckets", 0, "of a round, even; 0: max_length / chunk"},
                                         {"chunk", 64, "a token sees its own and the previous chunk of its bucket"},
                                         {"seed", 0, "of the hashes"}}),
          .small = {{"dim", 24}, {"heads", 4}, {"rounds", 3}, {"buckets", 4}, {"chunk", 3}, {"positions", "rope"}},
          .make = attention_maker("reformer", [](const AttentionConfig& config, ConfigReader& reader) {
            ReformerConfig own;
            own.rounds = reader.integer("rounds", own.rounds, 1, 64);
            own.buckets = reader.integer("buckets", own.buckets, 0, 1 << 20);
            require(own.buckets % 2 == 0, "reformer: buckets = {}: an even number is accepted", own.buckets);
            own.chunk = reader.integer("chunk", own.chunk, 1, 1 << 20);
            own.seed = reader.integer("seed", own.seed, 0);
            return std::make_shared<Reformer>(config, own);
          })};
}

}  // namespace heed
