// Tables classified in context, against neighbours and logistic regression.
#include <fmt/format.h>

#include <map>

#include "bench/units.h"
#include "heed/models/orion_msp.h"
#include "heed/nn/generator.h"
#include "heed/train/task_batch.h"
#include "results/sparse/experiments.h"
#include "results/timing.h"
#include "train/scheduled_adamw.h"

namespace heed::results::sparse {
namespace {

using torch::Tensor;

constexpr int64_t kShots = 32, kClasses = 3;

/// Tables of shots and of rows to be told.
struct Tables {
  Tensor cells;   ///< [B, T, m]
  Tensor labels;  ///< int64 [B, T]
  Tensor shots() const { return labels.narrow(1, 0, kShots); }
  Tensor asked() const { return labels.slice(1, kShots); }
};

Tensor standardized(const Tensor& cells) {
  const auto shots = cells.narrow(1, 0, kShots);
  return ((cells - shots.mean(1, true)) / (shots.std(1, true, true) + 0.1)).clamp(-5, 5);
}

/// Rows whose features and label are functions of a few hidden causes, other ones in each table.
Tables drawn_tables(int64_t count, int64_t rows, int64_t features, uint64_t seed) {
  const auto numbers = nn::seeded_generator(seed);
  const auto normal = [&](at::IntArrayRef sizes) { return torch::randn(sizes, numbers); };
  constexpr int64_t kCauses = 4, kWidth = 8;
  const auto causes = normal({count, rows, kCauses});
  const auto inner = torch::tanh(torch::matmul(causes, normal({count, kCauses, kWidth})));
  const auto cells = torch::matmul(inner, normal({count, kWidth, features})) + 0.3 * normal({count, rows, features});
  // Classes are thirds of a number that the causes make, in an order of the table's own.
  const auto number =
      torch::matmul(torch::tanh(torch::matmul(causes, normal({count, kCauses, kWidth}))), normal({count, kWidth, 1}))
          .squeeze(2);
  const auto rank = std::get<1>(std::get<1>(number.sort(1)).sort(1));
  const auto order = std::get<1>(torch::rand({count, kClasses}, numbers).sort(1));
  return {standardized(cells), order.gather(1, (rank * kClasses).div(rows, "floor"))};
}

/// Digits as rows of pixels: three digits a table, images of a split, as 16 means of four pixels or as 64 pixels.
Tables digit_tables(int64_t count, int64_t rows, bool whole) {
  static const auto task = tasks::make_task("digits");
  const auto all = train::task_batch(*task, tasks::Split::test, 0, task->size(tasks::Split::test));
  const auto pixels = (whole ? all.inputs : torch::avg_pool2d(all.inputs, 2)).flatten(1);
  const auto digits = all.labels.flatten();
  Tables tables{torch::empty({count, rows, pixels.size(1)}), torch::empty({count, rows}, torch::kInt64)};
  for (int64_t t = 0; t < count; ++t) {
    const auto numbers = nn::seeded_generator(uint64_t(t));
    const auto chosen = torch::randperm(10, numbers).narrow(0, 0, kClasses);
    const auto match = digits.unsqueeze(1) == chosen;  // [images, classes]
    const auto places = match.any(1).nonzero().squeeze(1);
    const auto taken = places.index_select(0, torch::randperm(places.size(0), numbers).narrow(0, 0, rows));
    tables.cells[t].copy_(pixels.index_select(0, taken));
    tables.labels[t].copy_(match.index_select(0, taken).to(torch::kInt64).argmax(1));
  }
  tables.cells = standardized(tables.cells);
  return tables;
}

double right_share(const Tensor& found, const Tensor& labels) {
  return (found == labels).to(torch::kFloat64).mean().item<double>();
}

/// The commonest label of the three nearest shots.
double by_neighbours(const Tables& t) {
  const auto apart = torch::cdist(t.cells.slice(1, kShots), t.cells.narrow(1, 0, kShots));
  const auto near = std::get<1>(apart.topk(3, 2, false));  // [B, asked, 3]
  const auto labels = t.shots().unsqueeze(1).expand({-1, near.size(1), -1}).gather(2, near);
  // The nearest one counts a little more, so that three different ones are decided.
  const auto weights = torch::tensor({1.1f, 1.0f, 1.0f}).expand(labels.sizes());
  const auto votes = torch::zeros({labels.size(0), labels.size(1), kClasses}).scatter_add_(2, labels, weights);
  return right_share(votes.argmax(2), t.asked());
}

/// Logistic regression on the shots of every table, with a penalty of 0.01 on squares.
double by_regression(const Tables& t) {
  auto weights = torch::zeros({t.cells.size(0), t.cells.size(2), kClasses}, torch::requires_grad()),
       bias = torch::zeros({t.cells.size(0), 1, kClasses}, torch::requires_grad());
  torch::optim::Adam adam({weights, bias}, torch::optim::AdamOptions(0.05));
  for (int step = 0; step < 300; ++step) {
    adam.zero_grad();
    const auto logits = torch::matmul(t.cells.narrow(1, 0, kShots), weights) + bias;
    const auto nats = torch::cross_entropy_loss(logits.flatten(0, 1), t.shots().flatten());
    // A table's own loss and penalty: the sum over tables of both.
    (double(t.cells.size(0)) * nats + 0.01 * weights.square().sum()).backward();
    adam.step();
  }
  torch::NoGradGuard no_grad;
  return right_share((torch::matmul(t.cells.slice(1, kShots), weights) + bias).argmax(2), t.asked());
}

double in_context(OrionMsp& model, const Tables& t) {
  torch::NoGradGuard no_grad;
  model->eval();
  return right_share(model->probabilities(t.cells, t.shots(), kClasses, 4).argmax(2), t.asked());
}

OrionConfig small_orion(bool sparse) {
  OrionConfig c;
  c.dim = 32, c.column_blocks = 1, c.inducing = 16, c.column_heads = 2;
  c.scales = sparse ? std::vector<int64_t>{1, 4} : std::vector<int64_t>{1};
  c.row_blocks = 2, c.row_heads = 4, c.window = sparse ? 4 : 1 << 20;
  c.latents = 8, c.memory_blocks = 1, c.icl_blocks = 3, c.icl_heads = 4, c.classes = kClasses;
  return c;
}

}  // namespace

Experiment tables() {
  const auto run = [](const Report& report) {
    constexpr int64_t kSteps = 400, kBatch = 12, kRows = kShots + 16, kTests = 48;
    constexpr double kRate = 1e-3;
    std::vector<OrionMsp> models;
    for (const bool sparse : {true, false}) {
      torch::manual_seed(0);
      auto& model = models.emplace_back(OrionMsp(small_orion(sparse)));
      train::ScheduledAdamW optimizer("tables", model->parameters(), kSteps, kRate, 0.01);
      model->train();
      for (int64_t step = 0; step < kSteps; ++step) {
        const auto drawn = drawn_tables(kBatch, kRows, 4 + step % 13, uint64_t(step) + 1000);
        const auto logits = model->forward(drawn.cells, drawn.shots());
        optimizer.step(torch::cross_entropy_loss(logits.flatten(0, 1), drawn.asked().flatten()));
        if (step % 10 == 0)
          report(0.45 * (double(models.size() - 1) + double(step) / double(kSteps)), sparse ? "sparse" : "dense");
      }
    }
    const std::vector<std::pair<const char*, Tables>> kinds{{"drawn, 12 features", drawn_tables(kTests, 96, 12, 7)},
                                                            {"digits, 16 features", digit_tables(kTests, 96, false)},
                                                            {"digits, 64 features", digit_tables(kTests, 96, true)}};
    Table table{"", {"tables", "orion_msp", "orion_msp, dense rows", "3 neighbours", "logistic regression"}, {}};
    std::map<std::string, std::vector<double>> scores;
    for (const auto& [name, drawn] : kinds) {
      report(0.9 + 0.02 * double(scores.size()), name);
      scores[name] = {in_context(models[0], drawn), in_context(models[1], drawn), by_neighbours(drawn),
                      by_regression(drawn)};
      table.rows.push_back({name});
      for (const double score : scores[name]) table.rows.back().push_back(fmt::format("{:.3g}", score));
    }
    Table times{"Time of a table of 96 rows", {"features", "orion_msp", "dense rows"}, {}};
    std::vector<double> gains;
    for (const int64_t features : {16, 64, 256}) {
      const auto wide = drawn_tables(1, 96, features, 9);
      std::vector<double> seconds;
      for (auto& model : models) seconds.push_back(cost_of([&] { model->forward(wide.cells, wide.shots()); }).seconds);
      gains.push_back(seconds[1] / seconds[0]);
      times.rows.push_back({std::to_string(features), bench::time_text(seconds[0]), bench::time_text(seconds[1])});
    }
    const auto figure = [&](const char* kind, size_t i, const char* who) {
      return share(fmt::format("{}, {}", who, kind), scores[kind][i], 64.0 * kTests);
    };
    std::vector<Claim> claims;
    for (const auto& kind : kinds) {
      claims.push_back(exceeds(figure(kind.first, 0, "orion_msp"), figure(kind.first, 2, "neighbours")));
      claims.push_back(exceeds(figure(kind.first, 0, "orion_msp"), figure(kind.first, 3, "logistic regression")));
    }
    claims.push_back(
        reaches(figure("digits, 64 features", 0, "orion_msp"), figure("digits, 64 features", 1, "dense rows"), 0.02));
    claims.push_back(holds("sparse rows take less time than dense ones at 256 features", gains.back() > 1,
                           fmt::format("{:.2f}x", gains.back())));
    return Finding{
        fmt::format("{} steps on {} tables each at a rate of {:g}, drawn from hidden causes, of 4 to 16 features and "
                    "{} labelled rows; "
                    "one block over columns, one a scale over rows, three over the table. Share of 64 rows a table "
                    "told right in {} tables of {} classes that training has not seen: drawn ones, and images of "
                    "digits as tables of pixels. Mean of 4 orders of features and classes; one seed.",
                    kSteps, kBatch, kRate, kShots, kTests, kClasses),
        {table, times},
        claims};
  };
  return {"tables",
          "Tables in context",
          {"orion_msp"},
          "pretrained on drawn tables, a model tells rows of new ones better than neighbours and logistic regression "
          "do; sparse rows at several scales are as good as dense ones, and faster in wide tables (arXiv 2511.02818). "
          "Iris, wine and breast cancer are replaced by the digits that come with heed.",
          run};
}

}  // namespace heed::results::sparse
