// The next byte of a real text.
#include <fmt/format.h>

#include <map>

#include "heed/bench/measure.h"
#include "heed/mixers/subsampling.h"
#include "heed/models/self_ensemble.h"
#include "heed/nn/lora.h"
#include "results/sparse/experiments.h"
#include "results/sparse/shipped.h"
#include "train/scheduled_adamw.h"

namespace heed::results::sparse {
namespace {

using nlohmann::json;
using torch::Tensor;

std::unique_ptr<tasks::Task> bytes(int64_t context) { return tasks::make_task("byte_lm", {{"context", context}}); }

/// A small decoder whose layers are `plan`.
DecoderLm small_decoder(const LayerPlan& plan, uint64_t seed, double stretch = 1, const char* positions = "rope") {
  DecoderConfig config;
  config.dim = 64, config.heads = config.kv_heads = 4, config.head_dim = 16, config.hidden = 128;
  config.max_length = 512;
  config.positions.kind = positions;
  if (stretch != 1) config.positions.rope.scaling = "linear", config.positions.rope.factor = stretch;
  config.layers.assign(2, plan);
  torch::manual_seed(int64_t(seed));
  return DecoderLm(config);
}

Tensor loss_of(DecoderLm& model, const train::TaskBatch& batch, uint64_t seed) {
  return torch::cross_entropy_loss(model->forward(batch.inputs, nullptr, seed).flatten(0, 1), batch.labels.flatten());
}

/// Bits a byte on the test split.
double bits_of(DecoderLm& model, const tasks::Task& task, int64_t samples) {
  const auto asked = train::task_model_of(model);
  return train::score_task(*asked, task, tasks::Split::test, samples).score;
}

/// Of bits, fewer of which are better.
Claim better(const Figure& one, const Figure& other) {
  auto claim = exceeds(other, one);
  claim.text = fmt::format("{} better than {}", one.name, other.name);
  claim.figures = fmt::format("{} against {}", one.text(), other.text());
  return claim;
}

Claim as_good(const Figure& one, const Figure& other, double margin) {
  const auto negative = [](Figure figure) {
    for (auto& value : figure.values) value = -value;
    return figure;
  };
  auto claim = reaches(negative(one), negative(other), margin);
  claim.text = fmt::format("{} as good as {}, up to {:g} bits", one.name, other.name, margin);
  claim.figures = fmt::format("{} against {}", one.text(), other.text());
  return claim;
}

}  // namespace

Experiment core_language() {
  const auto run = [](const Report& report) {
    const auto cores = [](const char* name, const char* pooling) {
      return variant(name, "core_context_attention", {{"group", 8}, {"window", 64}, {"pooling", pooling}});
    };
    auto lesson = shipped_lesson("byte_lm", {{"context", 1024}}, 40);
    lesson.training.batch = 2;
    lesson.seeds = 2, lesson.samples = 24;
    const Contest contest(lesson,
                          {plain("dense"), cores("core tokens", "last"), cores("mean tokens", "mean"),
                           variant("window of 64", "sliding_window", {{"window", 64}, {"sinks", 0}})},
                          report);
    auto finding = finding_of(
        contest, {contest.as_good("core tokens", "dense", 0.05), contest.better("core tokens", "window of 64"),
                  contest.better("core tokens", "mean tokens")});
    finding.setup += " Groups of 8 tokens older than a window of 64 stand as one each.";
    return finding;
  };
  return {"core_language",
          "A language model with core tokens",
          {"core_context_attention"},
          "a model fine-tuned with core tokens is close to dense attention, and better than with a window alone or "
          "with means of groups (arXiv 2412.12465).",
          run};
}

Experiment long_tuning() {
  const auto run = [](const Report& report) {
    constexpr int64_t kShort = 64, kLong = 256, kFirst = 400, kAfter = 80, kSeeds = 2, kSamples = 64;
    struct Tuning {
      const char* name;
      LayerPlan plan;
      int lora;  ///< 0: all parameters; 1: LoRA; 2: LoRA, embeddings and norms
    };
    const LayerPlan shifted{"shifted_sparse_attention", {{"group", kLong / 4}}},
        unshifted{"shifted_sparse_attention", {{"group", kLong / 4}, {"shift", false}}};
    const std::vector<Tuning> tunings{{"dense", {}, 0},
                                      {"shifted groups", shifted, 0},
                                      {"groups without a shift", unshifted, 0},
                                      {"shifted groups, LoRA alone", shifted, 1},
                                      {"shifted groups, LoRA, embeddings and norms", shifted, 2}};
    const auto near = bytes(kShort), far = bytes(kLong);
    std::map<std::string, Figure> bits;
    Figure before{"no fine-tuning", {}};
    const double total = double(kSeeds) * double(tunings.size() + 2);
    double done = 0;
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      const auto learn = [&](DecoderLm& model, const tasks::Task& task, int64_t steps, int64_t batch, double rate,
                             int lora, const char* name, double weight) {
        std::vector<Tensor> parameters = model->parameters();
        nn::Lora updates{nullptr};
        if (lora > 0) {
          nn::LoraOptions options;
          options.seed = seed;
          if (lora == 2) options.also = {"embed", "norm"};
          updates = nn::Lora(*model, options);
          parameters = updates->trainable();
        }
        train::ScheduledAdamW optimizer("long_tuning", parameters, steps, rate, 0);
        model->train();
        for (int64_t step = 0; step < steps; ++step) {
          if (updates) updates->apply_updates();
          const auto drawn = train::task_batch(task, tasks::Split::train, (seed << 32) + uint64_t(step * batch), batch);
          optimizer.step(loss_of(model, drawn, uint64_t(step)));
          if (step % 10 == 0) report((done + weight * double(step) / double(steps)) / total, name);
        }
        if (updates) updates->merge();
        model->eval();
        done += weight;
      };
      auto first = small_decoder({}, seed);
      learn(first, *near, kFirst, 32, 3e-3, 0, "short contexts", 2);
      auto stretched = small_decoder({}, seed, double(kLong / kShort));
      take_weights(*stretched, *first);
      before.values.push_back(bits_of(stretched, *far, kSamples));
      for (const auto& tuning : tunings) {
        auto model = small_decoder(tuning.plan, seed, double(kLong / kShort));
        take_weights(*model, *first);
        learn(model, *far, kAfter, 8, 1e-3, tuning.lora, tuning.name, 1);
        bits[tuning.name].name = tuning.name;
        bits[tuning.name].values.push_back(bits_of(model, *far, kSamples));
      }
    }
    Table table{"", {"fine-tuned with", "bits a byte, dense"}, {{"nothing", before.text()}}};
    for (const auto& tuning : tunings) table.rows.push_back({tuning.name, bits[tuning.name].text()});
    return Finding{
        fmt::format("A decoder of 2 layers of 64 channels learns `byte_lm` in {} steps of 32 x {} bytes; positions are "
                    "then divided by {}, and it goes on for {} steps of 8 x {} with attention in groups of {}. Scores: "
                    "with dense attention at {} bytes, {} samples, {} seeds. Rates 3e-3 and 1e-3.",
                    kFirst, kShort, kLong / kShort, kAfter, kLong, kLong / 4, kLong, kSamples, kSeeds),
        {table},
        {as_good(bits["shifted groups"], bits["dense"], 0.03),
         better(bits["shifted groups"], bits["groups without a shift"]),
         better(bits["shifted groups, LoRA, embeddings and norms"], bits["shifted groups, LoRA alone"]),
         better(bits["shifted groups"], before)}};
  };
  return {"long_tuning",
          "Fine-tuning for long input in groups",
          {"shifted_sparse_attention"},
          "groups of which half of the heads are shifted tune a model for dense attention over longer input almost as "
          "well as dense attention does, without the shift less; LoRA needs embeddings and norms beside it (arXiv "
          "2309.12307).",
          run};
}

Experiment subsampled() {
  const auto run = [](const Report& report) {
    constexpr int64_t kContext = 128, kSteps = 400, kSeeds = 2, kSamples = 48, kDraws = 10;
    constexpr double kRate = 3e-3;
    const LayerPlan drawn{"stochastic_subsampled_attention", {{"reduction", 4}}};
    struct Kind {
      const char* name;
      LayerPlan plan;
      bool redrawn;
    };
    const std::vector<Kind> kinds{
        {"dense", {}, true}, {"a quarter of the keys", drawn, true}, {"a fixed quarter", drawn, false}};
    const auto task = bytes(kContext);
    std::map<std::string, Figure> bits;
    double done = 0;
    for (uint64_t seed = 0; seed < kSeeds; ++seed)
      for (const auto& kind : kinds) {
        auto model = small_decoder(kind.plan, seed);
        train::ScheduledAdamW optimizer("subsampled", model->parameters(), kSteps, kRate, 0.1);
        model->train();
        const int64_t sparse = kSteps * 9 / 10;
        for (int64_t step = 0; step < kSteps; ++step) {
          if (step == sparse) set_subsampling(*model, Subsampling::When::never);  // the dense end
          const auto batch = train::task_batch(*task, tasks::Split::train, (seed << 32) + uint64_t(step) * 16, 16);
          optimizer.step(loss_of(model, batch, kind.redrawn ? uint64_t(step) : 1));
          if (step % 10 == 0) report((done + double(step) / double(kSteps)) / double(kSeeds * 3), kind.name);
        }
        ++done;
        model->eval();
        bits[kind.name].name = kind.name;
        bits[kind.name].values.push_back(bits_of(model, *task, kSamples));
        if (std::string(kind.name) != "a quarter of the keys") continue;
        const auto test = train::task_batch(*task, tasks::Split::test, 0, kSamples);
        const auto of_draws = [&](int64_t draws) {
          const auto log_p = ensemble_log_probabilities(model, test.inputs, draws, 7);
          return torch::nll_loss(log_p.flatten(0, 1), test.labels.flatten()).item<double>() / std::log(2.0);
        };
        for (const auto& [name, draws] : {std::pair{"one draw", int64_t{1}}, {"an ensemble of 10 draws", kDraws}}) {
          bits[name].name = name;
          bits[name].values.push_back(of_draws(draws));
        }
      }
    Table table{"", {"keys seen in training, or at the test", "bits a byte"}, {}};
    for (const char* name :
         {"dense", "a quarter of the keys", "a fixed quarter", "one draw", "an ensemble of 10 draws"})
      table.rows.push_back({name, bits[name].text()});
    return Finding{
        fmt::format("A decoder of 2 layers of 64 channels learns `byte_lm` in {} steps of 16 x {} bytes at a rate of "
                    "{:g}, {} seeds; the "
                    "last tenth is dense for all. Tested with all keys on {} samples, or by the mean of {} draws of a "
                    "quarter.",
                    kSteps, kContext, kRate, kSeeds, kSamples, kDraws),
        {table},
        {as_good(bits["a quarter of the keys"], bits["dense"], 0.02),
         better(bits["a quarter of the keys"], bits["a fixed quarter"]),
         better(bits["an ensemble of 10 draws"], bits["one draw"]),
         better(bits["an ensemble of 10 draws"], bits["dense"])}};
  };
  return {"subsampled",
          "Random keys while learning",
          {"stochastic_subsampled_attention"},
          "training on random quarters of the keys and a dense end is no worse than dense training, ensembles of draws "
          "are better, and a fixed quarter is worse (arXiv 2306.01705).",
          run};
}

Experiment principles() {
  const auto run = [](const Report& report) {
    Lesson lesson;
    lesson.task = "byte_lm";
    lesson.parameters = {{"context", 128}};
    lesson.model.layers = 4, lesson.model.dim = 48, lesson.model.heads = 3, lesson.model.hidden = 96;
    lesson.training.steps = 200, lesson.training.batch = 16, lesson.training.learning_rate = 3e-3;
    lesson.seeds = 1, lesson.samples = 48;
    const std::vector<std::string> variants{"standard",     "approx",        "nonapprox", "rnd_emb_qk",
                                            "fixed_seq_qk", "static_emb_qk", "mlp"};
    std::vector<int64_t> text;
    const auto fixed = bytes(128)->example(tasks::Split::valid, 0);
    text.assign(fixed.tokens.begin(), fixed.tokens.end());
    std::vector<Learner> learners;
    for (const bool hybrid : {false, true})
      for (const auto& name : variants) {
        if (hybrid && name == "standard") continue;
        json settings{{"variant", name}};
        if (name == "fixed_seq_qk") settings["tokens"] = text;
        // Layers 0 and 2 are attention, 1 and 3 lack the principle.
        learners.push_back({hybrid ? "hybrid of " + name : name,
                            hybrid ? "dense+deconstructed_attention" : "deconstructed_attention",
                            {{"deconstructed_attention", settings}}});
      }
    Figure skipped{"hybrids without those layers", {}};
    double whole = 0;
    const Contest contest(
        lesson, learners, report, [&](const Learner& learner, train::TaskModel& model, const tasks::Task& task) {
          if (learner.name != "hybrid of approx") return;
          auto& blocks = (*model.decoder())->blocks;
          const auto all = blocks;
          whole = train::score_task(model, task, tasks::Split::test, lesson.samples).score;
          blocks = {all[0], all[2]};
          skipped.values.push_back(train::score_task(model, task, tasks::Split::test, lesson.samples).score);
          blocks = all;
        });
    std::vector<Claim> claims;
    for (const char* name : {"rnd_emb_qk", "fixed_seq_qk", "static_emb_qk"}) {
      claims.push_back(contest.better("approx", name));
      claims.push_back(contest.better(name, "mlp"));
    }
    claims.push_back(contest.better("standard", "approx"));
    const double few_percent = 0.05 * contest.scores("standard").mean();
    for (const char* name : {"approx", "nonapprox", "rnd_emb_qk", "fixed_seq_qk", "static_emb_qk"})
      claims.push_back(contest.as_good(std::string("hybrid of ") + name, "standard", few_percent));
    claims.push_back(contest.better("hybrid of approx", "hybrid of mlp"));
    claims.push_back(exceeds(skipped, {"1.2 times the hybrid of approx", {1.2 * whole}}));
    return finding_of(contest, claims);
  };
  return {
      "principles",
      "Attention less one of its principles",
      {"deconstructed_attention"},
      "in all layers, an approximation of the exponential costs least, queries and keys that do not follow the text "
      "more, no mixing most; beside attention in every other layer each does almost as well as attention, and is "
      "not idle: without those layers a model collapses (arXiv 2510.11602).",
      run};
}

Experiment segments() {
  const auto run = [](const Report& report) {
    constexpr int64_t kSegment = 64, kStreams = 16, kSteps = 400, kTestSegments = 12, kSeeds = 2;
    constexpr double kRate = 3e-3;
    const auto plan = [](int64_t memory) { return LayerPlan{"transformer_xl", {{"memory", memory}}}; };
    // Streams of a text, segment after segment: [streams, segments * kSegment + 1].
    const auto streams_of = [](tasks::Split split, int64_t segments) {
      return train::task_batch(*bytes(segments * kSegment), split, 0, kStreams);
    };
    const auto test = streams_of(tasks::Split::test, kTestSegments);
    const auto segment = [](const train::TaskBatch& batch, int64_t s) {
      train::TaskBatch part;
      part.inputs = batch.inputs.narrow(1, s * kSegment, kSegment);
      part.labels = batch.labels.narrow(1, s * kSegment, kSegment);
      return part;
    };
    const auto loss = [](DecoderLm& model, const train::TaskBatch& part, DecoderState* state) {
      return torch::cross_entropy_loss(model->forward(part.inputs, state).flatten(0, 1), part.labels.flatten());
    };
    const auto bits = [&](DecoderLm& trained, int64_t memory) {
      torch::NoGradGuard no_grad;
      auto model = small_decoder(plan(memory), 0, 1, "none");
      take_weights(*model, *trained);
      model->eval();
      auto state = model->make_state(kStreams);
      double nats = 0;
      for (int64_t s = 0; s < kTestSegments; ++s)
        nats += loss(model, segment(test, s), memory > 0 ? &state : nullptr).item<double>();
      return nats / double(kTestSegments) / std::log(2.0);
    };
    Figure without{"no memory", {}}, with{"memory of 64", {}}, longer{"memory of 256 at the test", {}},
        cut{"trained with a memory, tested without", {}};
    DecoderLm last{nullptr};
    double done = 0;
    for (uint64_t seed = 0; seed < kSeeds; ++seed)
      for (const bool memory : {false, true}) {
        auto model = small_decoder(plan(memory ? kSegment : 0), seed, 1, "none");
        train::ScheduledAdamW optimizer("segments", model->parameters(), kSteps, kRate, 0.1);
        model->train();
        constexpr int64_t kRun = 16;  // segments of a stream before the next one begins
        train::TaskBatch streams;
        DecoderState state;
        const auto task = bytes(kRun * kSegment);
        for (int64_t step = 0; step < kSteps; ++step) {
          if (step % kRun == 0) {
            streams = train::task_batch(*task, tasks::Split::train, (seed << 32) + uint64_t(step / kRun * kStreams),
                                        kStreams);
            state = model->make_state(kStreams);
          }
          optimizer.step(loss(model, segment(streams, step % kRun), memory ? &state : nullptr));
          if (step % 10 == 0)
            report((done + double(step) / double(kSteps)) / double(2 * kSeeds), memory ? "memory" : "no memory");
        }
        ++done;
        if (!memory) {
          without.values.push_back(bits(model, 0));
          continue;
        }
        with.values.push_back(bits(model, kSegment));
        longer.values.push_back(bits(model, 4 * kSegment));
        cut.values.push_back(bits(model, 0));
        last = model;
      }
    // A token at a time behind a memory, and by running over the last tokens again.
    torch::NoGradGuard no_grad;
    last->eval();
    const auto ids = test.inputs.narrow(0, 0, 1);
    auto state = last->make_state(1);
    last->hidden(ids.narrow(1, 0, kSegment), &state);
    const double begin = bench::now();
    for (int64_t t = 0; t < kSegment; ++t) last->hidden(ids.narrow(1, kSegment + t, 1), &state);
    const double middle = bench::now();
    for (int64_t t = 0; t < kSegment; ++t) last->hidden(ids.narrow(1, t, 2 * kSegment));
    const double stepped = middle - begin, sliding = bench::now() - middle;
    Table table{"", {"memory", "bits a byte"}, {}};
    for (const auto* figure : {&without, &cut, &with, &longer}) table.rows.push_back({figure->name, figure->text()});
    return Finding{fmt::format("A decoder of 2 layers of 64 channels reads {} streams of bytes in segments of {}, {} "
                               "steps at a rate of {:g}; test "
                               "on {} segments a stream, {} seeds. Gradients do not reach the memory.",
                               kStreams, kSegment, kSteps, kRate, kTestSegments, kSeeds),
                   {table},
                   {better(with, without), better(with, cut), better(longer, with),
                    holds("a step behind a memory is faster than running over twice a segment again", stepped < sliding,
                          fmt::format("{:.1f}x", sliding / stepped))}};
  };
  return {"segments",
          "A memory of the segment before",
          {"transformer_xl"},
          "what is kept of the segment before helps, more of it at the test helps more, and evaluation is faster than "
          "by sliding windows (arXiv 1901.02860).",
          run};
}

}  // namespace heed::results::sparse
