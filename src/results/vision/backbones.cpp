// Whole models of images against each other, at equal parameters.
#include <fmt/format.h>

#include "heed/models/dual_cross.h"
#include "heed/models/medusa.h"
#include "heed/nn/rollout.h"
#include "results/model_figures.h"
#include "results/vision/experiments.h"
#include "tasks/birds.h"

namespace heed::results::vision {
namespace {

using torch::Tensor;

/// Cells [B, rows, columns] of which at least half is covered by `mask`, bool [B, height, width].
Tensor cells_of(const Tensor& mask, int64_t rows, int64_t columns) {
  return torch::adaptive_avg_pool2d(mask.to(torch::kFloat32).unsqueeze(1), {rows, columns}).squeeze(1) >= 0.5;
}

/// Intersection over union of a mask, bool [B, cells], and the cells where `values` [B, cells] are highest, as many as
/// the mask has.
double overlap_of_highest(const Tensor& values, const Tensor& mask) {
  const auto rank = values.argsort(1, true).argsort(1, false);
  const auto highest = rank < mask.sum(1, true);
  return (highest.logical_and(mask).sum(1).to(torch::kFloat64) / highest.logical_or(mask).sum(1)).mean().item<double>();
}

/// What `overlap_of_highest` is of values that know nothing.
double chance_overlap(const Tensor& mask) {
  torch::manual_seed(0);
  return overlap_of_highest(torch::rand({50 * mask.size(0), mask.size(1)}), mask.repeat({50, 1}));
}

}  // namespace

Experiment words() {
  const auto run = [](const Report& report) {
    Lesson lesson;
    lesson.task = "stripes";
    lesson.parameters = {{"noise", 1.5}};
    lesson.model.layers = 2, lesson.model.dim = 64, lesson.model.heads = 2, lesson.model.hidden = 96;
    lesson.training.steps = 600, lesson.training.batch = 32, lesson.training.learning_rate = 2e-3;
    lesson.samples = 512;
    // The first one's size is that of all.
    const Contest contest(lesson,
                          {on_backbone("words in patches", "transformer_in_transformer",
                                       {{"word", 2}, {"word_kernel", 3}, {"word_dim", 16}}),
                           on_backbone("vit", "vit")},
                          report);
    auto finding = finding_of(contest, {contest.better("words in patches", "vit")});
    finding.setup +=
        " 4 x 4 patches of 8 x 8 pixels, whose stripes are 2.5 to 4.2 pixels apart; words are 2 x 2 pixels, made from "
        "3 x 3. The vision transformer's channel mixers are wider by what the words cost.";
    return finding;
  };
  return {"words",
          "Words inside large patches",
          {"transformer_in_transformer"},
          "attention inside patches tells textures that one linear map of a patch does not, at equal parameters (arXiv "
          "2103.00112).",
          run};
}

Experiment skips() {
  const auto run = [](const Report& report) {
    auto lesson = segments(0.6);
    const auto net = [](const char* name, const char* reuse, int64_t exchanges) {
      return on_backbone(name, "cross_contextual_attention",
                         {{"reuse", reuse}, {"exchanges", exchanges}, {"depth", 1}});
    };
    auto figures = dice_of(lesson);
    // The first one's size is that of all.
    const Contest contest(lesson,
                          {net("both", "sum", 2), net("tokens exchanged", "none", 2),
                           net("weights used again", "sum", 0), net("plain skips", "none", 0)},
                          report, figures.inspect());
    const auto& plain = figures.of("plain skips", "Dice");
    std::vector<Claim> claims{reaches(figures.of("weights used again", "Dice"), plain, 0.005),
                              exceeds(figures.of("tokens exchanged", "Dice"), plain),
                              exceeds(figures.of("both", "Dice"), plain)};
    return Finding{contest.setup() +
                       " Dice is of the patches that shapes cover, told by the right name; claims compare it. Channel "
                       "mixers are wider where skips are plain, so that parameters are equal. A full trial takes blobs "
                       "of 64 x 64 pixels with noisy borders; here coloured shapes under noise, 16 x 16.",
                   {contest.table(), figures.table("How well the patches found cover the shapes")},
                   claims};
  };
  return {"skips",
          "Skips of a U-Net, under noise",
          {"cross_contextual_attention"},
          "the encoder's attention helps the decoder's, and global tokens help where contrast is low.",
          run};
}

Experiment one_body() {
  const auto run = [](const Report& report) {
    auto lesson = clutter();
    lesson.parameters = {{"side", 16}, {"patch", 2}, {"pieces", 3}};
    lesson.model.layers = 1, lesson.model.hidden = 64;
    lesson.training.steps = 800, lesson.training.learning_rate = 1e-3;
    const auto gated = [](const char* name, nlohmann::json settings) {
      settings["stages"] = 3;
      return on_backbone(name, "medusa_attention", settings);
    };
    // The digit's patches by the same task that asks for them.
    const auto task = std::shared_ptr<tasks::Task>(
        tasks::make_task("clutter", {{"side", 16}, {"patch", 2}, {"pieces", 3}, {"answer", "place"}}));
    constexpr int64_t kTests = 256, kStages = 2;  // the last stage has 2 x 2 cells
    std::vector<double> guesses(kStages);
    ModelFigures figures({"8 x 8 cells", "4 x 4"}, [&](train::TaskModel& model) {
      std::vector<double> overlaps(kStages, std::nan(""));
      auto* medusa = dynamic_cast<MedusaImpl*>(&model.module());
      if (medusa == nullptr) return overlaps;
      const auto batch = train::task_batch(*task, tasks::Split::test, 0, kTests);
      const auto mask = batch.labels.view({kTests, 8, 8}) > 0;
      const auto gates = medusa->gates(batch.inputs);
      for (size_t s = 0; s < size_t(kStages); ++s) {
        const int64_t side = 8 >> s;
        const auto cells = cells_of(mask, side, side).flatten(1);
        overlaps[s] = overlap_of_highest(gates[s].squeeze(2), cells);
        guesses[s] = chance_overlap(cells);
      }
      return overlaps;
    });
    const Contest contest(lesson,
                          {gated("a body a stage", {{"shared", false}, {"width", 4}}),
                           gated("one body", {{"width", 8}}), on_backbone("pyramid", "pyramid", {{"stages", 3}})},
                          report, figures.inspect());
    std::vector<Claim> claims{contest.as_good("one body", "pyramid", 0.01),
                              contest.better("one body", "a body a stage")};
    for (size_t s = 0; s < size_t(kStages); ++s) {
      const std::string stage = s == 0 ? "8 x 8 cells" : "4 x 4";
      claims.push_back(exceeds(figures.of("one body", stage), Figure{"a guess", {guesses[s]}}, 1.25));
      claims.back().text = fmt::format("gates of one body on {} agree with the digit, a quarter above a guess", stage);
    }
    auto overlaps = figures.table("Where gates are most open, and where the digit is: intersection over union");
    auto& guess = overlaps.rows.emplace_back(1, "a guess");
    for (const double g : guesses) guess.push_back(fmt::format("{:.3g}", g));
    return Finding{
        contest.setup() +
            " A digit among 3 pieces on 16 x 16 pixels; stages of 8 x 8, 4 x 4 and 2 x 2 cells. As many of the most "
            "open gates are looked at as the digit has cells; parameters are equal, by channel mixers of "
            "their own width.",
        {contest.table(), overlaps},
        claims};
  };
  return {"one_body",
          "One body, gates at all scales",
          {"medusa_attention"},
          "gates from one look at the whole image do not cost accuracy, do more than gates that look for themselves, "
          "and open where the object is (arXiv 2110.06063).",
          run};
}

Experiment branches() {
  const auto run = [](const Report& report) {
    Lesson lesson;
    lesson.task = "birds";
    lesson.model.layers = 3, lesson.model.dim = 64, lesson.model.heads = 4, lesson.model.hidden = 96;
    lesson.training.steps = 300, lesson.training.batch = 32, lesson.training.learning_rate = 1e-3;
    lesson.samples = 512;
    const auto dual = [](const char* name, bool local, bool pairs) {
      return on_backbone(name, "dual_cross_attention_learning", {{"local", local}, {"pairs", pairs}, {"share", 0.1}});
    };
    const tasks::BirdsTask birds(lesson.parameters);
    const auto batch = train::task_batch(birds, tasks::Split::test, 0, lesson.samples);
    auto deciding = torch::empty({lesson.samples, 1}, torch::kInt64);
    for (int64_t i = 0; i < lesson.samples; ++i)
      deciding[i][0] = birds.deciding_patch(birds.bird(tasks::Split::test, uint64_t(i)));
    ModelFigures figures({"mass on the spot's patch"}, [&](train::TaskModel& model) {
      nn::WeightTaps watched;
      dynamic_cast<DualCrossImpl&>(model.module()).vit->forward(batch.inputs, 0, &watched);
      const auto patches = nn::rollout_row(watched.maps, 0).slice(1, 1);  // behind the class token
      return std::vector{(patches.gather(1, deciding) / patches.sum(1, true)).mean().item<double>()};
    });
    const Contest contest(lesson,
                          {dual("self-attention", false, false), dual("with a local branch", true, false),
                           dual("with pairs", false, true), dual("both", true, true)},
                          report, figures.inspect());
    const auto mass = [&](const char* name) { return figures.of(name, "mass on the spot's patch"); };
    std::vector<Claim> claims;
    for (const char* name : {"with a local branch", "with pairs", "both"})
      claims.push_back(contest.better(name, "self-attention"));
    for (const char* name : {"with a local branch", "with pairs", "both"})
      claims.push_back(exceeds(mass(name), mass("self-attention")));
    return Finding{
        contest.setup() + fmt::format(" A spot of 2 x 2 pixels tells the species, one of 36 patches has it. The local "
                                      "branch asks again with a tenth of the patches. Mass is the share of attention "
                                      "rollout, from the class token through all layers, that this patch has among the "
                                      "patches; {:.3g} is a patch's share.",
                                      1 / 36.0),
        {contest.table(), figures.table("Where attention rollout leads")},
        claims};
  };
  return {"branches",
          "Branches beside self-attention, where one patch decides",
          {"dual_cross_attention_learning"},
          "asking again with what is looked at most, and being distracted in training, help to tell fine differences, "
          "and attention goes to what decides (arXiv 2205.02151).",
          run};
}

}  // namespace heed::results::vision
