#include "cli/train_small.h"

#include <fmt/format.h>

#include "cli/mixer_text.h"
#include "heed/progress.h"
#include "heed/train/spoken_symbols.h"
#include "heed/train/world.h"

namespace heed::cli {
namespace {

int64_t parameters_of(const torch::nn::Module& model) {
  int64_t count = 0;
  for (const auto& parameter : model.parameters()) count += parameter.numel();
  return count;
}

struct SpeechCommand {
  Common common;
  std::vector<std::string> mixers{"mamba"};
  SambaAsrConfig model;
  tasks::SpokenSymbolsConfig speech;
  train::SpeechOptions training;
  int64_t layers = 2, utterances = 500;
  bool no_mean = false, causal = false;
};

void run(SpeechCommand& o) {
  apply(o.common);
  o.speech.seed = o.common.seed;
  o.model.encoder_layers = o.model.decoder_layers = o.layers;
  o.model.mean = !o.no_mean;
  o.model.bidirectional = !o.causal;
  const tasks::SpokenSymbols speech(o.speech);
  auto rows = nlohmann::ordered_json::array();
  for (const auto& text : o.mixers) {
    const auto plan = mixer_of(text, "--mixer");
    o.model.mixer = plan.mixer;
    o.model.encoder_mixer = o.model.decoder_mixer = plan.config;
    auto model = train::speech_model(speech, o.model, o.common.seed);
    Progress bar(text, o.training.steps);
    const double loss = train::train_speech(model, speech, o.training, [&](int64_t step, double value) {
      bar.update(step + 1, fmt::format("loss {:.3f}", value));
    });
    rows.push_back({{"mixer", text},
                    {"parameters", parameters_of(*model)},
                    {"loss", loss},
                    {"token_error_rate", train::token_error_rate(model, speech, tasks::Split::test, o.utterances)}});
  }
  const nlohmann::ordered_json json{
      {"steps", o.training.steps}, {"connection", o.model.connection}, {"mean", o.model.mean}, {"rows", rows}};
  if (write_json(o.common, json.dump(1))) return;
  fmt::print(
      "spoken symbols: {} steps of {}, connection {}; errors over {} test utterances\n{:<32} {:>10} {:>8} {:>12}\n",
      o.training.steps, o.training.batch, o.model.connection, o.utterances, "mixer", "parameters", "loss",
      "token errors");
  for (const auto& row : rows)
    fmt::print("{:<32} {:>10} {:>8.3f} {:>12.3f}\n", row["mixer"].get<std::string>(), row["parameters"].get<int64_t>(),
               row["loss"].get<double>(), row["token_error_rate"].get<double>());
}

struct WorldCommand {
  Common common;
  std::vector<std::string> mixers{"none", R"(mamba2:{"state_dim":16,"head_dim":16})"};
  WorldModelConfig model;
  tasks::CueGridConfig world;
  train::WorldOptions training;
  train::ActorCriticOptions agent;
  int64_t layers = 2, episodes = 500;
  bool no_actor = false;
};

void run(WorldCommand& o) {
  apply(o.common);
  o.world.seed = o.training.seed = o.common.seed;
  o.training.actor = !o.no_actor;
  if (o.no_actor) o.training.random_steps = o.training.experience;
  auto rows = nlohmann::ordered_json::array();
  for (const auto& text : o.mixers) {
    const auto plan = mixer_of(text, "--mixer");
    const bool forgets = plan.mixer == "none";
    o.model.layers = forgets ? 0 : o.layers;
    o.model.mixer = forgets ? "mamba2" : plan.mixer;
    o.model.mixer_config = plan.config;
    auto model = train::world_model(tasks::CueGrid(o.world), o.model, o.common.seed);
    train::ActorCritic agent{nullptr}, at_random{nullptr};
    if (!o.no_actor) agent = train::ActorCritic(model->config(), o.agent);
    Progress bar(text, o.training.updates);
    const double loss =
        train::train_world(model, agent, o.world, o.training, [&](int64_t update, const WorldLoss& losses) {
          bar.update(update + 1, fmt::format("loss {:.3f}", losses.total.item<double>()));
        });
    const auto score = train::score_world(model, o.world, o.episodes, o.common.seed);
    nlohmann::ordered_json row{{"mixer", text},
                               {"parameters", parameters_of(*model)},
                               {"loss", loss},
                               {"observation_error", score.observation},
                               {"observation_still", score.still},
                               {"reward_error", score.reward},
                               {"reward_guess", score.guess},
                               {"end", score.end},
                               {"random_return", train::mean_return(model, at_random, o.world, o.episodes)}};
    if (!o.no_actor) row["return"] = train::mean_return(model, agent, o.world, o.episodes);
    rows.push_back(row);
  }
  const nlohmann::ordered_json json{
      {"updates", o.training.updates}, {"experience", o.training.experience}, {"rows", rows}};
  if (write_json(o.common, json.dump(1))) return;
  fmt::print(
      "cue grid of {} x {}: {} updates, {} steps; forecasts over {} test episodes\n{:<44} {:>10} {:>18} {:>18} {:>6} "
      "{:>16}\n",
      o.world.side, o.world.side, o.training.updates, o.training.experience, o.episodes, "mixer", "parameters",
      "next seen (still)", "reward (guess)", "ends", "return (random)");
  for (const auto& row : rows) {
    const auto beside = [&](const char* what, const char* baseline) {
      return fmt::format("{} ({:.3f})", row.contains(what) ? fmt::format("{:.3f}", row[what].get<double>()) : "-",
                         row[baseline].get<double>());
    };
    fmt::print("{:<44} {:>10} {:>18} {:>18} {:>6.2f} {:>16}\n", row["mixer"].get<std::string>(),
               row["parameters"].get<int64_t>(), beside("observation_error", "observation_still"),
               beside("reward_error", "reward_guess"), row["end"].get<double>(), beside("return", "random_return"));
  }
}

}  // namespace

void add_speech(CLI::App& train) {
  auto o = std::make_shared<SpeechCommand>();
  o->model.dim = 64;
  o->model.ctc = true;
  auto* speech = train.add_subcommand(
      "speech",
      "speech recognisers after Samba-ASR learn to write down spoken symbols, each two tones in noise, and are "
      "compared\nexample: heed train speech --mixer mamba 'dense:{\"positions\":\"rope\"}'");
  speech->add_option("--mixer", o->mixers,
                     "of encoder and decoder, NAME or NAME:{json}; one model each (default mamba)");
  speech->add_option("--connection", o->model.connection, "of the two: state or concatenated (default state)");
  speech->add_flag("--no-mean", o->no_mean, "without the gated mean of the speech");
  speech->add_flag("--causal", o->causal, "the encoder sees no later frames, as mixers of one direction need");
  speech->add_option("--steps", o->training.steps, "of training (default 600)")->check(whole(1));
  speech->add_option("--batch", o->training.batch, "utterances a step (default 32)")->check(whole(1));
  speech->add_option("--lr", o->training.learning_rate, "peak learning rate (default 0.004)")->check(positive());
  speech->add_option("--dim", o->model.dim, "channels (default 64)")->check(whole(1));
  speech->add_option("--layers", o->layers, "of encoder and of decoder (default 2)")->check(whole(1));
  speech->add_option("--symbols", o->speech.most, "most symbols of an utterance (default 5)")->check(whole(1));
  speech->add_option("--noise", o->speech.noise, "mean power of a band, beside 1 of a tone (default 0.05)")
      ->check(positive());
  speech->add_option("--utterances", o->utterances, "of the test (default 500)")->check(whole(1));
  add_threads(*speech, o->common);
  add_seed(*speech, o->common);
  add_json(*speech, o->common);
  speech->callback([o] { run(*o); });
}

void add_world(CLI::App& train) {
  auto o = std::make_shared<WorldCommand>();
  o->model.categoricals = o->model.classes = 8;
  o->model.dim = o->model.hidden = 64;
  o->model.reward_bins = 63;
  o->model.reward_range = 3;
  auto* world = train.add_subcommand(
      "world",
      "world models after Drama learn a grid in which a cue, shown once, says which pad is worth reaching; actors "
      "learn "
      "in what they imagine\nexample: heed train world --mixer none 'mamba2:{\"state_dim\":16,\"head_dim\":16}'");
  world->add_option("--mixer", o->mixers,
                    "of the sequence model, NAME or NAME:{json}, or none (no memory); one model each (default none and "
                    "mamba2)");
  world->add_flag("--no-actor", o->no_actor, "the models alone, from random steps");
  world->add_option("--updates", o->training.updates, "of model and actor (default 1500)")->check(whole(1));
  world->add_option("--experience", o->training.experience, "steps in the world (default 8000)")->check(whole(1));
  world->add_option("--lr", o->training.learning_rate, "peak learning rate (default 0.002)")->check(positive());
  world->add_option("--imagined", o->training.imagined, "rollouts of an update of the actor (default 256)")
      ->check(whole(1));
  world->add_option("--side", o->world.side, "cells of the grid's side (default 5)")->check(CLI::Range(3, 1 << 20));
  world->add_option("--limit", o->world.limit, "steps of an episode (default 24)")->check(whole(1));
  world->add_option("--dim", o->model.dim, "channels of the sequence model (default 64)")->check(whole(1));
  world->add_option("--layers", o->layers, "of the sequence model (default 2)")->check(whole(1));
  world->add_option("--episodes", o->episodes, "of the test (default 500)")->check(whole(1));
  add_threads(*world, o->common);
  add_seed(*world, o->common);
  add_json(*world, o->common);
  world->callback([o] { run(*o); });
}

}  // namespace heed::cli
