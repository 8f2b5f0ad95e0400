// What windows of an image need to reach the rest of it: grids, routes, shifts, halos.
#include <fmt/format.h>

#include "results/vision/experiments.h"

namespace heed::results::vision {
namespace {

constexpr int64_t kCells = 81, kWindow = 3;  // of far_marks

Learner axes(const char* name, const char* which) {
  return variant(name, "multi_axis_attention", {{"size", kWindow}, {"axes", which}});
}

}  // namespace

Experiment windows() {
  const auto run = [](const Report& report) {
    const Contest contest(far_marks(),
                          {dense(), axes("block, block", "block"), axes("grid, grid", "grid"),
                           axes("block, grid", "both"), axes("grid, block", "grid_first")},
                          report);
    auto finding = finding_of(
        contest, {contest.better("block, grid", "block, block"), contest.better("block, grid", "grid, grid"),
                  contest.as_good("block, grid", "dense", 0.02), contest.as_good("block, grid", "grid, block", 0.01)});
    finding.setup +=
        " Blocks and grids have 3 x 3 cells; marks are 6 cells apart or more, and two colours make it a parity. Layers "
        "are named by what stands in them: two layers of blocks, two of grids, or of both in turn. A full trial takes "
        "the order of both on CIFAR; here it is tried on the marks.";
    return finding;
  };
  return {"windows",
          "Two marks in far windows",
          {"multi_axis_attention"},
          "blocks alone can't bring far marks together, blocks and grids can; blocks before grids are not worse than "
          "grids before blocks (arXiv 2204.01697).",
          run};
}

Experiment routes() {
  const auto run = [](const Report& report) {
    const auto routed = [](int64_t top) {
      return variant(fmt::format("{} of 9 regions", top), "bilevel_routing_attention",
                     {{"regions", kWindow}, {"top", top}});
    };
    const Contest contest(far_marks(), {dense(), axes("windows", "block"), routed(1), routed(2), routed(4)}, report);
    // Multiply-adds of a cell and a channel: two a key, one a place of the local kernel, one a region of the cell's.
    const auto cost = [](int64_t keys, bool routes) { return std::to_string(2 * keys + (routes ? 25 + 1 : 0)); };
    constexpr int64_t kRegion = kWindow * kWindow;
    Table work{"Multiply-adds a cell and channel, projections apart", {"mixer", "keys a cell", "multiply-adds"}, {}};
    const auto row = [&](const char* name, int64_t keys, bool routes) {
      work.rows.push_back({name, std::to_string(keys), cost(keys, routes)});
    };
    row("dense", kCells, false), row("windows", kRegion, false);
    row("1 of 9 regions", kRegion, true), row("2 of 9 regions", 2 * kRegion, true);
    row("4 of 9 regions", 4 * kRegion, true);
    return Finding{contest.setup() +
                       " Two marks are alike or not, 6 cells apart or more; windows and regions have 3 x 3 cells. "
                       "Routing counts a 5 x 5 convolution of values beside it. A full trial takes CIFAR in a pyramid, "
                       "too, which was not run.",
                   {contest.table(), work},
                   {contest.better("2 of 9 regions", "windows"), contest.better("2 of 9 regions", "1 of 9 regions"),
                    contest.as_good("2 of 9 regions", "dense", 0.02)}};
  };
  return {
      "routes",
      "Two marks in regions that find each other",
      {"bilevel_routing_attention"},
      "two regions a region, chosen by their means, solve what windows can't, at less than the cost of attention to "
      "all (arXiv 2303.08810).",
      run};
}

Experiment shifts() {
  const auto run = [](const Report& report) {
    Lesson lesson;
    lesson.task = "marks";
    lesson.parameters = {{"answer", "copy"}, {"side", 16}, {"colours", 4}};
    lesson.model.dim = 32, lesson.model.heads = 2, lesson.model.hidden = 64;
    lesson.training.steps = 250, lesson.training.batch = 16, lesson.training.learning_rate = 3e-3;
    lesson.samples = 128;
    const auto shifted = [](const char* name, const char* shift) {
      return variant(name, "double_window_attention", {{"size", 4}, {"shift", shift}});
    };
    Finding finding;
    for (const int64_t layers : {2, 3}) {
      lesson.model.layers = layers;
      const Contest contest(lesson, {shifted("half of the heads", "half"), shifted("every second layer", "alternate")},
                            report);
      finding.tables.push_back(contest.table());
      finding.tables.back().title = fmt::format("{} layers", layers);
      finding.claims.push_back(contest.better("half of the heads", "every second layer"));
      finding.claims.back().text += fmt::format(", {} layers", layers);
      finding.setup = contest.setup();
    }
    finding.setup +=
        " The first table is of 2 layers. Windows have 4 x 4 cells of 16 x 16, so that two or three layers do not "
        "carry the colour of the only mark to "
        "all cells: the score is the share that was reached, and a quarter of the rest. The impulse to the far corner "
        "is a test of the mixer: 7 layers for both, where layers begin with windows that are not shifted.";
    return finding;
  };
  return {"shifts",
          "Shifted windows in half of the heads, or in every second layer",
          {"double_window_attention"},
          "both sorts of windows in one layer carry things further than one after the other (arXiv 2112.10762).",
          run};
}

Experiment halos() {
  const auto run = [](const Report& report) {
    auto lesson = clutter();
    lesson.training.steps = 800;
    lesson.equal_parameters = false;
    const auto halo = [](int64_t cells) {
      return variant(fmt::format("halo {}", cells), "halo_attention", {{"block", 3}, {"halo", cells}});
    };
    const Contest contest(lesson, {plain("convolution"), halo(0), halo(1), halo(2)}, report);
    auto finding = finding_of(
        contest, {contest.as_good("halo 1", "convolution", 0.01), contest.as_good("halo 2", "convolution", 0.01),
                  contest.better("halo 1", "halo 0"), contest.better("halo 2", "halo 1")});
    finding.setup +=
        " 6 x 6 patches, blocks of 3 x 3; channel mixers are of one width, so that parameters differ. A full trial "
        "takes CIFAR, blocks of 4 and a residual network with batch norms; here the blocks around both are a "
        "transformer's.";
    return finding;
  };
  return {
      "halos",
      "Blocks with halos in the place of convolutions",
      {"halo_attention"},
      "attention of blocks with a halo has fewer parameters than 3 x 3 convolutions and is not below them, and wider "
      "halos are better (arXiv 2103.12731).",
      run};
}

}  // namespace heed::results::vision
