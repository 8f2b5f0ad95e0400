// Models that learn one task side by side: parameters about equal where sizes can be chosen, equal steps, the same
// samples.
#pragma once

#include <map>

#include "heed/error.h"
#include "heed/results/experiment.h"
#include "heed/train/task_run.h"

namespace heed::results {

/// One of those compared. `name` is what tables and claims call it.
struct Learner {
  std::string name;
  std::string mixer;                               ///< of the registry; "a+b" puts them into layers in turn
  std::map<std::string, nlohmann::json> settings;  ///< configuration of a mixer, by its name
  std::string backbone;                            ///< of images; empty: the lesson's
  nlohmann::json backbone_settings = nlohmann::json::object();
  std::string block = {};                ///< of decoders and sequence models: formats::named_block; empty: the lesson's
  std::vector<std::string> frozen = {};  ///< parameters whose names hold one of these stay as they begin
};

/// A mixer called by its own name.
Learner plain(const std::string& mixer);
/// A mixer of the registry with settings, called `name`.
Learner variant(const std::string& name, const std::string& mixer, const nlohmann::json& settings);

/// A backbone of images with settings of its own, called `name`; its mixers are dense.
Learner on_backbone(const std::string& name, const std::string& backbone, const nlohmann::json& settings = {});

/// Copies the parameters of `from` that `to` has under the same name and in the same shape.
void take_weights(torch::nn::Module& to, torch::nn::Module& from);

/// Whether a training ended because its loss was no number any more.
bool loss_is_no_number(const Error& error);

struct Lesson {
  std::string task;
  nlohmann::json parameters = nlohmann::json::object();
  /// What else is tested after training: a heading, and the change of the parameters.
  std::vector<std::pair<std::string, nlohmann::json>> beyond;
  train::TaskModelOptions model;  ///< of all; mixer, parameters and seed are filled in
  train::TaskTrainOptions training;
  int64_t seeds = 3, samples = 256;
  bool equal_parameters = true;  ///< channel mixers are made as wide as it takes; false: all have the same width
  /// Makes the model of a learner, `begins` says how; default: drawn at random, as `model` says.
  std::function<std::unique_ptr<train::TaskModel>(const Learner&, uint64_t seed)> make;
  std::string begins;
};

/// Sees a model when its training is over.
using Inspect = std::function<void(const Learner&, train::TaskModel&, const tasks::Task&)>;

class Contest {
 public:
  /// Trains every learner `lesson.seeds` times. A training that diverges scores worst.
  Contest(Lesson lesson, std::vector<Learner> learners, const Report& report, const Inspect& inspect = {});

  /// Task, sizes, steps, rate and seeds in a sentence.
  std::string setup() const;
  /// Scores of all learners with parameters, state and speed, and of what lies beyond.
  Table table() const;

  /// Scores by learner; `beyond` from 1 counts what else is tested.
  Figure scores(const std::string& learner, size_t beyond = 0) const;
  /// Whether `one` scores better than `other`, by a factor where one is given. Nothing is decided where `one` has
  /// learnt no more than a guess knows.
  Claim better(const std::string& one, const std::string& other, size_t beyond = 0, double factor = 1) const;
  /// Whether `one` is no worse than `other` by more than the margin, in the task's metric. Nothing is decided where
  /// `other` has learnt no more than a guess knows.
  Claim as_good(const std::string& one, const std::string& other, double margin, size_t beyond = 0) const;
  std::optional<int64_t> state_bytes(const std::string& learner) const;
  double tokens_per_second(const std::string& learner) const;

 private:
  struct Row {
    int64_t parameters = 0;
    std::optional<int64_t> state_bytes;
    double tokens_per_second = 0;
    std::vector<std::vector<double>> scores;  ///< one list for the task and for each form beyond, one score a seed
  };
  const Row& row(const std::string& learner) const;
  Claim judged(Claim claim, const Figure& learnt) const;

  Lesson lesson_;
  std::vector<Learner> learners_;
  std::vector<Row> rows_;
  tasks::Metric metric_ = tasks::Metric::accuracy;
  double chance_ = 0;
  int64_t positions_ = 0, answers_ = 0;  ///< of a sample
};

/// Setup, table and claims of one contest.
Finding finding_of(const Contest& contest, std::vector<Claim> claims);

}  // namespace heed::results
