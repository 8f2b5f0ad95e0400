#include "heed/train/actor_critic.h"

#include "heed/error.h"
#include "heed/nn/generator.h"

namespace heed::train {
namespace {

using torch::Tensor;

constexpr uint64_t kStride = 0x9E3779B97F4A7C15ull;

Tensor drawn(const Tensor& logits, uint64_t seed) {
  auto generator = nn::seeded_generator(seed);
  return torch::softmax(logits, -1).to(torch::kFloat64).multinomial(1, true, generator).squeeze(1);
}

}  // namespace

ActorCriticImpl::ActorCriticImpl(const WorldModelConfig& world, ActorCriticOptions options)
    : options_(options), values_(options.bins, options.range) {
  const auto mlp = [&](const char* name, int64_t out) {
    const int64_t in = world.categoricals * world.classes + world.dim, hidden = options_.hidden;
    torch::nn::Sequential layers(torch::nn::Linear(in, hidden), nn::Norm(formats::NormKind::rms, hidden, 1e-5),
                                 torch::nn::SiLU());
    torch::nn::Linear last(hidden, out);
    // Every action is as likely at first, and nothing is expected.
    torch::NoGradGuard no_grad;
    last->weight.zero_();
    last->bias.zero_();
    layers->push_back(last);
    return register_module(name, layers);
  };
  actor_ = mlp("actor", world.actions);
  critic_ = mlp("critic", options_.bins);
}

Tensor ActorCriticImpl::seen(const Tensor& z, const Tensor& d) const { return torch::cat({z.flatten(-2), d}, -1); }
Tensor ActorCriticImpl::act(const Tensor& z, const Tensor& d) { return actor_->forward(seen(z, d)); }
Tensor ActorCriticImpl::value_logits(const Tensor& z, const Tensor& d) { return critic_->forward(seen(z, d)); }

Imagined imagine(WorldModel& model, ActorCritic& agent, const WorldBatch& steps, const Tensor& padding, int64_t horizon,
                 uint64_t seed) {
  require(horizon >= 1, "imagine: {} steps: 1 or more is accepted", horizon);
  torch::NoGradGuard no_grad;
  const int64_t batch = steps.actions.size(0), read = steps.actions.size(1) - 1;
  auto states = model->make_states(batch);
  const auto codes = nn::straight_through_sample(model->encode(steps.observations), seed);
  auto z = codes.select(1, read);
  auto d = torch::zeros({batch, model->config().dim}, z.options());
  if (read > 0) {
    const auto hidden = padding.narrow(1, 0, read);
    const auto all = model->sequence(codes.narrow(1, 0, read), steps.actions.narrow(1, 0, read), {}, &states, hidden);
    // Nothing is remembered where the last observation begins an episode.
    d = all.select(1, read - 1).masked_fill(hidden.select(1, read - 1).unsqueeze(1), 0);
  }
  std::vector<Tensor> zs{z}, ds{d}, actions, rewards, goes_on;
  for (int64_t t = 0; t < horizon; ++t) {
    const uint64_t step = seed + static_cast<uint64_t>(t + 1) * kStride;
    actions.push_back(drawn(agent->act(z, d), step));
    d = model->sequence(z.unsqueeze(1), actions.back().unsqueeze(1), {}, &states).squeeze(1);
    rewards.push_back(model->reward(d));
    goes_on.push_back(1 - torch::sigmoid(model->end_logits(d)));
    z = nn::straight_through_sample(model->prior(d), step + 1);
    zs.push_back(z);
    ds.push_back(d);
  }
  const auto over_time = [](const std::vector<Tensor>& parts) { return torch::stack(parts, 1); };
  return {over_time(zs), over_time(ds), over_time(actions), over_time(rewards), over_time(goes_on)};
}

Tensor lambda_returns(const Tensor& rewards, const Tensor& goes_on, const Tensor& values, double discount,
                      double lambda) {
  const int64_t steps = rewards.size(1);
  auto later = values.select(1, steps);
  std::vector<Tensor> returns(static_cast<size_t>(steps));
  for (int64_t t = steps - 1; t >= 0; --t) {
    later = rewards.select(1, t) +
            discount * goes_on.select(1, t) * ((1 - lambda) * values.select(1, t + 1) + lambda * later);
    returns[static_cast<size_t>(t)] = later;
  }
  return torch::stack(returns, 1);
}

Tensor actor_critic_loss(ActorCritic& agent, const Imagined& in) {
  const auto& o = agent->options();
  const int64_t steps = in.actions.size(1);
  const auto z = in.z.narrow(1, 0, steps), d = in.d.narrow(1, 0, steps);
  const auto value_logits = agent->value_logits(z, d);
  Tensor returns, advantages, reached;
  {
    torch::NoGradGuard no_grad;
    const auto values = agent->value(in.z, in.d);
    returns = lambda_returns(in.rewards, in.goes_on, values, o.discount, o.lambda);
    // Returns are brought to a spread of 1; small ones stay small, so that noise is not blown up.
    const auto sorted = std::get<0>(returns.flatten().sort());
    const double last = static_cast<double>(sorted.numel() - 1);
    const auto spread = sorted[int64_t(0.95 * last)] - sorted[int64_t(0.05 * last)];
    advantages = (returns - values.narrow(1, 0, steps)) / spread.clamp_min(0.1);
    reached = torch::constant_pad_nd(in.goes_on.narrow(1, 0, steps - 1), {1, 0}, 1).cumprod(1);
  }
  const auto chances = torch::log_softmax(agent->act(z, d), 2);
  const auto taken = chances.gather(2, in.actions.unsqueeze(2)).squeeze(2);
  const auto entropy = -(chances.exp() * chances).sum(2);
  const auto losses = -taken * advantages - o.entropy * entropy + agent->values().loss(value_logits, returns);
  return (losses * reached).sum() / reached.sum();
}

}  // namespace heed::train
