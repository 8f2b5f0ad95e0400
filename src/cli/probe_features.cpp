#include <fmt/format.h>

#include "cli/probe.h"
#include "heed/error.h"
#include "heed/models/vision_backbone.h"
#include "heed/probe/feature_probe.h"
#include "heed/train/masked_images.h"
#include "heed/train/task_batch.h"

namespace heed::cli {
namespace {

struct ProbeFeatures {
  Common common;
  std::string task = "digits";
  std::vector<std::string> task_settings, probes{"mean", "multi_head", "efficient"};
  std::vector<int64_t> queries{4, 8, 16, 32};
  int64_t layers = 4, dim = 64, heads = 4, shrink = 1, samples = 1293;
  train::MaskedImageOptions encoder;
  probe::FeatureProbeOptions training;
};

VisionTransformer encoder_of(const ProbeFeatures& o, const tasks::Face& face) {
  require(o.dim % o.heads == 0, "dim = {} is no multiple of heads = {}", o.dim, o.heads);
  VisionSpec spec;
  spec.image_height = face.height, spec.image_width = face.width, spec.channels = face.channels;
  spec.patch = face.patch;
  spec.labels = 0;
  spec.base.dim = o.dim, spec.base.heads = spec.base.kv_heads = o.heads, spec.base.head_dim = o.dim / o.heads;
  spec.base.hidden = 2 * o.dim;
  spec.base.block = vision_block();
  spec.base.layers.resize(size_t(o.layers));
  torch::manual_seed(int64_t(o.common.seed));
  return VisionTransformer(vision_config(spec));
}

probe::Features features_of(VisionTransformer& encoder, const tasks::Task& task, tasks::Split split, int64_t samples) {
  torch::NoGradGuard no_grad;
  if (const auto size = task.size(split); size > 0) samples = std::min(samples, size);
  const auto batch = train::task_batch(task, split, 0, samples);
  return {encoder->forward(batch.inputs), batch.labels.squeeze(1)};
}

void run(ProbeFeatures& o) {
  apply(o.common);
  const auto task = tasks::make_task(o.task, parse_settings(o.task_settings));
  const auto face = task->face();
  require(face.input == tasks::Face::Input::image && face.whole && face.answer == tasks::Face::Answer::classes,
          "--task {}: a task that names images is accepted", o.task);
  auto encoder = encoder_of(o, face);
  o.encoder.seed = o.training.seed = o.common.seed;
  std::unique_ptr<Progress> bar;
  const double painted = train::train_masked_images(encoder, *task, o.encoder, progress_bar(bar, "encoder"));
  bar.reset();
  const auto train = features_of(encoder, *task, tasks::Split::train, o.samples);
  const auto test = features_of(encoder, *task, tasks::Split::test, o.samples);
  nlohmann::ordered_json json{{"task", o.task}, {"masked_error", painted}, {"probes", nlohmann::ordered_json::array()}};
  for (const auto& name : o.probes) {
    for (const int64_t queries : name == "mean" ? std::vector<int64_t>{1} : o.queries) {
      torch::manual_seed(int64_t(o.common.seed));
      const auto probe = probe::make_feature_probe(name, o.dim, face.outputs, queries, o.shrink);
      probe::train_probe(*probe, train, o.training);
      int64_t parameters = 0;
      for (const auto& p : probe->parameters()) parameters += p.numel();
      nlohmann::ordered_json row{{"probe", name},
                                 {"queries", queries},
                                 {"parameters", parameters},
                                 {"accuracy", probe::probe_accuracy(*probe, test)}};
      if (const auto* efficient = dynamic_cast<probe::EfficientProbe*>(probe.get()))
        row["map_overlap"] = probe::map_overlap(*efficient, test.tokens);
      json["probes"].push_back(row);
    }
  }
  if (write_json(o.common, json.dump(1))) return;
  fmt::print("{}: an encoder paints hidden patches to {:.2f} of the pixels' variance; what probes read from it:\n",
             o.task, painted);
  fmt::print("  {:<12} {:>7} {:>11} {:>9} {:>12}\n", "probe", "queries", "parameters", "accuracy", "map overlap");
  for (const auto& row : json["probes"])
    fmt::print("  {:<12} {:>7} {:>11} {:>9.3f} {:>12}\n", row["probe"].get<std::string>(),
               row["queries"].get<int64_t>(), row["parameters"].get<int64_t>(), row["accuracy"].get<double>(),
               row.contains("map_overlap") ? fmt::format("{:.3f}", row["map_overlap"].get<double>()) : "-");
}

}  // namespace

void add_probe_features(CLI::App& probe) {
  auto o = std::make_shared<ProbeFeatures>();
  auto* command = probe.add_subcommand(
      "features",
      "what probes read from the frozen tokens of an encoder that has learned images without labels\n"
      "example: heed probe features --task digits --queries 8,32");
  command->add_option("--task", o->task, "a task that names images (default digits)");
  command->add_option("--task-set", o->task_settings, "parameters of the task, key=value");
  command->add_option("--probes", o->probes, "of mean, multi_head, efficient (default: all)")->delimiter(',');
  command->add_option("--queries", o->queries, "queries, or heads, of a probe (default 4,8,16,32)")
      ->delimiter(',')
      ->check(whole(1));
  command->add_option("--shrink", o->shrink, "values of the efficient probe have dim / shrink channels (default 1)")
      ->check(whole(1));
  command->add_option("--steps", o->training.steps, "of a probe (default 400)")->check(whole(1));
  command->add_option("--encoder-steps", o->encoder.steps, "of the encoder (default 500)")->check(whole(1));
  command->add_option("--masked", o->encoder.share, "share of hidden patches (default 0.6)")->check(number(0, 1));
  command->add_option("--layers", o->layers, "of the encoder (default 4)")->check(CLI::Range(1, 256));
  command->add_option("--dim", o->dim, "channels of the encoder (default 64)")->check(CLI::Range(1, 1 << 16));
  command->add_option("--heads", o->heads, "heads of the encoder (default 4)")->check(CLI::Range(1, 1 << 12));
  command->add_option("--samples", o->samples, "images a split (default 1293)")->check(CLI::Range(2, 1 << 24));
  add_seed(*command, o->common);
  add_threads(*command, o->common);
  add_json(*command, o->common);
  command->callback([o] { run(*o); });
}

}  // namespace heed::cli
