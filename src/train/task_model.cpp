#include "heed/train/task_model.h"

#include <fmt/format.h>

#include <cmath>

#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/checkpoint/image_checkpoint.h"
#include "heed/checkpoint/sequence_checkpoint.h"
#include "heed/error.h"
#include "heed/models/model_rows.h"
#include "heed/models/sequence.h"
#include "heed/models/vision_backbone.h"
#include "heed/names.h"
#include "heed/nn/ia_red2.h"
#include "heed/registry.h"
#include "train/event_law.h"

namespace heed::train {
namespace {

using tasks::Face;
using torch::Tensor;

const RegistryRow& row_of(const std::string& mixer) {
  std::vector<std::string> names;
  for (const auto& row : mixer_rows()) {
    if (row.name == mixer) return row;
    names.push_back(row.name);
  }
  for (const auto& row : model_rows())
    require(row.name != mixer, "{} is a whole model and no mixer that layers can have: see heed list --kind model",
            mixer);
  fail("unknown mixer {}: {}", mixer, suggest(mixer, names));
}

class DecoderTaskModel final : public TaskModel {
 public:
  explicit DecoderTaskModel(DecoderLm model) : model_(std::move(model)) {}
  Tensor hidden(const TaskBatch& batch, uint64_t seed) override { return model_->hidden(batch.inputs, nullptr, seed); }
  Tensor answers(const Tensor& hidden) override { return model_->logits(hidden); }
  torch::nn::Module& module() override { return *model_; }
  int64_t state_bytes(const TaskBatch& batch) override {
    torch::NoGradGuard no_grad;
    auto state = model_->make_state(1);
    model_->hidden(batch.inputs.narrow(0, 0, 1), &state);
    return state.bytes();
  }
  bool causal() const override { return true; }
  DecoderLm* decoder() override { return &model_; }
  void save(const std::filesystem::path& directory, const nlohmann::json&) override {
    checkpoint::save_decoder(directory, model_, torch::kFloat32);
  }

 private:
  DecoderLm model_;
};

class SequenceTaskModel final : public TaskModel {
 public:
  SequenceTaskModel(SequenceModel model, bool whole) : model_(std::move(model)), whole_(whole) {}

  Tensor hidden(const TaskBatch& batch, uint64_t seed) override { return states(batch, seed).hidden; }
  /// Of an answer for all of a sample: the mean of its positions where each sees everything, else the last one.
  States states(const TaskBatch& batch, uint64_t seed) override {
    const auto padding = batch.padding.defined() ? std::optional(batch.padding) : std::nullopt;
    const auto x = model_->forward(batch.inputs, causal() ? std::nullopt : padding, nullptr, seed);
    if (!whole_) return {x, x};
    const auto real = padding ? padding->logical_not() : torch::ones({x.size(0), x.size(1)}, torch::kBool);
    const auto count = real.sum(1);
    if (causal()) return {x, x.gather(1, (count - 1).view({-1, 1, 1}).expand({-1, 1, x.size(2)}))};
    const auto weights = real.to(x.scalar_type()) / count.unsqueeze(1);
    return {x, torch::bmm(weights.unsqueeze(1), x)};
  }
  Tensor answers(const Tensor& hidden) override { return model_->answers(hidden); }
  torch::nn::Module& module() override { return *model_; }
  int64_t state_bytes(const TaskBatch& batch) override {
    require(causal(), "a model that sees everything has no step");
    torch::NoGradGuard no_grad;
    auto state = model_->make_state(1);
    model_->forward(batch.inputs.narrow(0, 0, 1), {}, &state);
    return state.bytes();
  }
  bool causal() const override { return model_->config().causal; }
  void save(const std::filesystem::path& directory, const nlohmann::json& notes) override {
    checkpoint::save_sequence_model(directory, model_, notes);
  }

 private:
  SequenceModel model_;
  bool whole_;
};

class VisionTaskModel final : public TaskModel {
 public:
  explicit VisionTaskModel(checkpoint::ImageModel image)
      : image_(std::move(image)), model_(image_.model), policies_(nn::learning_policies(*model_)) {}
  Tensor hidden(const TaskBatch& batch, uint64_t seed) override {
    const auto found = model_->states(batch.inputs, seed);
    remember(batch, found);
    return found;
  }
  States states(const TaskBatch& batch, uint64_t seed) override {
    const auto found = model_->tokens_and_states(batch.inputs, seed);
    remember(batch, found.second);
    return {found.first, found.second};
  }
  Tensor answers(const Tensor& hidden) override { return model_->answers(hidden); }
  Tensor training_loss(const Tensor& loss, const std::function<Tensor(const Tensor&)>& judge) override {
    return model_->training_loss(loss, judge);
  }
  bool learns_by_reward() override { return !policies_.empty(); }
  /// Self-critical: what was drawn earns more or less than the greedy choice for the same images.
  Tensor reward_loss(const std::function<Tensor(const Tensor&)>& right) override {
    require(drawn_.defined(), "a loss of reward needs images in training");
    std::vector<nn::IaRed2::Choice> drawn;
    for (const auto& policy : policies_) drawn.push_back(policy->choice());
    Tensor greedy_right, drawn_right;
    {
      torch::NoGradGuard no_grad;
      drawn_right = right(drawn_);
      model_->eval();
      greedy_right = right(model_->states(pixels_, 0));
      model_->train();
    }
    auto loss = torch::zeros({});
    for (size_t p = 0; p < policies_.size(); ++p) {
      const auto& c = policies_[p]->config();
      const auto earned = nn::redundancy_reward(drawn[p].kept, drawn_right, c.penalty),
                 baseline = nn::redundancy_reward(policies_[p]->choice().kept, greedy_right, c.penalty);
      loss = loss + c.reward_weight * nn::policy_loss(drawn[p].log_likelihood, earned, baseline);
    }
    drawn_ = pixels_ = Tensor();
    return loss;
  }
  torch::nn::Module& module() override { return *model_; }
  int64_t state_bytes(const TaskBatch&) override { fail("a model of images has no step"); }
  bool causal() const override { return false; }
  void save(const std::filesystem::path& directory, const nlohmann::json& notes) override {
    checkpoint::save_image_model(directory, image_, notes);
  }

 private:
  void remember(const TaskBatch& batch, const Tensor& states) {
    if (policies_.empty() || !model_->is_training() || !torch::GradMode::is_enabled()) return;
    pixels_ = batch.inputs, drawn_ = states.detach();
  }

  checkpoint::ImageModel image_;
  std::shared_ptr<VisionBackbone> model_;
  std::vector<std::shared_ptr<nn::IaRed2>> policies_;
  Tensor pixels_, drawn_;  // the last images in training, and their states
};

/// Of the mixer at a place of names: what is set of its name, and above it what is set of NAME#k, the k-th of the name.
nlohmann::json settings_at(const TaskModelOptions& o, const std::vector<std::string>& names, size_t place) {
  const auto& name = names[place];
  const auto count = std::count(names.begin(), names.begin() + std::ptrdiff_t(place) + 1, name);
  auto settings = nlohmann::json::object();
  for (const auto& key : {name, name + "#" + std::to_string(count)})
    if (const auto found = o.settings.find(key); found != o.settings.end()) settings.update(found->second);
  return settings;
}

/// What all three kinds of models have in common.
void configure(TransformerConfig& config, const TaskModelOptions& o, int64_t length) {
  require(o.dim % o.heads == 0, "dim = {} is no multiple of heads = {}", o.dim, o.heads);
  config.dim = o.dim;
  config.heads = config.kv_heads = o.heads;
  config.head_dim = o.dim / o.heads;
  config.hidden = o.hidden;
  config.max_length = length;
  const auto names = mixers_of(o.mixer);
  for (int64_t l = 0; l < o.layers; ++l) {
    const auto place = size_t(l) % names.size();
    config.layers.push_back({names[place], settings_at(o, names, place)});
  }
}

/// The one of `names` that can't look in the direction that is asked for; empty: all can.
std::string unable(const std::vector<std::string>& names, bool causal) {
  for (const auto& name : names) {
    const auto& patterns = row_of(name).patterns;
    if (!(causal ? patterns.causal_self : patterns.noncausal_self)) return name;
  }
  return {};
}

/// Whether a sequence model for `face` is causal.
bool looks_back(const Face& face, const std::string& task, const TaskModelOptions& o) {
  const auto names = mixers_of(o.mixer);
  bool told = false;
  // Any other value than true or false is refused by the mixer, which knows its name.
  for (size_t place = 0; place < names.size(); ++place)
    told = told || settings_at(o, names, place).value("causal", nlohmann::json()) == true;
  const bool causal =
      face.sight == Face::Sight::past || (face.sight == Face::Sight::either && (told || !unable(names, false).empty()));
  const auto name = unable(names, causal);
  require(name.empty(), "{}: {} {}", task, name,
          causal ? "can't be kept from seeing what is still to come" : "sees the past alone, which has no answer");
  return causal;
}

/// Whether a decoder learns it.
bool asks_next_token(const Face& face) {
  return face.input == Face::Input::tokens && face.sight == Face::Sight::past && !face.whole &&
         face.answer == Face::Answer::classes;
}

std::unique_ptr<TaskModel> build(const Face& face, const std::string& task, const TaskModelOptions& o,
                                 int64_t positions) {
  torch::manual_seed(int64_t(o.seed));
  const bool decoder = asks_next_token(face);
  require(!o.bare || !(decoder || face.input == Face::Input::image), "{}: its models have no bare blocks", task);
  if (face.input == Face::Input::image) {
    const auto name = unable(mixers_of(o.mixer), false);
    require(name.empty(), "{}: {} sees the past alone, and patches have none", task, name);
    require(o.block == "llama", "{}: block = {} is of models of sequences; of images channel_mixer is accepted", task,
            o.block);
    VisionSpec spec;
    configure(spec.base, o, positions);
    spec.base.block = vision_block(o.channel_mixer);
    spec.image_height = face.height, spec.image_width = face.width, spec.channels = face.channels;
    spec.patch = face.patch;
    spec.labels = face.outputs;
    spec.dense = !face.whole;
    spec.settings = o.backbone_settings;
    return std::make_unique<VisionTaskModel>(checkpoint::ImageModel{o.backbone, spec, make_backbone(o.backbone, spec)});
  }
  if (decoder) {
    const auto name = unable(mixers_of(o.mixer), true);
    require(name.empty(), "{}: {} can't be kept from seeing what is still to come", task, name);
    DecoderConfig config;
    configure(config, o, positions);
    config.positions.kind = "rope";
    config.block = formats::named_block(o.block);
    config.vocab_size = std::max(face.vocabulary, face.outputs);
    return task_model_of(DecoderLm(config));
  }
  const bool tokens = face.input == Face::Input::tokens;
  SequenceConfig config;
  configure(config, o, positions);
  config.positions.kind = "rope";
  config.block = formats::named_block(o.block);
  (tokens ? config.vocab_size : config.channels) = tokens ? face.vocabulary : face.channels;
  config.outputs = answer_width(face);
  config.causal = looks_back(face, task, o);
  config.bare = o.bare;
  return std::make_unique<SequenceTaskModel>(SequenceModel(config), face.whole);
}

}  // namespace

int64_t TaskModel::parameters() {
  int64_t count = 0;
  for (const auto& parameter : module().parameters()) count += parameter.numel();
  return count;
}

int64_t answer_width(const Face& face) {
  return face.answer == Face::Answer::events ? event_law_width(face.outputs) : face.outputs;
}

std::vector<std::string> mixers_of(const std::string& text) {
  std::vector<std::string> names;
  for (size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find('+', begin), text.size());
    names.push_back(row_of(text.substr(begin, end - begin)).name);
    begin = end + 1;
  }
  return names;
}

std::unique_ptr<TaskModel> make_task_model(const tasks::Task& task, const TaskModelOptions& options) {
  const auto face = task.face();
  const int64_t positions = face.length ? face.length : task_batch(task, tasks::Split::valid, 0, 8).positions(face);
  auto model = build(face, task.name(), options, positions);
  if (options.parameters == 0) return model;
  auto wider = options;
  wider.hidden = options.hidden + 1;
  const int64_t count = model->parameters(), unit = build(face, task.name(), wider, positions)->parameters() - count;
  require(unit > 0, "{}: parameters = {}: a model without channel mixers has nothing whose width could be chosen",
          task.name(), options.parameters);
  wider.hidden = std::max<int64_t>(1, options.hidden + std::llround(double(options.parameters - count) / double(unit)));
  return build(face, task.name(), wider, positions);
}

void TaskModel::save(const std::filesystem::path& directory, const nlohmann::json&) {
  fail("{}: this model has no form in files", directory.string());
}

std::unique_ptr<TaskModel> load_task_model(const std::filesystem::path& directory, const tasks::Task& task) {
  const auto face = task.face();
  const bool image = face.input == Face::Input::image, decoder = asks_next_token(face);
  const auto name = std::filesystem::is_regular_file(directory) ? "a file" : checkpoint::architecture_of(directory);
  const bool own = name == checkpoint::kImageArchitecture || name == checkpoint::kSequenceArchitecture;
  const std::string accepted = decoder ? "a decoder"
                               : image ? checkpoint::kImageArchitecture
                                       : checkpoint::kSequenceArchitecture;
  require(decoder ? !own : name == accepted, "{}: {} does not fit {}: {} is accepted", directory.string(),
          name.empty() ? "a model of no architecture" : name, task.name(), accepted);
  const auto fits = [&](bool fit, const std::string& has, const std::string& wants) {
    require(fit, "{}: a model of {} does not fit {}, which has {}", directory.string(), has, task.name(), wants);
  };
  if (image) {
    auto model = checkpoint::load_image_model(directory);
    const auto& s = model.spec;
    const auto shape = [](int64_t channels, int64_t height, int64_t width, int64_t patch, int64_t outputs, bool dense) {
      return fmt::format("{} x {} x {} pixels in patches of {}, {} outputs {}", channels, height, width, patch, outputs,
                         dense ? "a patch" : "an image");
    };
    const auto has = shape(s.channels, s.image_height, s.image_width, s.patch, s.labels, s.dense),
               wants = shape(face.channels, face.height, face.width, face.patch, face.outputs, !face.whole);
    fits(has == wants, has, wants);
    return std::make_unique<VisionTaskModel>(std::move(model));
  }
  if (decoder) {
    auto model = checkpoint::load_decoder(directory);
    const int64_t held = model->config().vocab_size, wanted = std::max(face.vocabulary, face.outputs);
    fits(held >= wanted, fmt::format("{} tokens", held), fmt::format("{}", wanted));
    return task_model_of(std::move(model));
  }
  auto model = checkpoint::load_sequence_model(directory);
  const auto& c = model->config();
  const auto shape = [](int64_t vocabulary, int64_t channels, int64_t outputs) {
    return fmt::format("{} {} in and {} numbers out", vocabulary > 0 ? vocabulary : channels,
                       vocabulary > 0 ? "tokens" : "channels", outputs);
  };
  const bool tokens = face.input == Face::Input::tokens;
  const auto has = shape(c.vocab_size, c.channels, c.outputs),
             wants = shape(tokens ? face.vocabulary : 0, tokens ? 0 : face.channels, answer_width(face));
  fits(has == wants, has, wants);
  fits(face.sight != Face::Sight::past || c.causal, "sequences seen as a whole", "answers that these would give away");
  fits(face.sight != Face::Sight::all || !c.causal, "the past alone", "answers that what follows gives");
  return std::make_unique<SequenceTaskModel>(std::move(model), face.whole);
}

std::unique_ptr<TaskModel> task_model_of(DecoderLm decoder) {
  return std::make_unique<DecoderTaskModel>(std::move(decoder));
}

}  // namespace heed::train
