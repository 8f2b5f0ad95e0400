// The model that learns a task: a decoder, a model of images or a sequence model, as the task's face asks, with the
// mixers that are named.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "heed/models/decoder_lm.h"
#include "heed/train/task_batch.h"

namespace heed::train {

struct TaskModelOptions {
  std::string mixer = "dense";                     ///< of the registry; "a+b" puts them into layers in turn
  std::map<std::string, nlohmann::json> settings;  ///< configuration of a mixer, by its name
  int64_t layers = 2, dim = 64, heads = 4, hidden = 128;
  std::string block = "llama";   ///< of decoders and sequence models: a name of formats::named_block
  bool bare = false;             ///< of sequence models: blocks without norms and residuals
  std::string backbone = "vit";  ///< of images: a name of heed/models/vision_backbone.h
  nlohmann::json backbone_settings = nlohmann::json::object();
  std::string channel_mixer = "mlp";  ///< of images: a name of heed/models/channel_mixer.h
  int64_t parameters = 0;  ///< above 0: so many, by the width of the channel mixers, as near as its unit allows
  uint64_t seed = 0;       ///< of the weights
};

class TaskModel {
 public:
  virtual ~TaskModel() = default;
  /// Hidden states [B, P, dim] from which the answers are read.
  virtual torch::Tensor hidden(const TaskBatch& batch, uint64_t seed = 0) = 0;
  struct States {
    torch::Tensor tokens;  ///< the last states of all tokens, [B, N, dim]; of a model that has none, those of `hidden`
    torch::Tensor hidden;
  };
  virtual States states(const TaskBatch& batch, uint64_t seed = 0) {
    const auto read = hidden(batch, seed);
    return {read, read};
  }
  /// Hidden states [R, dim] -> [R, answer_width(face)].
  virtual torch::Tensor answers(const torch::Tensor& hidden) = 0;
  /// What training minimises: `loss`, the mean of the answers, unless the model has branches that `judge` tells the
  /// mean loss of, from answers to the same questions.
  virtual torch::Tensor training_loss(const torch::Tensor& loss,
                                      const std::function<torch::Tensor(const torch::Tensor& answers)>& judge) {
    return loss;
  }
  /// Whether training is to ask for `reward_loss`.
  virtual bool learns_by_reward() { return false; }
  /// The loss of what chooses by reward (policies of nn/ia_red2.h) in the last batch in training; `right` says which
  /// share of each sample's answers is right, [B], from states as `hidden` gives them.
  virtual torch::Tensor reward_loss(const std::function<torch::Tensor(const torch::Tensor& hidden)>& right) {
    return torch::zeros({});
  }
  virtual torch::nn::Module& module() = 0;
  /// Bytes that one sample leaves behind in the states of all layers. Throws heed::Error for a model without a step.
  virtual int64_t state_bytes(const TaskBatch& batch) = 0;
  /// A position sees no later one.
  virtual bool causal() const = 0;
  /// The decoder inside; null: the task asks for another model.
  virtual DecoderLm* decoder() { return nullptr; }
  /// Writes the model into a folder from which `load_task_model` reads it. Throws heed::Error for one that has no form
  /// in files. `notes`, of models that are no decoders, stand in config.json and change nothing.
  virtual void save(const std::filesystem::path& directory, const nlohmann::json& notes);

  int64_t parameters();
};

/// Numbers a model gives for an answer: classes, values, or the parameters of a law of events.
int64_t answer_width(const tasks::Face& face);

/// The mixers of "a+b". Throws heed::Error for an unknown name, with the nearest.
std::vector<std::string> mixers_of(const std::string& text);

/// A model for samples of `task`. Tasks whose next token is asked for get a decoder, images the backbone, all others
/// a sequence model that looks both ways where the task allows it and all mixers can. Throws heed::Error for
/// mixers that can't learn the task.
std::unique_ptr<TaskModel> make_task_model(const tasks::Task& task, const TaskModelOptions& options);
/// The model of a folder that TaskModel::save wrote, or any other decoder's. Throws heed::Error for what its loader
/// refuses, and for a model that is not for samples of `task`.
std::unique_ptr<TaskModel> load_task_model(const std::filesystem::path& directory, const tasks::Task& task);
/// A decoder that exists, as the model of a task whose next token is asked for.
std::unique_ptr<TaskModel> task_model_of(DecoderLm decoder);

}  // namespace heed::train
