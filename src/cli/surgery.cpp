#include "cli/surgery.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/dtype.h"
#include "cli/probe.h"
#include "heed/assets.h"
#include "heed/bench/qkv_source.h"
#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/error.h"
#include "heed/surgery/echo_training.h"
#include "heed/tasks/corpus.h"
#include "heed/train/lm_data.h"

namespace heed::cli {
namespace {

struct EchoAtt {
  Common common;
  std::string model, out, blocks, dtype = "bfloat16";
  std::vector<std::string> text;
  surgery::BlockChoice choice;
  surgery::EchoTraining training;
  std::vector<double> weights{1, 1, 1};
  int64_t samples = 8;
  bool compare = false;
};

nlohmann::json matrix(const torch::Tensor& similarity) {
  auto rows = nlohmann::json::array();
  for (int64_t l = 0; l < similarity.size(0); ++l) {
    const auto row = similarity[l].contiguous();
    rows.push_back(std::vector<double>(row.data_ptr<double>(), row.data_ptr<double>() + row.numel()));
  }
  return rows;
}

void print_similarity(const surgery::MapSimilarity& s) {
  fmt::print("similarity of attention maps; below the diagonal without the first token's column\n{:>6}", "layer");
  const int64_t layers = s.whole.size(0);
  for (int64_t l = 0; l < layers; ++l) fmt::print(" {:>5}", l);
  fmt::print("\n");
  for (int64_t a = 0; a < layers; ++a) {
    fmt::print("{:>6}", a);
    for (int64_t b = 0; b < layers; ++b)
      fmt::print(" {:>5.2f}", (b >= a ? s.whole : s.without_first)[a][b].item<double>());
    fmt::print("\n");
  }
}

surgery::MapSimilarity similarity_of(const EchoAtt& o, checkpoint::LanguageModel& lm, const tasks::Corpus& corpus) {
  std::vector<torch::Tensor> texts;
  for (int64_t i = 0; i < o.samples; ++i)
    texts.push_back(
        train::text_batch(lm.tokenizer, corpus, tasks::Split::train, i, 1, o.training.context, ~o.common.seed).tokens);
  std::unique_ptr<Progress> bar;
  return surgery::map_similarity(lm.model, texts, progress_bar(bar, "similarity"));
}

void compare(EchoAtt& o, const checkpoint::LanguageModel& lm, const surgery::MapSimilarity& similarity,
             const tasks::Corpus& corpus) {
  const double original = surgery::valid_nats(lm, lm.model, corpus, o.training);
  const auto scores = surgery::compare_blocks(lm, similarity.whole, o.choice, corpus, o.training);
  nlohmann::ordered_json json{{"model", o.model}, {"nats", original}, {"similarity", matrix(similarity.whole)}};
  for (const auto& s : scores)
    json["choices"].push_back({{"choice", s.choice},
                               {"blocks", surgery::to_string({s.block})},
                               {"similarity", s.similarity},
                               {"converted_nats", s.converted},
                               {"distilled_nats", s.distilled}});
  if (write_json(o.common, json.dump(1))) return;
  print_similarity(similarity);
  fmt::print("\nnats a token, split valid: {:.4f} as it was\n{:<14} {:>7} {:>11} {:>10} {:>10}\n", original,
             "one block", "layers", "similarity", "converted", "distilled");
  for (const auto& s : scores)
    fmt::print("{:<14} {:>7} {:>11.3f} {:>10.4f} {:>10.4f}\n", s.choice, surgery::to_string({s.block}), s.similarity,
               s.converted, s.distilled);
}

void convert(EchoAtt& o, const checkpoint::LanguageModel& lm, const surgery::MapSimilarity& similarity,
             const tasks::Corpus& corpus) {
  const auto blocks =
      o.blocks.empty() ? surgery::similar_blocks(similarity.whole, o.choice) : surgery::parse_blocks(o.blocks);
  auto original = lm.model;
  auto student = surgery::share_attention(original, blocks);
  const double before = surgery::valid_nats(lm, original, corpus, o.training),
               converted = surgery::valid_nats(lm, student, corpus, o.training);
  surgery::train_echo(lm, student, blocks, corpus, o.training);
  const bool trained = o.training.distill_steps + o.training.text_steps > 0;
  const double after = trained ? surgery::valid_nats(lm, student, corpus, o.training) : converted;
  if (!o.out.empty()) checkpoint::save_decoder_like(o.out, student, o.model, parse_dtype(o.dtype));
  const nlohmann::ordered_json json{{"model", o.model},
                                    {"out", o.out},
                                    {"blocks", surgery::to_string(blocks)},
                                    {"parameters", {parameters_of(original), parameters_of(student)}},
                                    {"nats", before},
                                    {"converted_nats", converted},
                                    {"distilled_nats", after},
                                    {"similarity", matrix(similarity.whole)},
                                    {"similarity_without_first", matrix(similarity.without_first)}};
  if (write_json(o.common, json.dump(1))) return;
  print_similarity(similarity);
  fmt::print("\nlayers that share a map: {}; parameters {} -> {}\n",
             blocks.empty() ? fmt::format("none ({:.2f} is asked)", o.choice.least) : surgery::to_string(blocks),
             parameters_of(original), parameters_of(student));
  fmt::print("nats a token, split valid: {:.4f} as it was, {:.4f} converted, {:.4f} distilled\n", before, converted,
             after);
  if (!o.out.empty()) fmt::print("written: {}\n", o.out);
}

void run(EchoAtt& o) {
  apply(o.common);
  parse_dtype(o.dtype);
  require(o.compare || !o.out.empty(), "--out FOLDER, or --compare, is needed");
  if (o.model.empty()) o.model = find_asset("tiny-lm").string();
  o.training.seed = o.common.seed;
  o.training.weights = {o.weights[0], o.weights[1], o.weights[2]};
  auto lm = checkpoint::load_language_model(o.model);
  if (o.text.empty()) o.text = {tasks::default_text().string()};
  const auto corpus = tasks::Corpus::read({o.text.begin(), o.text.end()});
  const auto similarity = similarity_of(o, lm, corpus);
  o.compare ? compare(o, lm, similarity, corpus) : convert(o, lm, similarity, corpus);
}

}  // namespace

int64_t parameters_of(const DecoderLm& model) {
  int64_t count = 0;
  for (const auto& p : model->parameters()) count += p.numel();
  return count;
}

void add_surgery(CLI::App& app) {
  auto* command = app.add_subcommand("surgery", "rewrite a checkpoint: checkpoint in, checkpoint out");
  command->require_subcommand(1);
  add_surgery_axformer(*command);
  add_surgery_landmarks(*command);
  auto o = std::make_shared<EchoAtt>();
  auto* echo = command->add_subcommand(
      "echo_att",
      "consecutive layers that attend alike share one attention map; the others lose their q and k, and the model is "
      "distilled (EchoAtt)\nexample: heed surgery echo_att --text book.txt --out shared --first 1 --last 1 --least "
      "0.5");
  echo->add_option("--model", o->model, "folder of the checkpoint (default: the shipped one)");
  echo->add_option("--out", o->out, "folder of the new one")->check(writable_folder());
  echo->add_option("--text", o->text, "files and folders of text (default: a text that the system has)");
  echo->add_option("--blocks", o->blocks, "layers that share a map, as 2-3,4-6 (default: by similarity)");
  echo->add_option("--first", o->choice.first, "first layers that are left alone (default 2)")->check(whole(0));
  echo->add_option("--last", o->choice.last, "and last ones (default 2)")->check(whole(0));
  echo->add_option("--size", o->choice.size, "layers of a block (default 2)")->check(CLI::Range(2, 4096));
  echo->add_option("--least", o->choice.least, "mean similarity of a block that shares its map (default 0.9)")
      ->check(number(-1, 1));
  echo->add_option("--samples", o->samples, "texts for the similarity (default 8)")->check(CLI::Range(1, 1 << 20));
  echo->add_option("--steps", o->training.distill_steps, "of distillation (default 200)")->check(whole(0));
  echo->add_option("--text-steps", o->training.text_steps, "then of ordinary training on the text (default 0)")
      ->check(whole(0));
  echo->add_option("--batch", o->training.batch, "texts a step (default 8)")->check(CLI::Range(1, 1 << 20));
  echo->add_option("--context", o->training.context, "tokens of a text (default 256)")->check(CLI::Range(2, 1 << 24));
  echo->add_option("--lr", o->training.learning_rate, "peak learning rate (default 5e-4)")->check(positive());
  echo->add_option("--weights", o->weights, "of labels, KL and hidden states in the distillation (default 1,1,1)")
      ->delimiter(',')
      ->expected(3)
      ->check(number(0));
  echo->add_option("--windows", o->training.windows, "of the valid split that are scored (default 32)")
      ->check(whole(1));
  echo->add_flag("--compare", o->compare,
                 "what one block costs: the most and the least similar inner one, and the first layers");
  echo->add_option("--dtype", o->dtype, "of the new weights: float32, bfloat16 or float16 (default bfloat16)");
  add_seed(*echo, o->common);
  add_threads(*echo, o->common);
  add_json(*echo, o->common);
  echo->callback([o] { run(*o); });
}

}  // namespace heed::cli
