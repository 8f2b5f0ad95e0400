// A softmax model that goes over to other mechanisms under its own eyes.
#include <fmt/format.h>

#include "heed/mixers/sea.h"
#include "results/learning.h"
#include "results/linear/experiments.h"

namespace heed::results::linear {
namespace {

using torch::Tensor;

/// A decoder that learns a task and to have the last states of a teacher; layers of sea learn the teacher's maps, too.
class Student final : public train::TaskModel {
 public:
  Student(std::unique_ptr<train::TaskModel> model, DecoderLm teacher)
      : model_(std::move(model)), teacher_(std::move(teacher)) {}

  Tensor hidden(const train::TaskBatch& batch, uint64_t seed) override {
    auto states = model_->hidden(batch, seed);
    if (torch::GradMode::is_enabled()) distance_ = distance(batch.inputs, states);
    return states;
  }
  Tensor answers(const Tensor& hidden) override { return model_->answers(hidden); }
  Tensor training_loss(const Tensor& loss, const std::function<Tensor(const Tensor&)>&) override {
    return loss + distance_;
  }
  torch::nn::Module& module() override { return model_->module(); }
  int64_t state_bytes(const train::TaskBatch& batch) override { return model_->state_bytes(batch); }
  bool causal() const override { return true; }
  DecoderLm* decoder() override { return model_->decoder(); }

 private:
  /// Softmax attention of a layer of the teacher, which has no positions.
  static SeaTeacher attention_of(TokenMixer& dense, const Tensor& x, int64_t heads) {
    const auto p = dense.named_parameters();
    const auto split = [&](const char* name) {
      return torch::matmul(x, p[name].t()).view({x.size(0), x.size(1), heads, -1}).transpose(1, 2);
    };
    const auto q = split("q_proj.weight"), k = split("k_proj.weight"), v = split("v_proj.weight");
    const auto later = torch::ones({x.size(1), x.size(1)}, torch::kBool).triu(1);
    const auto scores = torch::matmul(q, k.transpose(2, 3)) / std::sqrt(double(q.size(3)));
    const auto weights = torch::softmax(scores.masked_fill(later, -INFINITY), 3);
    return {weights, torch::matmul(weights, v)};
  }

  Tensor distance(const Tensor& tokens, const Tensor& states) {
    auto& student = *model_->decoder();
    const auto count = int64_t(student->blocks.size());
    const auto unlearned = [](const auto& make) {
      torch::NoGradGuard no_grad;
      return make();
    };
    MixerInput own, taught;
    own.x = student->embed(tokens);
    taught.x = unlearned([&] { return teacher_->embed(tokens); });
    auto sum = torch::mse_loss(states, unlearned([&] { return teacher_->hidden(tokens); }));
    for (int64_t l = 0; l < count && student->config().layers[size_t(l)].mixer == "sea"; ++l) {
      own.layer = taught.layer = {l, count};
      auto &block = student->blocks[size_t(l)], &shown = teacher_->blocks[size_t(l)];
      const auto softmax =
          unlearned([&] { return attention_of(*shown->mixer, shown->input_norm(taught.x), teacher_->config().heads); });
      auto normed = own;
      normed.x = block->input_norm(own.x);
      sum = sum + sea_distillation_loss(*block->mixer, normed, softmax);
      own.x = block->forward(own);
      taught.x = unlearned([&] { return shown->forward(taught); });
    }
    return sum;
  }

  std::unique_ptr<train::TaskModel> model_;
  DecoderLm teacher_;
  Tensor distance_;
};

/// KL of the student's next bytes from the teacher's, in bits a byte of test text.
double divergence(train::TaskModel& teacher, train::TaskModel& student, const tasks::Task& task) {
  constexpr int64_t kSamples = 64, kBatch = 16;
  torch::NoGradGuard no_grad;
  const auto log_p = [](train::TaskModel& model, const train::TaskBatch& batch) {
    model.module().eval();
    return torch::log_softmax(model.answers(model.hidden(batch, 0)), -1);
  };
  double sum = 0;
  for (int64_t first = 0; first < kSamples; first += kBatch) {
    const auto batch = train::task_batch(task, tasks::Split::test, uint64_t(first), kBatch);
    const auto p = log_p(teacher, batch), q = log_p(student, batch);
    sum += (p.exp() * (p - q)).sum(-1).mean().item<double>() * kBatch / kSamples;
  }
  return sum / std::log(2.0);
}

}  // namespace

Experiment estimated_map() {
  const auto run = [](const Report& report) {
    constexpr int64_t kFirst = 300, kAfter = 200;
    constexpr uint64_t kSeeds = 3;
    const auto task = tasks::make_task("byte_lm", {{"context", 128}});
    train::TaskModelOptions options;
    options.dim = 64, options.heads = 4, options.hidden = 128;
    train::TaskTrainOptions training;
    training.batch = 16, training.learning_rate = 3e-3;
    const nlohmann::json bare{{"positions", "none"}};
    const std::vector<Learner> students{
        variant("sea, 8 keys", "sea", {{"positions", "none"}, {"keys", 8}, {"columns", 32}, {"max_length", 128}}),
        variant("performer", "performer", bare),
        variant(
            "8 random keys", "bigbird",
            {{"positions", "none"}, {"block", 1}, {"window_blocks", 1}, {"global_blocks", 0}, {"random_blocks", 7}}),
        variant("the 8 nearest keys", "sliding_window", {{"positions", "none"}, {"window", 8}, {"sinks", 0}})};
    Finding finding;
    finding.setup = fmt::format(
        "A softmax model without positions, two layers of 64 channels, learns `byte_lm` in {} steps of 16 x 128 bytes. "
        "Its weights, as far as a mechanism has them, then go on for {} steps under another mechanism, whose loss is "
        "the task's and the squared distance from the teacher's last states; sea's layers add the distance of their "
        "maps and outputs from the teacher's. Rate {:g}; on test text the loss, and how far (KL, in bits a byte) the "
        "next bytes are from what the teacher expects; {} seeds.",
        kFirst, kAfter, training.learning_rate, kSeeds);
    std::map<std::string, Figure> bits, away;
    const double runs = double(kSeeds) * double(students.size() + 1);
    double done = 0;
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      options.seed = training.seed = seed;
      const auto learn = [&](train::TaskModel& model, int64_t steps, const std::string& name) {
        training.steps = steps;
        train::train_task(model, *task, training, [&](const train::TaskStep& step) {
          report((done + double(step.step) / double(steps)) / runs, name);
          return true;
        });
        ++done;
        bits[name].name = name;
        bits[name].values.push_back(train::score_task(model, *task, tasks::Split::test, 64).score);
      };
      options.mixer = "dense", options.settings = {{"dense", bare}};
      const auto teacher = train::make_task_model(*task, options);
      learn(*teacher, kFirst, "softmax");
      for (const auto& student : students) {
        options.mixer = student.mixer, options.settings = student.settings;
        Student model(train::make_task_model(*task, options), *teacher->decoder());
        take_weights(model.module(), teacher->module());
        learn(model, kAfter, student.name);
        away[student.name].name = student.name;
        away[student.name].values.push_back(divergence(*teacher, model, *task));
      }
    }
    Table table{"", {"mechanism", "bits a byte", "from the teacher"}, {}};
    table.rows.push_back({"softmax", bits["softmax"].text(), "0"});
    for (const auto& student : students)
      table.rows.push_back({student.name, bits[student.name].text(), away[student.name].text()});
    finding.tables.push_back(table);
    for (const auto& other : {"performer", "8 random keys", "the 8 nearest keys"}) {
      finding.claims.push_back(exceeds(away[other], away["sea, 8 keys"]));
      finding.claims.back().text = fmt::format("sea is closer to softmax than {}", other);
    }
    return finding;
  };
  return {
      "estimated_map",
      "Exact attention to estimated keys",
      {"sea"},
      "a softmax model goes over to a linear-cost map of the keys that matter, and stays close to itself where linear "
      "attention or random keys do not (arXiv 2310.01777).",
      run};
}

}  // namespace heed::results::linear
