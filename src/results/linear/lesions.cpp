// Lesions among distractors, found by U-Nets whose blocks see more or less of the image.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "heed/train/task_trainer.h"
#include "results/learning.h"
#include "results/linear/experiments.h"
#include "tasks/baselines.h"
#include "tasks/learned_task.h"

namespace heed::results::linear {
namespace {

using torch::Tensor;

/// Ellipses, which are asked for, and rectangles of as large an area, turned and placed at random in noise. Of every
/// patch: does an ellipse cover half of it?
class Lesions final : public tasks::LearnedTask {
 public:
  static constexpr int64_t kSide = 64, kPatch = 4, kAcross = kSide / kPatch;
  static constexpr double kNoise = 0.25;

  Lesions() : LearnedTask("lesions") {}

  tasks::Face face() const override {
    tasks::Face face;
    face.input = tasks::Face::Input::image;
    face.sight = tasks::Face::Sight::all;
    face.channels = 1;
    face.height = face.width = kSide;
    face.patch = kPatch;
    face.outputs = 2;
    return face;
  }
  double chance() const override { return tasks::commonest_share(*this, tasks::Split::valid, 100); }

  tasks::Example example(tasks::Split split, uint64_t index) const override {
    auto random = random_of(split, index);
    const auto bodies = draw(random);
    tasks::Example sample;
    std::vector<int64_t> covered(size_t(kAcross * kAcross), 0);
    for (int64_t y = 0; y < kSide; ++y)
      for (int64_t x = 0; x < kSide; ++x) {
        double value = kNoise * random.normal();
        for (const auto& body : bodies)
          if (body.covers(double(y), double(x))) {
            value += 1;
            covered[size_t(y / kPatch * kAcross + x / kPatch)] += body.lesion;
          }
        sample.values.push_back(float(value));
      }
    for (const auto count : covered) sample.labels.push_back(2 * count >= kPatch * kPatch);
    return sample;
  }

 private:
  struct Body {
    bool lesion;
    double row, column, angle, half_length, half_width;

    bool covers(double y, double x) const {
      const double along = ((x - column) * std::cos(angle) + (y - row) * std::sin(angle)) / half_length,
                   across = ((y - row) * std::cos(angle) - (x - column) * std::sin(angle)) / half_width;
      return lesion ? along * along + across * across <= 1 : std::max(std::abs(along), std::abs(across)) <= 1;
    }
    double reach() const { return lesion ? half_length : std::hypot(half_length, half_width); }
  };

  /// One or two lesions, then two distractors; none touch.
  static std::vector<Body> draw(tasks::Random& random) {
    const auto within = [&](double low, double high) { return low + (high - low) * random.uniform(); };
    const int64_t lesions = random.between(1, 2), count = lesions + 2;
    std::vector<Body> bodies;
    for (int tries = 0; int64_t(bodies.size()) < count; ++tries) {
      if (tries == 100) bodies.clear(), tries = 0;
      Body body{int64_t(bodies.size()) < lesions, 0, 0, within(0, M_PI), within(7, 11), 0};
      body.half_width = within(0.6, 0.9) * body.half_length;
      // A rectangle of an ellipse's area has sides shorter by the root of pi / 4.
      const double shorter = body.lesion ? 1 : std::sqrt(M_PI) / 2;
      body.half_length *= shorter, body.half_width *= shorter;
      body.row = within(8, double(kSide) - 8), body.column = within(8, double(kSide) - 8);
      const auto touches = [&](const Body& other) {
        return std::hypot(body.row - other.row, body.column - other.column) < body.reach() + other.reach();
      };
      if (std::none_of(bodies.begin(), bodies.end(), touches)) bodies.push_back(body);
    }
    return bodies;
  }
};

constexpr int64_t kSteps = 1000, kBatch = 8, kSamples = 128, kLooks = 16;
constexpr uint64_t kSeeds = 3;
constexpr double kRate = 3e-3, kMass = 0.95;

/// Twice the overlap of what is found with what is there over the sum of both, in patches of the test images.
double dice(train::TaskModel& model, const tasks::Task& task) {
  torch::NoGradGuard no_grad;
  const auto test = train::task_batch(task, tasks::Split::test, 0, kSamples);
  const auto found = model.answers(model.hidden(test)).argmax(2).to(torch::kFloat64),
             there = test.labels.to(torch::kFloat64);
  return (2 * (found * there).sum() / (found.sum() + there.sum())).item<double>();
}

/// The least share of the pixels that hold kMass of the gradient of the middle patch's answer.
double field(train::TaskModel& model, const tasks::Task& task) {
  auto batch = train::task_batch(task, tasks::Split::test, 0, kLooks);
  batch.inputs.requires_grad_();
  const int64_t middle = Lesions::kAcross * Lesions::kAcross / 2 + Lesions::kAcross / 2;
  const auto answer = model.answers(model.hidden(batch)).select(1, middle);
  const auto pull = torch::autograd::grad({(answer.select(1, 1) - answer.select(1, 0)).sum()}, {batch.inputs})[0];
  const auto shares = std::get<0>(pull.abs().mean(0).flatten().sort(0, true));
  const auto held = shares.cumsum(0) / shares.sum();
  return (held < kMass).to(torch::kFloat64).mean().item<double>();
}

}  // namespace

Experiment lesions() {
  const auto run = [](const Report& report) {
    const Lesions task;
    const std::vector<Learner> learners{variant("SS2D", "ss2d", {{"state_dim", 4}}),
                                        variant("convolutions", "convolution", {{"kernel", 3}}),
                                        variant("windows", "multi_axis_attention", {{"axes", "block"}, {"size", 4}})};
    Table table{"", {"blocks of the U-Net", "Dice", "pixels that matter", "parameters"}, {}};
    std::map<std::string, Figure> scores, fields;
    int64_t parameters = 0;
    double done = 0;
    for (const auto& learner : learners) {
      auto &score = scores[learner.name], &seen = fields[learner.name];
      score.name = "Dice, " + learner.name, seen.name = "pixels that matter, " + learner.name;
      int64_t own = 0;
      for (uint64_t seed = 0; seed < kSeeds; ++seed, ++done) {
        train::TaskModelOptions options;
        options.mixer = learner.mixer, options.settings = learner.settings;
        options.backbone = "unet", options.backbone_settings = {{"scales", 2}};
        options.layers = 1, options.dim = 24, options.heads = 2, options.hidden = 48;
        options.parameters = parameters, options.seed = seed;
        const auto model = train::make_task_model(task, options);
        own = model->parameters();
        if (parameters == 0) parameters = own;
        train::TaskTrainOptions training;
        training.steps = kSteps, training.batch = kBatch, training.learning_rate = kRate, training.seed = seed;
        train::train_task(*model, task, training, [&](const auto& step) {
          if (step.step % 10 == 0)
            report((done + double(step.step) / double(kSteps)) / double(learners.size() * kSeeds),
                   fmt::format("{} seed {} loss {:.3f}", learner.name, seed, step.loss));
          return true;
        });
        model->module().eval();
        score.values.push_back(dice(*model, task));
        seen.values.push_back(field(*model, task));
      }
      table.rows.push_back({learner.name, score.text(), seen.text(), std::to_string(own)});
    }
    return Finding{
        fmt::format("Images of {0} x {0} pixels with one or two ellipses, the lesions, and two rectangles of as large "
                    "an area, in noise of deviation {1:g}; of every patch of {2} x {2}: is it a lesion? U-Nets of two "
                    "scales ({3} and {4} patches a side) and equal parameters whose three blocks have scans in four "
                    "directions, convolutions of 3 x 3, or attention in windows of 4 x 4 patches; "
                    "{5} steps of {6} at a rate of {7:g}, {8} seeds. Dice of patches on {9} test images, all of them "
                    "together. Pixels that matter: the least share of the image that holds {10:g} % of the gradient of "
                    "the middle patch's answer, over {11} images. The card asks for a mask of pixels; this is one of "
                    "patches. Time against the side of an image: see what one cell sees.",
                    Lesions::kSide, Lesions::kNoise, Lesions::kPatch, Lesions::kAcross, Lesions::kAcross / 2, kSteps,
                    kBatch, kRate, kSeeds, kSamples, 100 * kMass, kLooks),
        {table},
        {exceeds(fields["SS2D"], fields["convolutions"]), exceeds(fields["SS2D"], fields["windows"]),
         reaches(scores["SS2D"], scores["convolutions"], 0.01), reaches(scores["SS2D"], scores["windows"], 0.01),
         exceeds(scores["SS2D"], scores["windows"])}};
  };
  return {
      "lesions",
      "Lesions among distractors",
      {"ss2d"},
      "scans in four directions let a U-Net see more of an image than convolutions and windows do, and find lesions "
      "as well or better (arXiv 2406.03430, 2401.10166).",
      run};
}

}  // namespace heed::results::linear
