// Whole models: speech, a world, denoised images.
#include <fmt/format.h>

#include "bench/units.h"
#include "heed/bench/measure.h"
#include "heed/models/decoder_lm.h"
#include "heed/nn/generator.h"
#include "heed/train/spoken_symbols.h"
#include "heed/train/world.h"
#include "results/learning.h"
#include "results/linear/experiments.h"
#include "results/timing.h"

namespace heed::results::linear {
namespace {

using torch::Tensor;

constexpr int64_t kImageSide = 8, kImageCells = kImageSide * kImageSide, kImageDim = 32;
constexpr double kDenoiserRate = 3e-3;

/// Cells of digits with noise, the noise they were given, and how much: level 0 is none of it, 1 nothing else.
struct NoisyDigits {
  Tensor cells, noise, level;  ///< [B, 64, 1], [B, 64, 1], [B, 1]
};

NoisyDigits noisy_digits(const tasks::Task& digits, tasks::Split split, uint64_t first, int64_t size) {
  auto generator = nn::seeded_generator(first + 1);
  const auto images = train::task_batch(digits, split, first, size).inputs.flatten(1).unsqueeze(2);
  const auto noise = torch::randn(images.sizes(), generator, torch::kFloat32);
  const auto level = torch::rand({size, 1}, generator, torch::kFloat32);
  const auto angle = level.unsqueeze(2) * (M_PI / 2);
  return {torch::cos(angle) * images + torch::sin(angle) * noise, noise, level};
}

/// Foretells the noise by two blocks between a linear map of cells and one back; the level conditions the blocks.
class DenoiserImpl : public torch::nn::Module {
 public:
  explicit DenoiserImpl(const nlohmann::json& settings) {
    in_ = register_module("in", torch::nn::Linear(1, kImageDim));
    level_ = register_module("level", torch::nn::Linear(1, kImageDim));
    places_ = register_parameter("places", torch::randn({kImageCells, kImageDim}) * 0.02);
    for (int64_t l = 0; l < 2; ++l) {
      auto config = settings;
      config.update({{"dim", kImageDim}, {"heads", 2}, {"window", 4}, {"state_dim", 4}});
      blocks_.push_back(register_module(fmt::format("block{}", l), make_mixer("lamamba", config)));
    }
    out_ = register_module("out", torch::nn::Linear(kImageDim, 1));
  }

  Tensor forward(const NoisyDigits& digits) {
    MixerInput in;
    in.x = in_(digits.cells) + places_;
    in.memory = level_(digits.level).unsqueeze(1);
    in.grid = Grid{{kImageSide, kImageSide}};
    for (size_t l = 0; l < blocks_.size(); ++l) {
      in.layer = {static_cast<int64_t>(l), 2};
      in.x = blocks_[l]->forward(in);
    }
    return out_(in.x);
  }

 private:
  torch::nn::Linear in_{nullptr}, level_{nullptr}, out_{nullptr};
  Tensor places_;
  std::vector<std::shared_ptr<TokenMixer>> blocks_;
};
TORCH_MODULE(Denoiser);

double denoising_error(const nlohmann::json& settings, uint64_t seed, int64_t steps) {
  const auto digits = tasks::make_task("digits", {{"patch", 1}});
  torch::manual_seed(static_cast<int64_t>(seed));
  Denoiser model(settings);
  torch::optim::Adam adam(model->parameters(), torch::optim::AdamOptions(kDenoiserRate));
  for (int64_t step = 0; step < steps; ++step) {
    const auto batch = noisy_digits(*digits, tasks::Split::train, (seed << 32) + static_cast<uint64_t>(step * 32), 32);
    adam.zero_grad();
    torch::mse_loss(model->forward(batch), batch.noise).backward();
    adam.step();
  }
  torch::NoGradGuard no_grad;
  const auto test = noisy_digits(*digits, tasks::Split::test, 0, 360);
  return torch::mse_loss(model->forward(test), test.noise).item<double>();
}

int64_t parameters_of(const torch::nn::Module& model) {
  int64_t count = 0;
  for (const auto& parameter : model.parameters()) count += parameter.numel();
  return count;
}

/// A step of 16 rollouts behind `context` steps of nothing in particular.
double dream_seconds(WorldModel& model, int64_t context) {
  torch::NoGradGuard no_grad;
  constexpr int64_t kDreams = 16;
  const auto& c = model->config();
  const auto steps = [&](int64_t count) {
    const auto classes = torch::randint(c.classes, {kDreams, count, c.categoricals});
    return std::pair(torch::one_hot(classes, c.classes).to(torch::kFloat32),
                     torch::randint(c.actions, {kDreams, count}));
  };
  auto states = model->make_states(kDreams);
  const auto [past, done] = steps(context);
  model->sequence(past, done, {}, &states);
  const auto [code, action] = steps(1);
  return cost_of([&, &code = code, &action = action] { model->sequence(code, action, {}, &states); }).seconds;
}

}  // namespace

Experiment denoising() {
  const auto run = [](const Report& report) {
    constexpr int64_t kSteps = 300, kSeeds = 2;
    const std::vector<std::pair<std::string, nlohmann::json>> kinds{
        {"attention alone", {{"scan", false}}}, {"scan alone", {{"attention", false}}}, {"both", {{"mlp_ratio", 2}}}};
    Finding finding;
    finding.setup = fmt::format(
        "The noise in 8 x 8 digits, at every level from none to all, foretold by two blocks of {} channels on single "
        "pixels; windows of 4 x 4. {} steps of 32 at a rate of {:g}, {} seeds; mean squared error on the test images "
        "(a guess: 1). With "
        "both, the channel mixers are half as wide, so that all have about as many parameters.",
        kImageDim, kSteps, kDenoiserRate, kSeeds);
    std::map<std::string, Figure> errors;
    for (size_t i = 0; i < kinds.size(); ++i) {
      auto& figure = errors[kinds[i].first];
      figure.name = "error of " + kinds[i].first;
      for (uint64_t seed = 0; seed < kSeeds; ++seed) {
        report((double(i) + double(seed) / kSeeds) / double(kinds.size()), kinds[i].first);
        figure.values.push_back(denoising_error(kinds[i].second, seed, kSteps));
      }
    }
    Table table{"", {"block", "error"}, {}};
    for (const auto& [name, settings] : kinds) table.rows.push_back({name, errors[name].text()});
    finding.tables.push_back(table);
    finding.claims = {exceeds(errors["attention alone"], errors["both"]),
                      exceeds(errors["scan alone"], errors["both"])};
    return finding;
  };
  return {"denoising",
          "Scans and windows in one block",
          {"lamamba"},
          "local attention and scans over the whole image together denoise better than either (arXiv 2408.02615).",
          run};
}

Experiment speech() {
  const auto run = [](const Report& report) {
    constexpr uint64_t kSeeds = 3;
    tasks::SpokenSymbolsConfig spoken;
    spoken.symbols = 4, spoken.bands = 8, spoken.least = 1, spoken.most = 4, spoken.slowest = 5;
    const tasks::SpokenSymbols symbols(spoken);
    train::SpeechOptions training;
    training.steps = 400, training.batch = 16, training.learning_rate = 6e-3;
    const auto model_of = [&](const std::string& mixer, uint64_t seed) {
      SambaAsrConfig config;
      config.dim = 32, config.encoder_layers = config.decoder_layers = 1, config.stride = 2, config.ctc = true;
      config.mixer = mixer, config.connection = "concatenated";
      if (mixer == "mamba") config.encoder_mixer = config.decoder_mixer = {{"state_dim", 8}};
      if (mixer == "dense") {
        config.encoder_mixer = config.decoder_mixer = {{"heads", 2}, {"positions", "rope"}};
        config.encoder_layers = config.decoder_layers = 2;
      }
      return train::speech_model(symbols, config, seed);
    };
    Finding finding;
    finding.setup = fmt::format(
        "Symbols as pairs of tones at the speed of their speaker, in noise: an encoder and a decoder of 32 channels, "
        "of one layer "
        "of mamba each or, so that parameters are about as many, two of attention; encoder tokens and text are one "
        "sequence for the decoder. {} steps of {} at a rate of {:g}, {} seeds; edits a symbol over 200 test "
        "utterances. Time: the encoder over speech of so many frames.",
        training.steps, training.batch, training.learning_rate, kSeeds);
    std::map<std::string, Figure> errors;
    std::map<std::string, std::vector<double>> seconds;
    std::map<std::string, int64_t> parameters;
    const std::vector<int64_t> lengths{1000, 4000, 16000};
    double done = 0;
    for (const std::string mixer : {"mamba", "dense"}) {
      errors[mixer].name = "errors of " + mixer;
      for (uint64_t seed = 0; seed < kSeeds; ++seed, ++done) {
        auto model = model_of(mixer, seed);
        parameters[mixer] = parameters_of(*model);
        train::train_speech(model, symbols, training, [&](int64_t step, double) {
          report((done + double(step) / double(training.steps)) / (2 * kSeeds), mixer);
        });
        errors[mixer].values.push_back(train::token_error_rate(model, symbols, tasks::Split::test, 200));
        if (seed > 0) continue;
        torch::NoGradGuard no_grad;
        model->eval();
        for (const auto length : lengths) {
          const auto frames = torch::randn({1, length, spoken.bands});
          std::vector<double> times;
          for (int i = 0; i < 3; ++i) {
            const double begin = bench::now();
            model->encode(frames);
            times.push_back(bench::now() - begin);
          }
          seconds[mixer].push_back(bench::median(times));
        }
      }
    }
    Table table{"", {"mixer", "parameters", "edits a symbol"}, {}};
    for (const auto length : lengths) table.columns.push_back(fmt::format("{} frames", length));
    for (const auto& [mixer, figure] : errors) {
      std::vector<std::string> row{"`" + mixer + "`", std::to_string(parameters[mixer]), figure.text()};
      for (const double time : seconds[mixer]) row.push_back(bench::time_text(time));
      table.rows.push_back(row);
    }
    finding.tables.push_back(table);
    const auto growth = [&](const char* mixer) { return seconds[mixer].back() / seconds[mixer].front(); };
    auto fewer = exceeds(errors["dense"], errors["mamba"]);
    fewer.text = "mamba makes fewer errors than dense";
    finding.claims = {fewer,
                      holds("mamba's time grows like the speech, dense's faster",
                            growth("mamba") < 1.5 * 16 && growth("dense") > growth("mamba"),
                            fmt::format("{:.1f}x and {:.1f}x for 16x the frames", growth("mamba"), growth("dense")))};
    return finding;
  };
  return {"speech",
          "Speech by state spaces on both sides",
          {"samba_asr"},
          "Mamba as encoder and decoder makes fewer errors than a transformer, in a time that is linear in the speech "
          "(arXiv 2501.02832).",
          run};
}

Experiment world() {
  const auto run = [](const Report& report) {
    tasks::CueGridConfig grid;
    grid.side = 3, grid.limit = 12;
    train::WorldOptions options;
    options.updates = 800, options.experience = options.random_steps = 12000, options.window = 24;
    options.actor = false;
    const std::vector<int64_t> limits{3, 6, 12, 24}, contexts{16, 256, 1024};
    constexpr uint64_t kSeeds = 2;
    const auto model_of = [&](const std::string& mixer, uint64_t seed) {
      WorldModelConfig config;
      config.categoricals = config.classes = 6, config.dim = 32, config.hidden = 48;
      config.reward_bins = 31, config.reward_range = 2;
      config.layers = mixer == "nothing" ? 0 : mixer == "dense" ? 2 : 1;
      if (mixer != "nothing") config.mixer = mixer;
      config.mixer_config = nlohmann::json::object();
      if (mixer == "dense") config.mixer_config = {{"heads", 2}, {"positions", "rope"}};
      if (mixer == "mamba2") config.mixer_config = {{"state_dim", 16}, {"head_dim", 16}};
      return train::world_model(tasks::CueGrid(grid), config, seed);
    };
    Finding finding;
    finding.setup = fmt::format(
        "A world of {0} x {0} cells whose first observation alone tells which corner is worth reaching; episodes of up "
        "to {1} random steps. {2} steps of experience, {3} updates of a model of 32 channels and one layer of memory "
        "(of attention two, "
        "which have about as many parameters), at a rate of {4:g}, two seeds. "
        "Errors over 200 new episodes of up to so many steps: of the next observation (squared, summed), and of the "
        "reward where a corner is reached (root mean square; a guess of the mean stands below). Time: of one step for "
        "16 dreams, behind so many steps.",
        grid.side, grid.limit, options.experience, options.updates, options.learning_rate);
    Table seen{"Error of the next observation", {"memory"}, {}}, paid{"Error of rewards", {"memory"}, {}},
        time{"Time of a step", {"memory", "parameters"}, {}};
    for (const auto limit : limits)
      for (auto* table : {&seen, &paid}) table->columns.push_back(fmt::format("up to {} steps", limit));
    for (const auto context : contexts) time.columns.push_back(fmt::format("behind {} steps", context));

    const std::vector<std::string> mixers{"mamba2", "dense", "gru", "nothing"};
    std::map<std::string, std::vector<Figure>> observation, reward;  // of limits
    std::map<std::string, std::vector<double>> seconds;              // of contexts
    std::vector<double> guess(limits.size());
    double done = 0;
    for (const auto& mixer : mixers) {
      for (const auto limit : limits) {
        observation[mixer].push_back({fmt::format("error of observations up to {} steps, {}", limit, mixer), {}});
        reward[mixer].push_back({fmt::format("error of rewards up to {} steps, {}", limit, mixer), {}});
      }
      int64_t parameters = 0;
      for (uint64_t seed = 0; seed < kSeeds; ++seed, ++done) {
        auto model = model_of(mixer, seed);
        parameters = parameters_of(*model);
        train::ActorCritic nobody{nullptr};
        options.seed = seed;
        train::train_world(model, nobody, grid, options, [&](int64_t update, const WorldLoss&) {
          report((done + double(update) / double(options.updates)) / (kSeeds * double(mixers.size())), mixer);
        });
        for (size_t i = 0; i < limits.size(); ++i) {
          auto longer = grid;
          longer.limit = limits[i];
          const auto score = train::score_world(model, longer, 200, seed);
          observation[mixer][i].values.push_back(score.observation);
          reward[mixer][i].values.push_back(score.reward);
          guess[i] = score.guess;
        }
        if (seed == 0)
          for (const auto context : contexts) seconds[mixer].push_back(dream_seconds(model, context));
      }
      const auto row = [&](const std::vector<Figure>& figures) {
        std::vector<std::string> cells{mixer};
        for (const auto& figure : figures) cells.push_back(figure.text());
        return cells;
      };
      seen.rows.push_back(row(observation[mixer]));
      paid.rows.push_back(row(reward[mixer]));
      time.rows.push_back({mixer, std::to_string(parameters)});
      for (const double second : seconds[mixer]) time.rows.back().push_back(bench::time_text(second));
    }
    paid.rows.push_back({"a guess"});
    for (const double error : guess) paid.rows.back().push_back(fmt::format("{:.3g}", error));
    finding.tables = {seen, paid, time};
    const size_t trained = 2;  // of limits
    const auto grown = [&](const char* mixer) { return seconds[mixer].back() / seconds[mixer].front(); };
    finding.claims = {
        exceeds(reward["nothing"][trained], reward["mamba2"][trained]),
        exceeds(reward["dense"][trained], reward["mamba2"][trained], 0.9),
        exceeds(reward["gru"][trained], reward["mamba2"][trained], 0.9),
        exceeds(observation["nothing"][trained], observation["mamba2"][trained]),
        exceeds(reward["nothing"].back(), reward["mamba2"].back()),
        holds("mamba2's step takes as long behind 1024 steps as behind 16, within 25 %", grown("mamba2") < 1.25,
              fmt::format("{:.2f}x, dense {:.2f}x", grown("mamba2"), grown("dense")))};
    return finding;
  };
  return {"world",
          "A world model that remembers",
          {"drama_world_model"},
          "a state-space world model remembers what the future depends on, as well as a transformer or a GRU does, and "
          "dreams on at a constant time a step (arXiv 2410.08893).",
          run};
}

}  // namespace heed::results::linear
