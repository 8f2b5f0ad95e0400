#include "heed/nn/grouped_attention.h"

#include <cmath>

#include "heed/error.h"
#include "heed/kernels/grouped_attention.h"
#include "heed/nn/keys.h"
#include "heed/nn/partial.h"
#include "heed/nn/recompute.h"
#include "heed/ops/cache.h"
#include "heed/ops/grouped_attention.h"

namespace heed::nn {
namespace {

using torch::Tensor;

/// Partial results of the rows over parts of the keys.
struct Parts {
  Tensor out;     // [B, Hq, R, P, Dv]
  Tensor lse;     // [B, Hq, R, P]
  Tensor logits;  // [B, Hq, R, P] of the landmarks
};

/// Rows of one block, on its own keys and on the blocks before it.
class Tile {
 public:
  // Of the keys before the block: their regular tokens [B, G, Hk, l, D] and landmarks [B, Hk, G, D].
  Tensor rows, own_k, own_v, regular_k, regular_v, landmarks;
  Tensor own_hidden, regular_hidden, landmark_hidden;  // bool [B, n], [B, G, l], [B, G]; undefined: nothing is padding
  GroupedOptions options;
  Rotation rotation;
  int64_t own = 0;    // the block
  int64_t first = 0;  // offset of the rows in it

  Tensor attend() {
    const int64_t offset = (own - shift()) * options.block;
    if (rotation) {
      rows = rotation(rows, torch::arange(first, first + rows.size(2)) + offset);
      own_k = rotation(own_k, torch::arange(own_k.size(2)) + offset);
      if (own > 0) landmarks = rotation(landmarks, places().select(1, options.block - 1));
    }
    const auto local = attend_own();
    if (own == 0) return local.out;
    const auto logits = landmark_logits();
    const bool chooses = options.retrieved > 0 && options.retrieved < own;
    auto parts = chooses ? attend_chosen(local.lse, logits) : attend_all(logits);
    parts.logits = parts.logits.masked_fill(parts.lse == -INFINITY, -INFINITY);
    return merge_parts(torch::cat({local.out.unsqueeze(3), parts.out}, 3),
                       torch::cat({local.lse.unsqueeze(3), parts.logits.to(local.lse.scalar_type())}, 3))
        .out;
  }

 private:
  int64_t group() const { return rows.size(1) / own_k.size(1); }
  /// Blocks that all stand where the first one does.
  int64_t shift() const {
    return rotation && options.retrieved > 0 ? std::max<int64_t>(0, own - options.retrieved - 1) : 0;
  }
  /// int64 [G, block]: where the tokens of the earlier blocks are put.
  Tensor places() const {
    const auto slot = (torch::arange(own) - shift()).clamp_min(0);
    return slot.unsqueeze(1) * options.block + torch::arange(options.block);
  }
  AttentionOptions plain(const Tensor& hidden, int64_t queries) const {
    AttentionOptions o;
    o.scale = options.scale;
    o.softcap = options.softcap;
    if (hidden.defined()) hide_keys(o, hidden, queries);
    return o;
  }

  AttentionResult attend_own() const {
    auto hidden = own_hidden;
    if (own_k.size(2) == options.block) {  // with its landmark, which it does not see
      const auto last = torch::arange(options.block) == options.block - 1;
      hidden = hidden.defined() ? hidden | last : last.unsqueeze(0).expand({rows.size(0), options.block});
    }
    auto o = plain(hidden, rows.size(2));
    o.mask = Causal{};
    return attention_with_lse(rows, own_k, own_v, o);
  }

  Tensor landmark_logits() const {
    const auto q = rows.unflatten(1, {own_k.size(1), group()});
    const double scale = options.scale > 0 ? options.scale : 1 / std::sqrt(double(rows.size(3)));
    auto logits = torch::matmul(q, landmarks.unsqueeze(2).transpose(3, 4)).flatten(1, 2) * scale;  // [B, Hq, R, G]
    if (options.softcap > 0) logits = torch::tanh(logits / options.softcap) * options.softcap;
    if (landmark_hidden.defined()) logits = logits.masked_fill(landmark_hidden.unsqueeze(1).unsqueeze(1), -INFINITY);
    return logits;
  }

  Parts attend_all(const Tensor& logits) const {
    const int64_t batch = rows.size(0), blocks = own;
    const auto q = rows.unsqueeze(1).expand({batch, blocks, -1, -1, -1}).flatten(0, 1);
    auto keys = regular_k.flatten(0, 1);
    if (rotation) keys = rotation(keys, places().slice(1, 0, options.block - 1).repeat({batch, 1}));
    const auto hidden = regular_hidden.defined() ? regular_hidden.flatten(0, 1) : Tensor();
    const auto far = attention_with_lse(q, keys, regular_v.flatten(0, 1), plain(hidden, q.size(2)));
    const auto by_row = [&](const Tensor& x) { return x.unflatten(0, {batch, blocks}).movedim(1, 3); };
    return {by_row(far.out), by_row(far.lse), logits};
  }

  /// Blocks int64 [B, Hq, S, k] of each row (S = R), or of all rows (S = 1).
  Tensor choice(const Tensor& local, const Tensor& logits) const {
    torch::NoGradGuard no_grad;
    auto scores = logits.to(torch::kFloat32);
    if (options.one_choice) {
      const auto all = torch::cat({local.to(torch::kFloat32).unsqueeze(3), scores}, 3).logsumexp(3, true);
      scores = (scores - all).nan_to_num(-INFINITY).amax(2, true);
    }
    return ops::top_k(scores.contiguous(), options.retrieved).to(torch::kInt64);
  }

  Parts attend_chosen(const Tensor& local, const Tensor& logits) const {
    const auto index = choice(local, logits);
    const int64_t batch = index.size(0), heads = index.size(1), choosers = index.size(2), count = index.size(3),
                  together = rows.size(2) / choosers;
    const auto of_batch = torch::arange(batch).view({-1, 1, 1, 1}),
               of_head = torch::arange(heads).div(group(), "floor").view({1, -1, 1, 1});
    // [B, Hq, S, k, l, D], each a batch item of one head.
    const auto chosen = [&](const Tensor& x) { return x.index({of_batch, index, of_head}).flatten(0, 3).unsqueeze(1); };
    auto keys = chosen(regular_k);
    if (rotation) keys = rotation(keys, places().slice(1, 0, options.block - 1).index_select(0, index.flatten()));
    const auto hidden = regular_hidden.defined() ? regular_hidden.index({of_batch, index}).flatten(0, 3) : Tensor();
    const auto q = rows.unflatten(2, {choosers, together})
                       .unsqueeze(3)
                       .expand({batch, heads, choosers, count, together, rows.size(3)})
                       .flatten(0, 3)
                       .unsqueeze(1);
    const auto far = attention_with_lse(q, keys, chosen(regular_v), plain(hidden, together));
    const auto by_row = [&](const Tensor& x) {
      return x.squeeze(1).unflatten(0, {batch, heads, choosers, count}).movedim(3, 4).flatten(2, 3);
    };
    const auto by_choice = index.unsqueeze(3).expand({batch, heads, choosers, together, count}).flatten(2, 3);
    return {by_row(far.out), by_row(far.lse), logits.gather(3, by_choice)};
  }
};

}  // namespace

Tensor grouped_attention(const Tensor& q, const Tensor& k, const Tensor& v, const GroupedOptions& o,
                         const Tensor& padding, const Rotation& rotation) {
  const int64_t n = q.size(2), m = k.size(2), past = m - n, block = o.block;
  require(block >= 2, "grouped softmax: block = {}: 2 or more, the landmark included, is accepted", block);
  require(past >= 0, "grouped softmax: {} queries and {} keys: at least as many keys are accepted", n, m);
  const int64_t whole = m / block;
  const bool chooses = o.retrieved > 0 && o.retrieved < (m - 1) / block;
  // What shares positions, chooses or is large goes block by block; double, too, so that the two check each other.
  if (!chooses && !rotation && block <= kernels::kMostGroupedKeys && q.scalar_type() != torch::kFloat64)
    return ops::grouped_attention(q, k, v, block, o.scale, o.softcap, padding);
  // [B, H, M, D] -> [B, G, H, l, D] of the whole blocks without their landmarks.
  const auto regular = [&](const Tensor& x) {
    return x.narrow(2, 0, whole * block).unflatten(2, {whole, block}).narrow(3, 0, block - 1).transpose(1, 2);
  };
  const auto regular_k = regular(k), regular_v = regular(v);
  const auto landmarks = k.narrow(2, 0, whole * block).unflatten(2, {whole, block}).select(3, block - 1);
  Tensor blocks_hidden;
  if (padding.defined()) blocks_hidden = padding.narrow(1, 0, whole * block).unflatten(1, {whole, block});

  std::vector<Tensor> outs;
  for (int64_t own = past / block; own * block < m; ++own) {
    const int64_t begin = own * block, first = std::max(past, begin), end = std::min(m, begin + block);
    Tile tile;
    tile.options = o;
    tile.rotation = rotation;
    tile.own = own;
    tile.first = first - begin;
    if (padding.defined()) {
      tile.own_hidden = padding.slice(1, begin, end);
      tile.regular_hidden = blocks_hidden.narrow(1, 0, own).narrow(2, 0, block - 1);
      tile.landmark_hidden = blocks_hidden.narrow(1, 0, own).select(2, block - 1);
    }
    outs.push_back(recomputed(
        [tile](const std::vector<Tensor>& in) {
          auto work = tile;
          work.rows = in[0], work.own_k = in[1], work.own_v = in[2];
          work.regular_k = in[3], work.regular_v = in[4], work.landmarks = in[5];
          return work.attend();
        },
        {q.narrow(2, first - past, end - first), k.slice(2, begin, end), v.slice(2, begin, end),
         regular_k.narrow(1, 0, own), regular_v.narrow(1, 0, own), landmarks.narrow(2, 0, own)}));
  }
  return outs.empty() ? q.new_empty({q.size(0), q.size(1), 0, v.size(3)}) : torch::cat(outs, 2);
}

}  // namespace heed::nn
