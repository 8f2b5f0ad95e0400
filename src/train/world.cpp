#include "heed/train/world.h"

#include <cmath>

#include "heed/error.h"
#include "train/scheduled_adamw.h"

namespace heed::train {
namespace {

using tasks::CueGrid;
using tasks::CueGridConfig;
using tasks::Split;
using torch::Tensor;

Tensor as_tensor(const std::vector<float>& numbers) { return torch::tensor(numbers); }

/// The likeliest code.
Tensor likeliest(const Tensor& logits) {
  return torch::one_hot(logits.argmax(-1), logits.size(-1)).to(logits.scalar_type());
}

/// Chooses actions in the world, one episode after the other: by the agent's chances, or at random without one.
class Player {
 public:
  Player(WorldModel& model, ActorCritic& agent, uint64_t seed) : model_(model), agent_(agent), random_(seed, 0) {}

  void begin() {
    states_ = model_->make_states(1);
    d_ = torch::zeros({1, model_->config().dim});
  }
  int64_t act(const std::vector<float>& observation, bool at_random) {
    if (at_random || agent_.is_empty()) return random_.between(0, CueGrid::kActions - 1);
    torch::NoGradGuard no_grad;
    const auto z = nn::straight_through_sample(model_->encode(as_tensor(observation).unsqueeze(0)), random_.word64());
    const auto chances = torch::softmax(agent_->act(z, d_), 1).contiguous();
    double left = random_.uniform();
    int64_t action = 0;
    while (action + 1 < CueGrid::kActions && (left -= chances.data_ptr<float>()[action]) >= 0) ++action;
    const auto done = torch::full({1, 1}, action, torch::kInt64);
    d_ = model_->sequence(z.unsqueeze(1), done, {}, &states_).squeeze(1);
    return action;
  }

 private:
  WorldModel& model_;
  ActorCritic& agent_;
  tasks::Random random_;
  MixerStates states_;
  Tensor d_;
};

/// Takes steps in a world and keeps them.
class Collector {
 public:
  Collector(const CueGridConfig& world, Player player) : world_(world), player_(std::move(player)) {}

  void step(Replay& replay, bool at_random) {
    const bool start = ended_;
    if (start) {
      world_.begin(Split::train, episodes_++);
      player_.begin();
    } else if (at_random_ && !at_random) {
      // The player has not followed what was done at random: it takes over at the next episode.
      at_random = true;
    }
    at_random_ = at_random;
    const auto seen = world_.observation();
    const int64_t action = player_.act(seen, at_random);
    const auto outcome = world_.step(action);
    replay.add(seen, action, outcome.reward, start, outcome.end);
    ended_ = outcome.end;
  }

 private:
  CueGrid world_;
  Player player_;
  uint64_t episodes_ = 0;
  bool ended_ = true, at_random_ = true;
};

}  // namespace

WorldModel world_model(const CueGrid& world, WorldModelConfig like, uint64_t seed) {
  torch::manual_seed(seed);
  like.observation = world.observation_size();
  like.actions = CueGrid::kActions;
  return WorldModel(like);
}

double train_world(WorldModel& model, ActorCritic& agent, const CueGridConfig& world, const WorldOptions& o,
                   const std::function<void(int64_t update, const WorldLoss& loss)>& report) {
  require(o.random_steps >= o.window && o.experience >= o.random_steps,
          "world: {} random steps of {}, windows of {}: as many random steps as a window has, and no more than all, "
          "are accepted",
          o.random_steps, o.experience, o.window);
  require(o.batch >= 1 && o.imagined >= 1 && o.context >= 1,
          "world: batches of {}, {} rollouts behind {} steps: 1 or more of each are accepted", o.batch, o.imagined,
          o.context);
  require(!o.actor || !agent.is_empty(), "world: an actor is to be trained, and none is given");
  Replay replay(model->config().observation, o.experience);
  Collector collector(world, Player(model, agent, tasks::hash64("world player") + o.seed));
  ScheduledAdamW model_adamw("world model", model->parameters(), o.updates, o.learning_rate, 0);
  std::optional<ScheduledAdamW> agent_adamw;
  if (o.actor) agent_adamw.emplace("actor", agent->parameters(), o.updates, o.learning_rate, 0);
  for (int64_t update = 0; update < o.updates; ++update) {
    const int64_t wanted = o.random_steps + (o.experience - o.random_steps) * update / o.updates;
    while (replay.size() < wanted) collector.step(replay, !o.actor || replay.size() < o.random_steps);
    const uint64_t seed = tasks::hash64("world update") + o.seed * 0x9E3779B97F4A7C15ull + 4 * uint64_t(update);
    const auto loss = model->loss(replay.windows(o.batch, o.window, seed), seed + 1);
    model_adamw.step(loss.total);
    if (o.actor) {
      const double ratio = static_cast<double>(o.imagined) / static_cast<double>(o.batch);
      const auto contexts = replay.contexts(o.imagined, o.context, ratio, seed + 2);
      const auto imagined = imagine(model, agent, contexts.steps, contexts.padding, o.horizon, seed + 3);
      agent_adamw->step(actor_critic_loss(agent, imagined));
    }
    if (report) report(update, loss);
  }
  return model_adamw.last_loss();
}

WorldScore score_world(WorldModel& model, const CueGridConfig& config, int64_t episodes, uint64_t seed) {
  require(episodes >= 1, "world: {} episodes: 1 or more is accepted", episodes);
  torch::NoGradGuard no_grad;
  CueGrid world(config);
  double wrong = 0, still = 0, pairs = 0, missed = 0, reached = 0, sum = 0, squares = 0;
  double hits = 0, ends = 0, alarms = 0, others = 0;
  for (int64_t episode = 0; episode < episodes; ++episode) {
    world.begin(Split::test, static_cast<uint64_t>(episode));
    tasks::Random random(tasks::hash64("world score") + seed, static_cast<uint64_t>(episode));
    std::vector<Tensor> seen;
    std::vector<int64_t> actions;
    std::vector<double> rewards;
    for (CueGrid::Outcome outcome; !outcome.end; rewards.push_back(outcome.reward)) {
      seen.push_back(as_tensor(world.observation()));
      actions.push_back(random.between(0, CueGrid::kActions - 1));
      outcome = world.step(actions.back());
    }
    const int64_t steps = static_cast<int64_t>(actions.size());
    const auto observations = torch::stack(seen).unsqueeze(0);
    const auto d = model->sequence(likeliest(model->encode(observations)), torch::tensor(actions).unsqueeze(0));
    const auto next = observations.narrow(1, 1, steps - 1);
    const auto foretold = model->decode(likeliest(model->prior(d.narrow(1, 0, steps - 1))));
    wrong += (foretold - next).square().sum().item<double>();
    still += (observations.narrow(1, 0, steps - 1) - next).square().sum().item<double>();
    pairs += static_cast<double>(steps - 1);
    const auto says_end = (model->end_logits(d) > 0).to(torch::kFloat64)[0].contiguous();
    for (int64_t t = 0; t < steps; ++t) (t + 1 == steps ? hits : alarms) += says_end[t].item<double>();
    ends += 1, others += static_cast<double>(steps - 1);
    if (const double reward = rewards.back(); reward != 0 && steps > 1) {
      const double error = model->reward(d)[0][steps - 1].item<double>() - reward;
      missed += error * error, reached += 1, sum += reward, squares += reward * reward;
    }
  }
  require(pairs > 0 && reached > 0, "world: {} episodes reach no pad out of sight of the cue; more are needed",
          episodes);
  const double mean = sum / reached;
  return {wrong / pairs, still / pairs, std::sqrt(missed / reached), std::sqrt(squares / reached - mean * mean),
          hits / ends - alarms / std::max(1.0, others)};
}

double mean_return(WorldModel& model, ActorCritic& agent, const CueGridConfig& config, int64_t episodes,
                   uint64_t seed) {
  require(episodes >= 1, "world: {} episodes: 1 or more is accepted", episodes);
  CueGrid world(config);
  Player player(model, agent, tasks::hash64("world return") + seed);
  double sum = 0;
  for (int64_t episode = 0; episode < episodes; ++episode) {
    world.begin(Split::test, static_cast<uint64_t>(episode));
    player.begin();
    for (CueGrid::Outcome outcome; !outcome.end; sum += outcome.reward)
      outcome = world.step(player.act(world.observation(), false));
  }
  return sum / static_cast<double>(episodes);
}

}  // namespace heed::train
