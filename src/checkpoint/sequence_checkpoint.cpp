#include "heed/checkpoint/sequence_checkpoint.h"

#include "checkpoint/own_format.h"

namespace heed::checkpoint {
namespace {
constexpr int64_t kMostSequenceSizes = int64_t{1} << 24;
}  // namespace

void save_sequence_model(const std::filesystem::path& directory, SequenceModel& model, const nlohmann::json& notes) {
  const auto& c = model->config();
  const nlohmann::ordered_json heed{{"vocab_size", c.vocab_size}, {"channels", c.channels}, {"outputs", c.outputs},
                                    {"causal", c.causal},         {"bare", c.bare},         {"base", to_json(c)}};
  save_own(directory, kSequenceArchitecture, heed, notes, *model);
}

SequenceModel load_sequence_model(const std::filesystem::path& directory) {
  SequenceModel model{nullptr};
  load_own(directory, kSequenceArchitecture, [&](ConfigReader& reader) -> torch::nn::Module& {
    SequenceConfig c;
    c.vocab_size = reader.integer("vocab_size", c.vocab_size, 0, kMostSequenceSizes);
    c.channels = reader.integer("channels", c.channels, 0, kMostSequenceSizes);
    c.outputs = reader.integer("outputs", c.outputs, 1, kMostSequenceSizes);
    c.causal = reader.get("causal", c.causal);
    c.bare = reader.get("bare", c.bare);
    read_transformer(reader.object("base"), reader.owner() + ".base", c);
    model = SequenceModel(c);
    return *model;
  });
  return model;
}

}  // namespace heed::checkpoint
