// One row a task. Adding a task: its file, its test, its row here.
#include <functional>

#include "heed/error.h"
#include "heed/names.h"
#include "heed/tasks/task.h"
#include "tasks/niah.h"
#include "tasks/passkeys.h"
#include "tasks/recall_tasks.h"
#include "tasks/sequence_tasks.h"

namespace heed::tasks {
namespace {

using Kind = SequenceTask::Kind;
using Make = std::function<std::unique_ptr<Task>(const nlohmann::json&)>;

constexpr const char* kRuler = "RULER: What's the Real Context Size of Your Long-Context Language Models?";

RegistryRow row(const char* name, const char* family, const char* paper, int year, std::vector<Parameter> parameters) {
  RegistryRow row;
  row.name = name;
  row.kind = heed::Kind::task;
  row.family = family;
  row.paper = paper;
  row.year = year;
  row.patterns.causal_self = true;
  row.parameters = std::move(parameters);
  return row;
}

struct Entry {
  RegistryRow row;
  Make make;
};

template <class T, class... Args>
Make maker(Args... args) {
  return [=](const nlohmann::json& parameters) { return std::make_unique<T>(args..., parameters); };
}

const std::vector<Entry>& entries() {
  static const std::vector<Entry> table = {
      {row("niah_single", "retrieval", kRuler, 2024, NiahTask::parameters(false)), maker<NiahTask>("niah_single")},
      {row("niah_multikey", "retrieval", kRuler, 2024, NiahTask::parameters(true)), maker<NiahTask>("niah_multikey")},
      {row("passkeys", "retrieval", "arXiv 2410.10819", 2024, PasskeysTask::parameters()), maker<PasskeysTask>()},
      {row("kv_lookup", "retrieval", "How Long Can Open-Source LLMs Truly Promise on Context Length? (LongEval)", 2023,
           KvLookupTask::parameters()),
       maker<KvLookupTask>()},
      {row("assoc_recall", "recall", "Zoology: Measuring and Improving Recall in Efficient Language Models", 2023,
           AssocRecallTask::parameters()),
       maker<AssocRecallTask>()},
      {row("mqar", "recall", "Zoology: Measuring and Improving Recall in Efficient Language Models", 2023,
           MqarTask::parameters()),
       maker<MqarTask>()},
      {row("copy", "sequence", "", 0, SequenceTask::parameters(Kind::copy)), maker<SequenceTask>(Kind::copy)},
      {row("selective_copy", "sequence", "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023,
           SequenceTask::parameters(Kind::selective_copy)),
       maker<SequenceTask>(Kind::selective_copy)},
      {row("induction", "sequence", "In-context Learning and Induction Heads", 2022,
           SequenceTask::parameters(Kind::induction)),
       maker<SequenceTask>(Kind::induction)},
      {row("repeat", "sequence", "In-context Learning and Induction Heads", 2022,
           SequenceTask::parameters(Kind::repeat)),
       maker<SequenceTask>(Kind::repeat)},
  };
  return table;
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
  std::vector<std::string> known;
  for (const auto& entry : entries()) {
    if (entry.row.name == name) return entry.make(parameters);
    known.push_back(entry.row.name);
  }
  fail("unknown task '{}': {}", name, suggest(name, known));
}

std::unique_ptr<TextTask> make_text_task(std::string_view name, const nlohmann::json& parameters) {
  auto task = make_task(name, parameters);
  auto* text = dynamic_cast<TextTask*>(task.get());
  require(text, "task '{}' has tokens that are no text", name);
  (void)task.release();
  return std::unique_ptr<TextTask>(text);
}

}  // namespace heed::tasks
