// SEA: a network of linear cost estimates where attention lies; the top of its map becomes the keys of exact attention.
#include "heed/mixers/sea.h"

#include "heed/attention.h"
#include "heed/error.h"
#include "mixers/linear/linear_attention.h"
#include "mixers/linear/sea_estimator.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Heads;
using linear::HeadsConfig;
using linear::VisibleKeys;
using torch::Tensor;

class Sea final : public linear::LinearAttention {
 public:
  Sea(const HeadsConfig& config, linear::SeaEstimatorConfig own, int64_t keys)
      : LinearAttention("sea", config), keys_per_head_(keys) {
    require(config.key_dim == config.head_dim, "sea: key_dim = {} and head_dim = {}; equal ones are accepted",
            config.key_dim, config.head_dim);
    own.heads = config.heads;
    own.head_dim = config.head_dim;
    own.causal = config.causal;
    estimator_ = register_module("estimator", linear::SeaEstimator(own));
  }

  Tensor distillation_loss(const MixerInput& input, const SeaTeacher& teacher) {
    RecurrentCall call(input, nullptr);
    const auto heads = project_heads(call);
    const auto& q = heads.q;
    require(teacher.weights.sizes() == std::vector<int64_t>({q.size(0), q.size(1), q.size(2), q.size(2)}) &&
                teacher.context.sizes() == heads.v.sizes(),
            "sea: a teacher of weights {} and context {}; [{}, {}, {}, {}] and {} are accepted",
            c10::str(teacher.weights.sizes()), c10::str(teacher.context.sizes()), q.size(0), q.size(1), q.size(2),
            q.size(2), c10::str(heads.v.sizes()));
    const auto keys = visible(call, call.slot(kShown));
    const auto estimate = estimator_->forward(call, kEstimator, heads, keys.ranks(), keys.shown);
    const auto hidden =
        ((keys.ranks().unsqueeze(1) >= keys.count.unsqueeze(2)) | ~keys.shown.unsqueeze(1)).unsqueeze(1);
    const double scale = 1 / std::sqrt(static_cast<double>(config_.key_dim));
    const auto scores = torch::matmul(q, heads.k.transpose(2, 3)) * scale;
    // Rows of padding see nothing; a finite number keeps their gradients finite.
    const auto dense = torch::softmax(scores.masked_fill(hidden, -1e30), 3).masked_fill(hidden, 0);
    const auto rows = keys.shown.view({q.size(0), 1, -1, 1}).to(q.scalar_type());
    const auto count = rows.sum() * static_cast<double>(config_.heads);
    const auto square = [&](const Tensor& a, const Tensor& b) {
      return ((a - b).square() * rows).sum() / (count * static_cast<double>(a.size(3)));
    };
    const auto apart = [&](const Tensor& map) {
      const auto& t = teacher.weights;
      const auto divergence = (t * (t.clamp_min(1e-12).log() - map.clamp_min(1e-12).log()) * rows).sum() / count;
      return 0.1 * divergence + square(map, t);
    };
    return apart(linear::stretched(estimate.map, keys)) + apart(dense) +
           square(combined(call, heads, heads.k, heads.v, keys, estimate), teacher.context);
  }

 protected:
  Tensor attend(RecurrentCall& call, const Heads& heads) override {
    require(!call.input.cu_seqlens, "sea: cu_seqlens is not accepted");
    const auto continued = [&](size_t slot, const Tensor& t) {
      if (!call.carries()) return t;
      // A head that several query heads share is kept once.
      const auto fresh = t.slice(1, 0, c10::nullopt, config_.group()).contiguous();
      auto& held = call.slot(slot);
      return held = held.defined() ? torch::cat({held, fresh}, 2) : fresh;
    };
    const auto before = call.slot(kShown);
    const auto keys = visible(call, before);
    if (call.carries()) call.slot(kShown) = keys.shown;
    const int64_t fresh = call.tokens(), all = keys.shown.size(1);
    const auto estimate = estimator_->forward(call, kEstimator, heads, keys.ranks().narrow(1, all - fresh, fresh),
                                              keys.shown.narrow(1, all - fresh, fresh));
    return combined(call, heads, continued(kKeys, heads.k), continued(kValues, heads.v), keys, estimate);
  }

 private:
  static constexpr size_t kKeys = 0, kValues = 1, kShown = 2, kSum = 3, kEstimator = 4;

  /// What the call's tokens see, behind `before`, bool [B, tokens] of earlier calls or undefined.
  VisibleKeys visible(const RecurrentCall& call, const Tensor& before) const {
    const std::vector<int64_t> size{call.batch(), call.tokens()};
    const auto fresh = call.input.key_padding ? call.input.key_padding->logical_not() : torch::ones(size, torch::kBool);
    const auto shown = before.defined() ? torch::cat({before, fresh}, 1) : fresh;
    const auto count = causal_ ? shown.cumsum(1).slice(1, shown.size(1) - size[1]) : shown.sum(1, true).expand(size);
    return {shown, count};
  }

  /// Exact attention over the estimated keys, and behind it an average of all values, by the estimated gates.
  Tensor combined(RecurrentCall& call, const Heads& heads, const Tensor& k, const Tensor& v, const VisibleKeys& keys,
                  const linear::SeaEstimatorImpl::Estimate& estimate) {
    AttentionOptions options;
    options.blocks = linear::listed_keys(linear::kept_columns(estimate.map, keys.count, keys_per_head_), keys);
    const auto sparse = attention(heads.q, k, v, options);
    const auto sharp = estimate.gates.select(3, 0).unsqueeze(3), near = estimate.gates.select(3, 1).unsqueeze(3);
    return near * sharp * sparse + (1 - near) * average(call, heads.v, keys, estimate.map);
  }

  /// Causal: the mean of the values so far. Else the values under the mean map.
  Tensor average(RecurrentCall& call, const Tensor& v, const VisibleKeys& keys, const Tensor& map) {
    if (!causal_) {
      const auto values = linear::wide(v), maps = linear::wide(map);
      const auto rows = keys.shown.view({v.size(0), 1, -1, 1}).to(maps.scalar_type());
      const auto mean = (maps * rows).sum(2, true) / rows.sum(2, true).clamp_min(1);
      const auto stretched = linear::stretched(mean, {keys.shown, keys.count.narrow(1, 0, 1)});
      return torch::matmul(stretched, values).to(v.scalar_type());
    }
    auto& before = call.slot(kSum);
    auto sums = call.heads_without_padding(linear::wide(v)).cumsum(2);
    if (before.defined()) sums = sums + before;
    if (call.carries() && call.tokens() > 0) before = sums.slice(2, sums.size(2) - 1).clone();
    return (sums / keys.count.clamp_min(1).view({v.size(0), 1, -1, 1})).to(v.scalar_type());
  }

  int64_t keys_per_head_;
  linear::SeaEstimator estimator_{nullptr};
};

}  // namespace

Tensor sea_distillation_loss(TokenMixer& mixer, const MixerInput& input, const SeaTeacher& teacher) {
  auto* sea = dynamic_cast<Sea*>(&mixer);
  require(sea != nullptr, "sea: the distillation loss is of a mixer sea");
  return sea->distillation_loss(input, teacher);
}

RegistryRow rows::sea() {
  return {.name = "sea",
          .family = "linear_and_recurrent",
          .paper = "SEA: Sparse Linear Attention with Estimated Attention Mask (arXiv 2310.01777)",
          .year = 2023,
          .patterns = {true, true, false, false},
          .step = true,
          .one_way = true,
          .core = true,
          .cost = "O(N (K + k))",
          .parameters = linear::drop_in_parameters(
              {{"columns", 128, "columns K of the estimated map, a multiple of 4 (2 where not causal)"},
               {"keys", 7, "keys k of a query, in the mean over its heads"},
               {"features", 0, "random features of the estimator; 0: head_dim ln head_dim"},
               {"max_length", 2048, "causal: tokens there are learned places for"},
               {"seed", 0, "of the random rows"}}),
          .small = {{"dim", 24}, {"heads", 3}, {"columns", 32}, {"keys", 3}, {"max_length", 128}},
          .make = linear::drop_in_maker("sea", [](const HeadsConfig& config, ConfigReader& reader) {
            linear::SeaEstimatorConfig own;
            own.columns = reader.integer("columns", own.columns, 2, 1 << 16);
            own.features = reader.integer("features", own.features, 0, 1 << 16);
            own.max_length = reader.integer("max_length", own.max_length, 1);
            own.seed = static_cast<uint64_t>(reader.integer("seed", 0, 0));
            return std::make_shared<Sea>(config, own, reader.integer("keys", 7, 1, 1 << 20));
          })};
}

}  // namespace heed
