#include "results/learning.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "bench/units.h"
#include "heed/bench/compare_tasks.h"

namespace heed::results {
namespace {

double worst(tasks::Metric metric) {
  return tasks::more_is_better(metric) ? 0 : std::numeric_limits<double>::infinity();
}

std::optional<int64_t> state_bytes_of(train::TaskModel& model, const tasks::Task& task) {
  try {
    return model.state_bytes(train::task_batch(task, tasks::Split::valid, 0, 1));
  } catch (const Error&) {
    return {};
  }
}

std::unique_ptr<train::TaskModel> model_of(const Lesson& lesson, const tasks::Task& task, const Learner& learner,
                                           uint64_t seed, int64_t parameters) {
  if (lesson.make) return lesson.make(learner, seed);
  auto options = lesson.model;
  options.mixer = learner.mixer;
  options.settings = learner.settings;
  if (!learner.backbone.empty())
    options.backbone = learner.backbone, options.backbone_settings = learner.backbone_settings;
  if (!learner.block.empty()) options.block = learner.block;
  options.parameters = parameters;
  options.seed = seed;
  return train::make_task_model(task, options);
}

void freeze(torch::nn::Module& model, const std::vector<std::string>& names) {
  for (auto& parameter : model.named_parameters())
    for (const auto& name : names)
      if (parameter.key().find(name) != std::string::npos) parameter.value().set_requires_grad(false);
}

}  // namespace

void take_weights(torch::nn::Module& to, torch::nn::Module& from) {
  torch::NoGradGuard no_grad;
  const auto known = from.named_parameters();
  for (auto& parameter : to.named_parameters())
    if (const auto* same = known.find(parameter.key()); same != nullptr && same->sizes() == parameter.value().sizes())
      parameter.value().copy_(*same);
}

bool loss_is_no_number(const Error& error) { return std::string(error.what()).find("loss is") != std::string::npos; }

Learner plain(const std::string& mixer) { return {mixer, mixer, {}, {}, {}}; }

Learner variant(const std::string& name, const std::string& mixer, const nlohmann::json& settings) {
  return {name, mixer, {{mixer, settings}}, {}, {}};
}

Learner on_backbone(const std::string& name, const std::string& backbone, const nlohmann::json& settings) {
  return {name, "dense", {}, backbone, settings};
}

Contest::Contest(Lesson lesson, std::vector<Learner> learners, const Report& report, const Inspect& inspect)
    : lesson_(std::move(lesson)), learners_(std::move(learners)) {
  const auto task = tasks::make_task(lesson_.task, lesson_.parameters);
  std::vector<nlohmann::json> changes;
  for (const auto& [heading, change] : lesson_.beyond) changes.push_back(change);
  const auto beyond = train::tasks_beyond(lesson_.task, lesson_.parameters, changes);
  metric_ = task->face().metric;
  chance_ = task->metric_chance();
  const auto sample = train::task_batch(*task, tasks::Split::valid, 0, 1);
  positions_ = sample.positions(task->face());
  answers_ = sample.asked().numel();

  const double runs = double(learners_.size()) * double(lesson_.seeds);
  double done = 0;
  int64_t parameters = 0;
  for (const auto& learner : learners_) {
    auto& row = rows_.emplace_back();
    row.scores.resize(1 + beyond.size());
    for (int64_t seed = 0; seed < lesson_.seeds; ++seed, ++done) {
      const auto model = model_of(lesson_, *task, learner, static_cast<uint64_t>(seed), parameters);
      freeze(model->module(), learner.frozen);
      row.parameters = model->parameters();
      if (parameters == 0 && lesson_.equal_parameters) parameters = row.parameters;
      if (seed == 0) row.state_bytes = state_bytes_of(*model, *task);
      auto training = lesson_.training;
      training.seed = static_cast<uint64_t>(seed);
      try {
        const auto run = train::run_task(*model, *task, training, lesson_.samples, beyond, [&](const auto& step) {
          if (step.step % 10 == 0)
            report((done + double(step.step) / double(training.steps)) / runs,
                   fmt::format("{} seed {} loss {:.3f}", learner.name, seed, step.loss));
          return true;
        });
        row.tokens_per_second += run.tokens_per_second / double(lesson_.seeds);
        row.scores[0].push_back(run.score.score);
        for (size_t i = 0; i < beyond.size(); ++i) row.scores[i + 1].push_back(run.beyond[i]);
        if (inspect) inspect(learner, *model, *task);
      } catch (const Error& error) {
        // Sizes that do not fit have been refused above: what is left is a loss that is no number.
        require(loss_is_no_number(error), "{}", error.what());
        for (auto& scores : row.scores) scores.push_back(worst(metric_));
      }
    }
  }
}

const Contest::Row& Contest::row(const std::string& learner) const {
  for (size_t i = 0; i < learners_.size(); ++i)
    if (learners_[i].name == learner) return rows_[i];
  fail("{} is none of those compared", learner);
}

Figure Contest::scores(const std::string& learner, size_t beyond) const {
  Figure figure{beyond == 0 ? learner : fmt::format("{}, {}", learner, lesson_.beyond[beyond - 1].first),
                row(learner).scores[beyond]};
  if (const double p = figure.mean(); metric_ == tasks::Metric::accuracy)
    figure.error = std::sqrt(p * (1 - p) / double(lesson_.samples * answers_));
  return figure;
}

Claim Contest::judged(Claim claim, const Figure& learnt) const {
  // Accuracies of less than a twentieth of what there is to learn, or errors within a twentieth of a guess's.
  const bool more = tasks::more_is_better(metric_);
  const double bound = more ? chance_ + 0.05 * (1 - chance_) : 0.95 * chance_;
  if (more ? learnt.mean() < bound : learnt.mean() > bound) {
    claim.outcome = Outcome::undecided;
    claim.figures += fmt::format("; a guess has {:.3g}", chance_);
  }
  return claim;
}

Claim Contest::better(const std::string& one, const std::string& other, size_t beyond, double factor) const {
  const auto a = scores(one, beyond), b = scores(other, beyond);
  const bool more = tasks::more_is_better(metric_);
  auto claim = more ? exceeds(a, b, factor) : exceeds(b, a, factor);
  claim.text = factor == 1 ? fmt::format("{} better than {}", a.name, b.name)
                           : fmt::format("{} better than {} by a factor of {:g}", a.name, b.name, factor);
  claim.figures = fmt::format("{} against {}", a.text(), b.text());
  return judged(std::move(claim), a);
}

Claim Contest::as_good(const std::string& one, const std::string& other, double margin, size_t beyond) const {
  auto a = scores(one, beyond), b = scores(other, beyond);
  const auto figures = fmt::format("{} against {}", a.text(), b.text());
  if (!tasks::more_is_better(metric_))
    for (auto* figure : {&a, &b})
      for (auto& value : figure->values) value = -value;
  auto claim = reaches(a, b, margin);
  claim.text = fmt::format("{} as good as {}, up to {:.3g}", a.name, b.name, margin);
  claim.figures = figures;
  return judged(std::move(claim), scores(other, beyond));
}

std::optional<int64_t> Contest::state_bytes(const std::string& learner) const { return row(learner).state_bytes; }

double Contest::tokens_per_second(const std::string& learner) const { return row(learner).tokens_per_second; }

std::string Contest::setup() const {
  const auto& t = lesson_.training;
  const auto& m = lesson_.model;
  auto text = fmt::format(
      "`{}`{}: {} positions a sample. {}; {} steps of {} samples at a rate of {:g}, {} seed{}; "
      "scores: {}, on {} test samples (a guess: {:.3g}).",
      lesson_.task, lesson_.parameters.empty() ? "" : fmt::format(" {}", lesson_.parameters.dump()), positions_,
      lesson_.make ? lesson_.begins : fmt::format("{} layers of {} channels", m.layers, m.dim), t.steps, t.batch,
      t.learning_rate, lesson_.seeds, lesson_.seeds == 1 ? "" : "s", bench::metric_text(metric_), lesson_.samples,
      chance_);
  return text;
}

Table Contest::table() const {
  Table table{"", {"mixer", "score"}, {}};
  for (const auto& [heading, change] : lesson_.beyond) table.columns.push_back(heading);
  for (const auto* column : {"parameters", "state", "tokens/s"}) table.columns.push_back(column);
  for (size_t i = 0; i < learners_.size(); ++i) {
    const auto& r = rows_[i];
    std::vector<std::string> cells{learners_[i].name};
    for (const auto& scores : r.scores) cells.push_back(Figure{"", scores}.text());
    cells.push_back(std::to_string(r.parameters));
    cells.push_back(r.state_bytes ? bench::bytes_text(*r.state_bytes) : "-");
    cells.push_back(fmt::format("{:.0f}", r.tokens_per_second));
    table.rows.push_back(std::move(cells));
  }
  return table;
}

Finding finding_of(const Contest& contest, std::vector<Claim> claims) {
  return {contest.setup(), {contest.table()}, std::move(claims)};
}

}  // namespace heed::results
