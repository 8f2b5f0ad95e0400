// One row a task. Adding a task: its file, its test, its row here.
#include <functional>

#include "heed/error.h"
#include "heed/names.h"
#include "heed/tasks/task.h"
#include "tasks/algo.h"
#include "tasks/birds.h"
#include "tasks/byte_lm.h"
#include "tasks/clutter.h"
#include "tasks/colorization.h"
#include "tasks/counting_tasks.h"
#include "tasks/digits.h"
#include "tasks/hawkes.h"
#include "tasks/icl_regression.h"
#include "tasks/lesions.h"
#include "tasks/listops.h"
#include "tasks/marks.h"
#include "tasks/niah.h"
#include "tasks/passkeys.h"
#include "tasks/recall_tasks.h"
#include "tasks/reset_sum.h"
#include "tasks/sequence_tasks.h"
#include "tasks/shapes.h"
#include "tasks/stripes.h"
#include "tasks/threading_tasks.h"
#include "tasks/ts_forecast.h"

namespace heed::tasks {
namespace {

using SequenceKind = SequenceTask::Kind;
using Make = std::function<std::unique_ptr<Task>(const nlohmann::json&, const TokenCount&)>;

constexpr const char* kThreading = "Needle Threading: Can LLMs Follow Threads through Near-Million-Scale Haystacks?";
constexpr const char* kRuler = "RULER: What's the Real Context Size of Your Long-Context Language Models?";

RegistryRow row(const char* name, const char* family, const char* paper, int year, std::vector<Parameter> parameters) {
  RegistryRow row;
  row.name = name;
  row.kind = heed::Kind::task;
  row.family = family;
  row.paper = paper;
  row.year = year;
  row.parameters = std::move(parameters);
  return row;
}

struct Entry {
  RegistryRow row;
  Make make;
};

template <class T, class... Args>
Make maker(Args... args) {
  return [=](const nlohmann::json& parameters, const TokenCount&) { return std::make_unique<T>(args..., parameters); };
}

/// Of a task whose samples are fitted to a number of tokens.
template <class T, class... Args>
Make fitted(Args... args) {
  return [=](const nlohmann::json& parameters, const TokenCount& tokens) {
    return std::make_unique<T>(args..., parameters, tokens);
  };
}

Entry niah(const char* name) {
  const NiahForm& form = NiahTask::form(name);
  return {row(name, "retrieval", kRuler, 2024, NiahTask::parameters(form)),
          [&form](const nlohmann::json& parameters, const TokenCount& tokens) {
            return std::make_unique<NiahTask>(form, parameters, tokens);
          }};
}

Entry threading(const char* name, ThreadingForm form) {
  return {row(name, "threading", kThreading, 2024, ThreadingTask::parameters(form)), fitted<ThreadingTask>(form)};
}

/// Of a task that is learned from examples alone.
template <class T>
Entry learned(const char* name, const char* family, const char* paper, int year) {
  return {row(name, family, paper, year, T::parameters()), maker<T>()};
}

const std::vector<Entry>& entries() {
  static const std::vector<Entry> table = {
      niah("niah_single"),
      niah("niah_multikey"),
      niah("niah_single_1"),
      niah("niah_single_2"),
      niah("niah_single_3"),
      niah("niah_multikey_1"),
      niah("niah_multikey_2"),
      niah("niah_multikey_3"),
      niah("niah_multivalue"),
      niah("niah_multiquery"),
      {row("passkey", "retrieval", "Landmark Attention: Random-Access Infinite Context Length for Transformers", 2023,
           PasskeyTask::parameters()),
       fitted<PasskeyTask>()},
      {row("vt", "tracking", kRuler, 2024, VariableTrackingTask::parameters()), fitted<VariableTrackingTask>()},
      {row("cwe", "counting", kRuler, 2024, CommonWordsTask::parameters()), fitted<CommonWordsTask>()},
      {row("fwe", "counting", kRuler, 2024, FrequentWordsTask::parameters()), fitted<FrequentWordsTask>()},
      {row("passkeys", "retrieval", "arXiv 2410.10819", 2024, PasskeysTask::parameters()), fitted<PasskeysTask>()},
      {row("kv_lookup", "retrieval", "How Long Can Open-Source LLMs Truly Promise on Context Length? (LongEval)", 2023,
           KvLookupTask::parameters()),
       fitted<KvLookupTask>()},
      threading("threading_single", ThreadingForm::single),
      threading("threading_multi", ThreadingForm::multi),
      threading("threading_conditional", ThreadingForm::conditional),
      threading("threading_thread", ThreadingForm::thread),
      threading("threading_multi_thread", ThreadingForm::multi_thread),
      threading("threading_branched", ThreadingForm::branched),
      {row("assoc_recall", "recall", "Zoology: Measuring and Improving Recall in Efficient Language Models", 2023,
           AssocRecallTask::parameters()),
       maker<AssocRecallTask>()},
      {row("mqar", "recall", "Zoology: Measuring and Improving Recall in Efficient Language Models", 2023,
           MqarTask::parameters()),
       maker<MqarTask>()},
      {row("copy", "sequence", "", 0, SequenceTask::parameters(SequenceKind::copy)),
       maker<SequenceTask>(SequenceKind::copy)},
      {row("selective_copy", "sequence", "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023,
           SequenceTask::parameters(SequenceKind::selective_copy)),
       maker<SequenceTask>(SequenceKind::selective_copy)},
      {row("induction", "sequence", "In-context Learning and Induction Heads", 2022,
           SequenceTask::parameters(SequenceKind::induction)),
       maker<SequenceTask>(SequenceKind::induction)},
      {row("repeat", "sequence", "In-context Learning and Induction Heads", 2022,
           SequenceTask::parameters(SequenceKind::repeat)),
       maker<SequenceTask>(SequenceKind::repeat)},
      learned<ListOpsTask>("listops", "reasoning", "ListOps: A Diagnostic Dataset for Latent Tree Learning", 2018),
      learned<AlgoTask>("algo", "reasoning",
                        "Positional Attention: Expressivity and Learnability of Algorithmic Computation", 2024),
      learned<ResetSumTask>("reset_sum", "sequence", "", 0),
      learned<ByteLmTask>("byte_lm", "text", "", 0),
      learned<IclRegressionTask>("icl_regression", "regression",
                                 "What Can Transformers Learn In-Context? A Case Study of Simple Function Classes",
                                 2022),
      learned<TsForecastTask>("ts_forecast", "regression", "", 0),
      learned<HawkesTask>("hawkes", "events", "Spectra of some self-exciting and mutually exciting point processes",
                          1971),
      learned<ShapesTask>("shapes", "image", "", 0),
      learned<ColorizationTask>("colorization", "image", "iColoriT (arXiv 2207.06831)", 2022),
      learned<DigitsTask>("digits", "image", "Cascading Classifiers (UCI Optical Recognition of Handwritten Digits)",
                          1998),
      learned<ClutterTask>("clutter", "image", "", 0),
      learned<MarksTask>("marks", "image", "", 0),
      learned<BirdsTask>("birds", "image", "", 0),
      learned<StripesTask>("stripes", "image", "", 0),
      learned<LesionsTask>("lesions", "image", "", 0),
  };
  return table;
}

std::unique_ptr<Task> make_fitted(std::string_view name, const nlohmann::json& parameters, const TokenCount& tokens) {
  std::vector<std::string> known;
  for (const auto& entry : entries()) {
    if (entry.row.name == name) return entry.make(parameters, tokens);
    known.push_back(entry.row.name);
  }
  fail("unknown task '{}': {}", name, suggest(name, known));
}

}  // namespace

std::span<const RegistryRow> task_rows() {
  static const std::vector<RegistryRow> rows = [] {
    std::vector<RegistryRow> result;
    for (const auto& entry : entries()) result.push_back(entry.row);
    return result;
  }();
  return rows;
}

std::unique_ptr<Task> make_task(std::string_view name, const nlohmann::json& parameters) {
  return make_fitted(name, parameters, byte_count);
}

std::unique_ptr<TextTask> make_text_task(std::string_view name, const nlohmann::json& parameters,
                                         const TokenCount& tokens) {
  auto task = make_fitted(name, parameters, tokens);
  auto* text = dynamic_cast<TextTask*>(task.get());
  require(text, "task '{}' has tokens that are no text", name);
  (void)task.release();
  return std::unique_ptr<TextTask>(text);
}

}  // namespace heed::tasks
