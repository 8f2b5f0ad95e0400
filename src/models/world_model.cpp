#include "heed/models/world_model.h"

#include "heed/error.h"

namespace heed {
namespace {

using torch::Tensor;

/// [B, T, ...] -> [1, B T, ...]
Tensor side_by_side(const Tensor& t) { return t.flatten(0, 1).unsqueeze(0); }

}  // namespace

WorldModelImpl::WorldModelImpl(WorldModelConfig config)
    : config_(std::move(config)), two_hot_(config_.reward_bins, config_.reward_range) {
  const auto& c = config_;
  require(c.observation >= 1 && c.actions >= 1 && c.categoricals >= 1 && c.classes >= 2 && c.dim >= 1 && c.hidden >= 1,
          "world model: {} numbers, {} actions, codes of {} x {}, dim = {}, hidden = {}: 1 or more of each, and 2 or "
          "more classes, are accepted",
          c.observation, c.actions, c.categoricals, c.classes, c.dim, c.hidden);
  const auto mlp = [&](const char* name, int64_t in, int64_t out, bool two_layers) {
    torch::nn::Sequential layers(torch::nn::Linear(in, c.hidden), nn::Norm(formats::NormKind::rms, c.hidden, 1e-5),
                                 torch::nn::SiLU());
    if (two_layers) {
      layers->push_back(torch::nn::Linear(c.hidden, c.hidden));
      layers->push_back(nn::Norm(formats::NormKind::rms, c.hidden, 1e-5));
      layers->push_back(torch::nn::SiLU());
    }
    layers->push_back(torch::nn::Linear(c.hidden, out));
    return register_module(name, layers);
  };
  encoder_ = mlp("encoder", c.observation, code_size(), true);
  decoder_ = mlp("decoder", code_size(), c.observation, true);
  stem_ = mlp("stem", code_size() + c.actions, c.dim, false);
  stack_ = register_module("sequence", MixerStack(c.mixer, c.mixer_config, c.dim, c.layers));
  norm_ = register_module("norm", nn::Norm(formats::NormKind::rms, c.dim, 1e-5));
  prior_ = mlp("prior", c.dim, code_size(), false);
  reward_ = mlp("reward", c.dim, c.reward_bins, false);
  end_ = mlp("end", c.dim, 1, false);
}

Tensor WorldModelImpl::codes_of(const Tensor& flat) const {
  return flat.unflatten(-1, {config_.categoricals, config_.classes});
}

Tensor WorldModelImpl::encode(const Tensor& observations) {
  require(observations.size(-1) == config_.observation, "world model: observations {}: [..., {}] is accepted",
          c10::str(observations.sizes()), config_.observation);
  return codes_of(encoder_->forward(observations));
}

Tensor WorldModelImpl::decode(const Tensor& codes) { return decoder_->forward(codes.flatten(-2)); }
Tensor WorldModelImpl::prior(const Tensor& d) { return codes_of(prior_->forward(d)); }
Tensor WorldModelImpl::reward_logits(const Tensor& d) { return reward_->forward(d); }
Tensor WorldModelImpl::end_logits(const Tensor& d) { return end_->forward(d).squeeze(-1); }

Tensor WorldModelImpl::sequence(const Tensor& codes, const Tensor& actions, const std::optional<Tensor>& starts,
                                const MixerStates* states, const std::optional<Tensor>& padding) {
  require(codes.dim() == 4 && actions.sizes() == codes.sizes().slice(0, 2),
          "world model: codes {} and actions {}: [B, T, {}, {}] and [B, T] are accepted", c10::str(codes.sizes()),
          c10::str(actions.sizes()), config_.categoricals, config_.classes);
  require(!starts || (!states && !padding), "world model: starts with states or padding; one of them is accepted");
  const auto done = torch::one_hot(actions, config_.actions).to(codes.scalar_type());
  MixerInput input;
  input.x = stem_->forward(torch::cat({codes.flatten(2), done}, 2));
  input.key_padding = padding;
  if (!starts) return norm_(stack_->forward(std::move(input), states));
  // Rows and episodes are sequences of their own, packed one behind the other.
  const int64_t batch = codes.size(0), steps = codes.size(1);
  auto first = starts->clone();
  first.select(1, 0).fill_(true);
  input.x = side_by_side(input.x);
  input.cu_seqlens = torch::constant_pad_nd(first.flatten().nonzero().squeeze(1), {0, 1}, batch * steps);
  return norm_(stack_->forward(std::move(input))).view({batch, steps, config_.dim});
}

WorldLoss WorldModelImpl::loss(const WorldBatch& batch, uint64_t seed) {
  const auto& c = config_;
  const auto posterior = encode(batch.observations);
  const auto codes = nn::straight_through_sample(posterior, seed);
  const auto d = sequence(codes, batch.actions, batch.starts);
  WorldLoss loss;
  loss.reconstruction = (decode(codes) - batch.observations).square().sum(-1).mean();
  loss.reward = two_hot_.loss(reward_logits(d), batch.rewards).mean();
  loss.end = torch::binary_cross_entropy_with_logits(end_logits(d), batch.ends.to(d.scalar_type()));
  // What an episode's last action leads to is not part of the experience.
  const int64_t pairs = posterior.size(1) - 1;
  const auto goes_on = batch.ends.narrow(1, 0, pairs).logical_not().to(d.scalar_type());
  const auto next = posterior.narrow(1, 1, pairs), foretold = prior(d.narrow(1, 0, pairs));
  const auto apart = [&](const Tensor& a, const Tensor& b) {
    const auto kl = (nn::categorical_kl(a, b).sum(-1) * goes_on).sum() / goes_on.sum().clamp_min(1);
    return kl.clamp_min(c.free_bits);
  };
  loss.dynamics = apart(next.detach(), foretold);
  loss.representation = apart(next, foretold.detach());
  loss.total = loss.reconstruction + loss.reward + loss.end + loss.dynamics + c.representation * loss.representation;
  return loss;
}

}  // namespace heed
