#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/mixer_text.h"
#include "cli/task_options.h"
#include "cli/train_small.h"
#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/error.h"
#include "heed/surgery/tiled_positions.h"
#include "heed/train/lm_data.h"

namespace heed::cli {
namespace {

struct TrainOptions {
  Common common;
  std::vector<std::string> text;
  std::string out, from, dtype = "float32", rope_scaling, block = "llama";
  std::vector<std::string> layer_mixers;
  std::string mixture = "text=1";
  int64_t batch = 8, context = 1024;
  std::vector<int64_t> curriculum;
  bool resume = false, reversible = false;
  DecoderConfig model;
  int64_t layers = 6;
  double rope_theta = 10000, rope_factor = 1;
  train::LmTrainOptions training;
};

/// `dense`, or `INDEX=NAME`, or `INDEX=NAME:{json}`; without an index: every layer.
void apply_mixer(DecoderConfig& config, const std::string& text) {
  const auto equals = text.find('=');
  const auto colon = text.find(':');
  const bool indexed = equals != std::string::npos && equals < colon;
  const auto plan = mixer_of(indexed ? text.substr(equals + 1) : text, "--mixer");
  if (!indexed) {
    for (auto& layer : config.layers) layer = plan;
    return;
  }
  char* stop = nullptr;
  const auto index = std::strtoll(text.c_str(), &stop, 10);
  require(stop == text.c_str() + equals && index >= 0 && index < int64_t(config.layers.size()),
          "--mixer {}: layer 0 to {} is accepted", text, config.layers.size() - 1);
  config.layers[size_t(index)] = plan;
}

DecoderLm make_model(TrainOptions& o) {
  auto& config = o.model;
  if (!o.from.empty()) {
    config = checkpoint::load_decoder(o.from)->config();
  } else {
    config.layers.assign(size_t(o.layers), {});
    config.block = formats::named_block(o.block);
    config.positions.kind = "rope";
    config.positions.rope.theta = o.rope_theta;
  }
  if (!o.rope_scaling.empty()) {
    auto& rope = config.positions.rope;
    rope.scaling = o.rope_scaling;
    rope.factor = o.rope_factor;
    rope.original_length = config.max_length;
  }
  for (const auto& mixer : o.layer_mixers) apply_mixer(config, mixer);
  if (o.reversible) {
    require(config.block.placement == formats::NormPlacement::pre,
            "--reversible of a model of placement {}: pre is accepted", name_of(config.block.placement));
    config.block.placement = formats::NormPlacement::reversible;
  }
  if (o.from.empty() || o.context > config.max_length) config.max_length = o.context;
  if (!o.from.empty()) surgery::lengthen_positions(config, o.context);
  torch::manual_seed(int64_t(o.common.seed));
  DecoderLm model(config);
  if (!o.from.empty()) {
    auto source = checkpoint::load_decoder(o.from);
    if (const auto untaken = surgery::take_weights(model, source); !untaken.empty())
      fmt::print("from {}: {}\n", o.from, untaken);
  }
  return model;
}

void run(TrainOptions& o) {
  apply(o.common);
  require(!std::filesystem::exists(o.out) || std::filesystem::is_directory(o.out), "{}: is no folder", o.out);
  require(o.dtype == "float32" || o.dtype == "bfloat16", "--dtype {}: float32 or bfloat16 is accepted", o.dtype);
  o.training.seed = o.common.seed;

  std::shared_ptr<const tasks::Corpus> corpus;
  if (!o.text.empty()) {
    std::vector<std::filesystem::path> inputs(o.text.begin(), o.text.end());
    corpus = std::make_shared<tasks::Corpus>(tasks::Corpus::read(inputs));
    const auto& report = corpus->report();
    fmt::print("text: {} documents, {:.1f} MB train, {:.1f} MB valid, {:.1f} MB test\n", report.documents,
               double(report.bytes[0]) / 1e6, double(report.bytes[1]) / 1e6, double(report.bytes[2]) / 1e6);
  }
  if (o.curriculum.empty()) o.curriculum = {o.context};
  o.context = *std::max_element(o.curriculum.begin(), o.curriculum.end());
  const train::Curriculum curriculum(o.mixture, corpus.get(), o.curriculum, o.batch, o.training.steps, o.common.seed);
  auto model = make_model(o);
  int64_t parameters = 0;
  for (const auto& p : model->parameters()) parameters += p.numel();
  fmt::print("model: {} layers, {} parameters, context {}\n", model->config().layers.size(), parameters, o.context);

  o.training.bfloat16 = o.dtype == "bfloat16";
  const auto save = [&](DecoderLm& trained) { checkpoint::save_decoder(o.out, trained, torch::kBFloat16); };
  const auto report = [&](const train::LmEvaluation& e) {
    std::string line = fmt::format("step {:>7}  loss {:.4f}  {:.0f} tokens/s", e.step, e.loss, e.tokens_per_second);
    if (corpus && corpus->evaluation_windows(tasks::Split::valid, o.context) > 0) {
      line += fmt::format("  valid {:.3f} bits/byte",
                          train::bits_per_byte(model, *corpus, tasks::Split::valid, o.context, 32));
    }
    fmt::print("{}\n", line);
    std::fflush(stdout);
  };
  o.training.out = o.out;
  o.training.resume = o.resume;
  train::train_lm(
      model, [&](int64_t step) { return curriculum.batch(step); }, o.training, save, report);
  fmt::print("written: {}\n", o.out);
}

/// The small model on which cache policies are compared: it learns to retrieve, and nothing else.
void add_ruler_tiny(CLI::App& train) {
  auto o = std::make_shared<TrainOptions>();
  o->layers = 4;
  o->model.dim = 128;
  o->model.heads = 8;
  o->model.kv_heads = 2;
  o->model.head_dim = 16;
  o->model.hidden = 352;
  o->mixture = "induction=1,assoc_recall=1,niah_single_1=1,niah_multikey_2=1";
  o->curriculum = {64, 128, 256, 512};
  o->training.steps = 4000;
  auto* ruler = train.add_subcommand(
      "ruler_tiny",
      "a byte model of 4 layers that learns to retrieve: induction, recall, niah_single_1 and niah_multikey_2, loss on "
      "the answers alone, contexts from 64 to 512\nexample: heed train ruler_tiny --out ruler-tiny && heed compare "
      "--policies --model ruler-tiny --task niah_single_1 --prompt 512");
  ruler->add_option("--out", o->out, "folder of the checkpoint")->check(writable_folder())->required();
  ruler->add_flag("--resume", o->resume, "go on where a stopped training in --out was");
  ruler->add_option("--curriculum", o->curriculum, "contexts in turn (default 64,128,256,512)")
      ->delimiter(',')
      ->check(CLI::Range(32, 1 << 24));
  ruler->add_option("--batch", o->batch, "sequences of the last context a step (default 8)")
      ->check(CLI::Range(1, 1 << 20));
  ruler->add_option("--steps", o->training.steps, "steps (default 4000)")->check(CLI::Range(1, 1 << 30));
  ruler->add_option("--lr", o->training.learning_rate, "peak learning rate (default 1e-3)")->check(positive());
  add_threads(*ruler, o->common);
  add_seed(*ruler, o->common);
  ruler->callback([o] { run(*o); });
}

}  // namespace

void add_train(CLI::App& app) {
  auto* command = app.add_subcommand("train",
                                     "train a model: a mechanism on a task, or one of the kinds below\n"
                                     "example: heed train --task mqar --mixer gla --steps 500");
  command->require_subcommand(0, 1);
  add_train_task(*command);
  auto options = std::make_shared<TrainOptions>();
  auto* lm = command->add_subcommand(
      "lm", "a byte language model on text and tasks\nexample: heed train lm --text book.txt --out my-lm --steps 2000");
  lm->add_option("--text", options->text, "files and folders of text");
  lm->add_option("--out", options->out, "folder of the checkpoint")->check(writable_folder())->required();
  auto* from = lm->add_option(
      "--from", options->from,
      "begin with the weights of this checkpoint; a table of learned positions is repeated for longer contexts");
  lm->add_flag("--resume", options->resume, "go on where a stopped training in --out was");
  lm->add_option("--mix", options->mixture,
                 "shares of text and tasks, as text=0.6,niah_single=0.2,repeat=0.2 (default text=1)");
  lm->add_option("--mixer", options->layer_mixers, "mixer of all layers (NAME, NAME:{json}) or of one (INDEX=NAME)");
  lm->add_option("--context", options->context, "tokens a sequence (default 1024)")->check(CLI::Range(8, 1 << 24));
  lm->add_option("--curriculum", options->curriculum,
                 "contexts in turn in place of --context, as 64,128,256,512: equal shares of the steps, tasks that do "
                 "not fit left out, as many tokens a step")
      ->delimiter(',')
      ->check(CLI::Range(8, 1 << 24));
  lm->add_option("--batch", options->batch, "sequences a step (default 8)")->check(CLI::Range(1, 1 << 20));
  lm->add_option("--steps", options->training.steps, "steps (default 1000)")->check(CLI::Range(1, 1 << 30));
  lm->add_option("--lr", options->training.learning_rate, "peak learning rate (default 1e-3)")->check(positive());
  lm->add_option("--warmup", options->training.warmup, "steps of warm-up (default 100)")->check(whole(0));
  lm->add_option("--final-rate", options->training.final_rate, "share of the peak at the end (default 0.1)")
      ->check(number(0, 1));
  lm->add_option("--weight-decay", options->training.weight_decay, "on matrices (default 0.1)")->check(number(0));
  lm->add_option("--clip", options->training.clip, "largest gradient norm (default 1; 0: none)")->check(number(0));
  lm->add_option("--save-every", options->training.save_every, "steps between checkpoints (default 200)")
      ->check(whole(1));
  lm->add_option("--eval-every", options->training.eval_every, "steps between reports (default 200)")->check(whole(1));
  lm->add_option("--dtype", options->dtype, "float32, or bfloat16 for the matrix products (default float32)");
  lm->add_option("--layers", options->layers, "layers (default 6)")->check(CLI::Range(1, 4096));
  lm->add_option("--dim", options->model.dim, "model width (default 256)")->check(CLI::Range(1, 1 << 20));
  lm->add_option("--heads", options->model.heads, "query heads (default 8)")->check(CLI::Range(1, 4096));
  lm->add_option("--kv-heads", options->model.kv_heads, "key and value heads (default 4)")->check(CLI::Range(1, 4096));
  lm->add_option("--head-dim", options->model.head_dim, "head size (default 32)")->check(CLI::Range(1, 4096));
  lm->add_option("--hidden", options->model.hidden, "width of the channel mixer (default 704)")
      ->check(CLI::Range(1, 1 << 20));
  add_block(*lm, options->block)->excludes(from);
  lm->add_flag("--reversible", options->reversible,
               "layers keep no activations for the backward, and have two residual streams (Reformer)");
  lm->add_option("--rope-theta", options->rope_theta, "RoPE base (default 10000)")->check(positive());
  lm->add_option("--rope-scaling", options->rope_scaling,
                 "stretch RoPE beyond the loaded checkpoint's context: linear, dynamic, yarn, llama3");
  lm->add_option("--rope-factor", options->rope_factor, "by how much (default 1)")->check(number(1, 1e6));
  add_threads(*lm, options->common);
  add_seed(*lm, options->common);
  lm->callback([options] { run(*options); });
  add_ruler_tiny(*command);
  add_speech(*command);
  add_world(*command);
}

}  // namespace heed::cli
