// A world model and an actor learn the cue grid: the model from experience, the actor from what the model imagines
// (Drama, arXiv 2410.08893).
#pragma once

#include <functional>

#include "heed/models/world_model.h"
#include "heed/tasks/cue_grid.h"
#include "heed/train/actor_critic.h"
#include "heed/train/replay.h"

namespace heed::train {

struct WorldOptions {
  int64_t updates = 1500;       ///< of the model, and as many of the actor
  int64_t experience = 8000;    ///< steps in the world, those of `random_steps` included
  int64_t random_steps = 1000;  ///< taken at random before anything is learned
  int64_t batch = 16, window = 48;
  int64_t imagined = 256;  ///< rollouts of an update of the actor
  int64_t context = 8, horizon = 16;
  double learning_rate = 2e-3;
  bool actor = true;  ///< false: the model alone, and all experience is taken at random
  uint64_t seed = 0;
};

/// What is foretold against what happens, over episodes of random steps, from codes of what was seen so far.
struct WorldScore {
  double observation = 0;  ///< mean squared error of the next observation, summed over its numbers
  double still = 0;        ///< of the last observation in the place of a forecast
  /// Root mean squared error of the reward where a pad is reached, the cue no longer being in sight.
  double reward = 0;
  double guess = 0;  ///< of the mean reward of those steps in the place of a forecast
  double end = 0;    ///< share of ends that are told from other steps: hits less false alarms
};

/// A model for the world's observations; `like` has the rest.
WorldModel world_model(const tasks::CueGrid& world, WorldModelConfig like, uint64_t seed);

/// `report` hears of every update. Returns the mean total loss of the last tenth of the updates.
double train_world(WorldModel& model, ActorCritic& agent, const tasks::CueGridConfig& world,
                   const WorldOptions& options,
                   const std::function<void(int64_t update, const WorldLoss& loss)>& report = {});

WorldScore score_world(WorldModel& model, const tasks::CueGridConfig& world, int64_t episodes, uint64_t seed = 0);

/// Mean reward of an episode of the test split; an empty agent steps at random.
double mean_return(WorldModel& model, ActorCritic& agent, const tasks::CueGridConfig& world, int64_t episodes,
                   uint64_t seed = 0);

}  // namespace heed::train
