// Digits made from noise by layers that serve intervals of time; what probes read from frozen tokens.
#include <fmt/format.h>

#include "heed/models/timestep_experts.h"
#include "heed/models/vision_backbone.h"
#include "heed/nn/patches.h"
#include "heed/probe/feature_probe.h"
#include "heed/train/masked_images.h"
#include "results/vision/experiments.h"
#include "train/scheduled_adamw.h"

namespace heed::results::vision {
namespace {

using torch::Tensor;

constexpr int64_t kSeeds = 3;

train::TaskBatch digits_of(tasks::Split split, uint64_t first, int64_t count) {
  static const auto task = tasks::make_task("digits");
  return train::task_batch(*task, split, first, count);
}

/// Digits as tokens, from -1 to 1.
Tensor tokens_of(const train::TaskBatch& batch) {
  return nn::to_patches(batch.inputs * 2 - 1, 2, 2).flatten(2).contiguous();
}

}  // namespace

Experiment time_experts() {
  const auto run = [](const Report& report) {
    constexpr int64_t kSteps = 800, kBatch = 64, kTests = 20;
    constexpr double kRate = 3e-3;
    struct Kind {
      const char* name;
      int64_t layers, groups;
      bool residual;
    };
    const std::vector<Kind> kinds{{"4 groups of 2 layers, gated scores", 8, 4, true},
                                  {"4 groups of 2 layers", 8, 4, false},
                                  {"2 layers for all times", 2, 1, false},
                                  {"8 layers for all times", 8, 1, false}};
    std::vector<Figure> losses;
    Table table{"", {"model", "layers a step", "loss on test digits"}, {}};
    for (const auto& kind : kinds) {
      auto& loss = losses.emplace_back(Figure{kind.name, {}});
      for (int64_t seed = 0; seed < kSeeds; ++seed) {
        torch::manual_seed(seed);
        TimestepExpertsConfig config;
        config.classes = 10, config.dim = 48, config.heads = 4, config.hidden = 96;
        config.layers = kind.layers, config.groups = kind.groups, config.residual = kind.residual;
        TimestepExperts model(config);
        train::ScheduledAdamW optimizer("flow", model->parameters(), kSteps, kRate, 0);
        for (int64_t step = 0; step < kSteps; ++step) {
          const auto batch = digits_of(tasks::Split::train, uint64_t(seed * kSteps + step) * kBatch, kBatch);
          optimizer.step(model->loss(tokens_of(batch), batch.labels.squeeze(1)));
          const double before = double((losses.size() - 1) * kSeeds + size_t(seed));
          if (step % 10 == 0)
            report((before + double(step) / double(kSteps)) / double(kinds.size() * kSeeds), kind.name);
        }
        torch::NoGradGuard no_grad;
        torch::manual_seed(0);  // the same noise for all
        const auto test = digits_of(tasks::Split::test, 0, 360);
        double sum = 0;
        for (int64_t draw = 0; draw < kTests; ++draw)
          for (int64_t group = 0; group < 4; ++group) {  // quarters of the time, whatever the model's groups are
            const auto x1 = tokens_of(test), x0 = torch::randn_like(x1);
            const auto times = (double(group) + torch::rand({360})) / 4;
            const auto t = times.view({-1, 1, 1});
            const auto v = model->velocity(t * x1 + (1 - t) * x0, times, test.labels.squeeze(1));
            sum += (v - (x1 - x0)).square().mean().item<double>() / double(4 * kTests);
          }
        loss.values.push_back(sum);
      }
      table.rows.push_back({kind.name, std::to_string(kind.layers / kind.groups), loss.text()});
    }
    auto claims = std::vector{exceeds(losses[2], losses[1]), exceeds(losses[1], losses[0], 0.99)};
    claims[0].text = "4 groups of 2 layers better than 2 layers for all times";
    claims[1].text = "gated scores no worse than none, up to 1 %";
    return Finding{
        fmt::format(
            "Flow matching on digits of 8 x 8 pixels as 16 tokens, told their class: {} steps of {} "
            "samples at a rate of {:g}, {} seeds. A step of a group trains that group alone, so that each has a "
            "quarter of the samples.",
            kSteps, kBatch, kRate, kSeeds),
        {table},
        claims};
  };
  return {"time_experts",
          "Layers for intervals of time",
          {"layerwise_timestep_experts"},
          "at equal compute a step, groups of layers that serve intervals of time fit the flow better than one small "
          "model for all times; gated use of earlier scores does not harm.",
          run};
}

Experiment probes() {
  const auto run = [](const Report& report) {
    constexpr int64_t kSamples = 1293;
    struct Kind {
      std::string name, probe;
      int64_t queries;
    };
    const std::vector<Kind> kinds{{"mean", "mean", 1},
                                  {"multi_head, 8", "multi_head", 8},
                                  {"efficient, 8", "efficient", 8},
                                  {"efficient, 32", "efficient", 32}};
    std::vector<Figure> accuracy;
    for (const auto& kind : kinds) accuracy.push_back({kind.name, {}});
    Figure before{"overlap of untrained maps", {}}, after{"overlap of trained maps", {}};
    std::vector<int64_t> parameters(kinds.size());
    const auto task = tasks::make_task("digits");
    for (int64_t seed = 0; seed < kSeeds; ++seed) {
      VisionSpec spec;
      spec.labels = 0;
      spec.base.dim = 64, spec.base.heads = spec.base.kv_heads = 4, spec.base.head_dim = 16, spec.base.hidden = 128;
      spec.base.block = vision_block();
      spec.base.layers.resize(4);
      torch::manual_seed(seed);
      VisionTransformer encoder(vision_config(spec));
      train::MaskedImageOptions masked;
      masked.seed = uint64_t(seed);
      train::train_masked_images(encoder, *task, masked, [&](int64_t done, int64_t total) {
        report((double(seed) + 0.8 * double(done) / double(total)) / double(kSeeds), "encoder");
      });
      const auto features = [&](tasks::Split split) {
        torch::NoGradGuard no_grad;
        const auto batch = digits_of(split, 0, std::min(kSamples, task->size(split)));
        return probe::Features{encoder->forward(batch.inputs), batch.labels.squeeze(1)};
      };
      const auto train = features(tasks::Split::train), test = features(tasks::Split::test);
      for (size_t i = 0; i < kinds.size(); ++i) {
        torch::manual_seed(seed);
        const auto made = probe::make_feature_probe(kinds[i].probe, 64, 10, kinds[i].queries);
        const auto* efficient = dynamic_cast<probe::EfficientProbe*>(made.get());
        const bool watched = efficient && kinds[i].queries == 8;
        if (watched) before.values.push_back(probe::map_overlap(*efficient, test.tokens));
        probe::FeatureProbeOptions training;
        training.seed = uint64_t(seed);
        probe::train_probe(*made, train, training);
        if (watched) after.values.push_back(probe::map_overlap(*efficient, test.tokens));
        accuracy[i].values.push_back(probe::probe_accuracy(*made, test));
        parameters[i] = 0;
        for (const auto& p : made->parameters()) parameters[i] += p.numel();
      }
    }
    Table table{"", {"probe", "parameters", "accuracy"}, {}};
    for (size_t i = 0; i < kinds.size(); ++i)
      table.rows.push_back({kinds[i].name, std::to_string(parameters[i]), accuracy[i].text()});
    auto fewer = exceeds(before, after);
    fewer.text = "maps of queries overlap less after training";
    return Finding{
        fmt::format(
            "A vision transformer of 4 layers and 64 channels paints hidden patches of digits for 500 steps and "
            "is frozen; probes learn for {} steps at a rate of {:g} from {} training images. {} seeds.",
            probe::FeatureProbeOptions{}.steps, probe::FeatureProbeOptions{}.learning_rate, kSamples, kSeeds),
        {table},
        {exceeds(accuracy[2], accuracy[0]), exceeds(accuracy[3], accuracy[0]), reaches(accuracy[2], accuracy[1], 0.01),
         fewer}};
  };
  return {
      "probes",
      "Queries on frozen tokens",
      {"efficient_probing"},
      "queries without a map to keys read more than the mean, as much as a multi-head probe, with fewer parameters, "
      "and learn to look at different places.",
      run};
}

}  // namespace heed::results::vision
