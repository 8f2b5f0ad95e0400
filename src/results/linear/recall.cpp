// Associative recall: what fits into a state.
#include <fmt/format.h>

#include "results/learning.h"
#include "results/linear/experiments.h"

namespace heed::results::linear {
namespace {

using nlohmann::json;

Lesson recall_lesson(int64_t length, int64_t pairs, int64_t steps) {
  Lesson lesson;
  lesson.task = "mqar";
  lesson.parameters = {{"vocabulary", 2 * length}, {"length", length}, {"pairs", pairs}};
  lesson.model.dim = 64, lesson.model.heads = 2, lesson.model.hidden = 128;
  lesson.training.steps = steps, lesson.training.batch = 32, lesson.training.learning_rate = 2e-3;
  return lesson;
}

/// A convolution lets a key meet its value; what is compared is the layer behind it, which remembers them.
Learner behind_conv(const std::string& name, const char* mixer, const json& settings = json::object()) {
  return Learner{name, std::string("base_conv+") + mixer, {{mixer, settings}}};
}

}  // namespace

Experiment recall_at_equal_state() {
  const auto run = [](const Report& report) {
    const Contest contest(
        recall_lesson(64, 16, 1600),
        {behind_conv("deltanet", "deltanet"),
         behind_conv("gla", "gla", {{"key_dim", 32}}),  // as many as the others have
         behind_conv("linear", "lightning_attention", {{"decay", false}}),
         behind_conv("dense", "dense"),
         {"delta rule, then a window", "deltanet+sliding_window", {{"sliding_window", {{"window", 8}}}}}},
        report);
    return finding_of(
        contest, {contest.better("deltanet", "gla"), contest.better("gla", "linear"),
                  contest.better("deltanet", "linear"), contest.as_good("delta rule, then a window", "dense", 0.05)});
  };
  return {"recall_at_equal_state",
          "Recall of the delta rule, of gates and of plain sums",
          {"deltanet", "gla", "lightning_attention"},
          "overwriting what a key held recalls more than gates or sums do with the same state; hybrids with attention "
          "match a transformer (arXiv 2406.06484).",
          run};
}

Experiment overwritten_keys() {
  const auto run = [](const Report& report) {
    auto lesson = recall_lesson(32, 4, 1000);
    lesson.parameters["overwrite"] = 4;
    const Contest contest(lesson,
                          {behind_conv("deltanet", "deltanet"), behind_conv("gla", "gla", {{"key_dim", 32}}),
                           behind_conv("linear", "lightning_attention", {{"decay", false}})},
                          report);
    return finding_of(contest, {contest.better("deltanet", "gla"), contest.better("deltanet", "linear"),
                                contest.better("gla", "linear")});
  };
  return {
      "overwritten_keys",
      "Recall of keys that were written twice",
      {"deltanet", "gla"},
      "the delta rule takes away what a key held before it writes; gates can only forget, sums not even that (arXiv "
      "2406.06484, 2312.06635).",
      run};
}

Experiment recall_and_state() {
  const auto run = [](const Report& report) {
    const std::vector<int64_t> key_dims{4, 8, 16, 24}, windows{16, 48};
    const auto taylor = [](int64_t key_dim) { return fmt::format("d' = {}", key_dim); };
    const auto window = [](int64_t tokens) { return fmt::format("window {}", tokens); };
    const auto least = key_dims.front(), most = key_dims.back();
    auto lesson = recall_lesson(64, 16, 600);
    lesson.seeds = 2;
    std::vector<Learner> memories;
    for (const auto tokens : windows)
      memories.push_back(behind_conv(window(tokens), "sliding_window", {{"window", tokens}, {"sinks", 0}}));
    for (const auto key_dim : key_dims)
      memories.push_back(behind_conv(taylor(key_dim), "based", {{"key_dim", key_dim}}));
    memories.push_back(behind_conv("softmax", "dense"));
    const Contest contest(lesson, memories, report);
    auto finding =
        finding_of(contest, {contest.better(window(48), window(16)), contest.as_good(taylor(8), taylor(least), 0),
                             contest.as_good(taylor(16), taylor(8), 0), contest.as_good(taylor(most), taylor(16), 0),
                             contest.better(taylor(most), window(16)), contest.as_good(taylor(most), "softmax", 0.05)});
    finding.setup +=
        " Behind a convolution every layer can tell what stood before a key, and what is compared is its memory.";
    return finding;
  };
  return {"recall_and_state",
          "Recall against the size of the state",
          {"based"},
          "Taylor features and short windows trade state for recall along a frontier that ends at softmax (arXiv "
          "2402.18668).",
          run};
}

Experiment lookups() {
  const auto run = [](const Report& report) {
    const auto lesson = recall_lesson(32, 4, 500);
    const Contest contest(lesson,
                          {behind_conv("dense", "dense"), behind_conv("aaren", "aaren"),
                           behind_conv("positional_attention", "positional_attention", {{"max_length", 32}})},
                          report);
    return finding_of(contest, {contest.better("dense", "aaren"), contest.better("dense", "positional_attention")});
  };
  return {"lookups",
          "Where attention must look at content",
          {"aaren", "positional_attention"},
          "queries that are the same for every token, or know places alone, can't look a key up (arXiv 2405.13956, "
          "2410.01686).",
          run};
}

Experiment recall_of_large_states() {
  const auto run = [](const Report& report) {
    const auto state = [](int64_t size) {
      return variant("`mamba2`, state " + std::to_string(size), "mamba2", {{"state_dim", size}, {"head_dim", 32}});
    };
    auto lesson = recall_lesson(32, 4, 3000);
    lesson.training.learning_rate = 5e-3;
    const Contest contest(lesson, {state(8), state(32), state(128)}, report);
    return finding_of(contest, {contest.better("`mamba2`, state 32", "`mamba2`, state 8"),
                                contest.as_good("`mamba2`, state 128", "`mamba2`, state 32", 0.01)});
  };
  return {"recall_of_large_states",
          "Larger states recall more",
          {"mamba2"},
          "recall rises with the state that chunks of matrix products make affordable (arXiv 2405.21060).",
          run};
}

Experiment neural_memory() {
  const auto run = [](const Report& report) {
    auto lesson = recall_lesson(32, 4, 600);
    lesson.training.learning_rate = 1e-3;
    lesson.seeds = 2;
    const auto memory = [](const char* name, const json& settings = json::object()) {
      return behind_conv(name, "titans_memory", settings);
    };
    const Contest contest(
        lesson,
        {memory("titans_memory"), memory("without momentum", {{"momentum", false}}),
         memory("without forgetting", {{"forgetting", false}}), memory("memories of one layer", {{"memory_layers", 1}}),
         behind_conv("linear", "lightning_attention", {{"decay", false}}), behind_conv("dense", "dense")},
        report);
    auto finding =
        finding_of(contest, {contest.better("titans_memory", "linear"), contest.as_good("titans_memory", "dense", 0.05),
                             contest.as_good("titans_memory", "without momentum", 0),
                             contest.as_good("titans_memory", "without forgetting", 0),
                             contest.as_good("titans_memory", "memories of one layer", 0)});
    finding.setup += " A score of 0 is a training that diverged.";
    return finding;
  };
  return {"neural_memory",
          "A memory that learns while it reads",
          {"titans_memory"},
          "a network trained on keys and values as they come recalls more than linear attention, and as much as full "
          "attention; momentum, forgetting and depth each help (arXiv 2501.00663).",
          run};
}

Experiment memory_and_attention() {
  const auto run = [](const Report& report) {
    auto lesson = recall_lesson(32, 4, 2500);
    lesson.parameters["power"] = 1.0;  // queries anywhere behind their pairs
    lesson.training.learning_rate = 1e-3;
    lesson.seeds = 2;
    // The tokens between are all alike: steps of up to 1 along one key in a chunk would overshoot without end.
    const auto layout = [](const char* name, const char* text) {
      return behind_conv(text, "titans", {{"layout", name}, {"window", 8}, {"chunk", 8}, {"largest_step", 0.4}});
    };
    const Contest contest(
        lesson,
        {layout("context", "MAC"), layout("gate", "MAG"), layout("layer", "MAL"), layout("memory", "memory alone"),
         layout("attention", "window alone"), behind_conv("dense", "dense")},
        report);
    return finding_of(contest, {contest.better("MAC", "window alone"), contest.better("MAG", "window alone"),
                                contest.better("MAL", "window alone"), contest.as_good("MAC", "dense", 0.05),
                                contest.as_good("MAC", "MAG", 0), contest.as_good("MAG", "MAL", 0)});
  };
  return {"memory_and_attention",
          "Three ways to join memory and attention",
          {"titans"},
          "far recall needs the memory; memory as context is at least as good as memory as gate, and that as memory as "
          "layer (arXiv 2501.00663).",
          run};
}

Experiment far_copies() {
  const auto run = [](const Report& report) {
    auto lesson = recall_lesson(64, 4, 1200);
    lesson.parameters["power"] = 1.0;  // queries anywhere behind their pairs
    lesson.seeds = 2;
    const Contest contest(lesson,
                          {behind_conv("combiner, spans of 4", "combiner", {{"span", 4}}),
                           behind_conv("blocks of 4", "diag_attention", {{"block", 4}}), behind_conv("dense", "dense")},
                          report);
    return finding_of(contest, {contest.better("combiner, spans of 4", "blocks of 4"),
                                contest.as_good("combiner, spans of 4", "dense", 0.05)});
  };
  return {"far_copies",
          "Recall across spans",
          {"combiner"},
          "a token that sees its span directly and others through their sums attends to everything; one that sees "
          "its span alone does not (arXiv 2107.05768).",
          run};
}

}  // namespace heed::results::linear
