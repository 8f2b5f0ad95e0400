#include <fmt/format.h>

#include "cli/dtype.h"
#include "cli/surgery.h"
#include "heed/assets.h"
#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/surgery/landmarks.h"

namespace heed::cli {
namespace {

struct LandmarkSurgery {
  Common common;
  std::string model, out, retrieve_by = "token", dtype = "bfloat16";
  int64_t block = 51, retrieve = 0;
  bool stingy = false;
};

void run(LandmarkSurgery& o) {
  apply(o.common);
  const auto dtype = parse_dtype(o.dtype);
  if (o.model.empty()) o.model = find_asset("tiny-lm").string();
  auto model = checkpoint::load_decoder(o.model);
  auto changed = surgery::add_landmarks(
      model, {{"block", o.block}, {"retrieve", o.retrieve}, {"retrieve_by", o.retrieve_by}, {"stingy", o.stingy}});
  checkpoint::save_decoder_like(o.out, changed, o.model, dtype);
  const nlohmann::ordered_json json{{"model", o.model},
                                    {"out", o.out},
                                    {"block", o.block},
                                    {"layers", changed->config().layers.size()},
                                    {"parameters", {parameters_of(model), parameters_of(changed)}}};
  if (write_json(o.common, json.dump(1))) return;
  fmt::print("{} layers have a landmark behind every {} tokens; tune them: heed train lm --from {}\nwritten: {}\n",
             changed->config().layers.size(), o.block - 1, o.out, o.out);
}

}  // namespace

void add_surgery_landmarks(CLI::App& surgery) {
  auto o = std::make_shared<LandmarkSurgery>();
  auto* command = surgery.add_subcommand(
      "landmarks",
      "dense layers become landmark attention, to be tuned: the model puts a landmark behind every block of tokens, "
      "and "
      "reads the blocks whose landmarks score best\nexample: heed surgery landmarks --out landmarks --block 17 "
      "--retrieve 4");
  command->add_option("--model", o->model, "folder of the checkpoint (default: the shipped one)");
  command->add_option("--out", o->out, "folder of the new one")->check(writable_folder())->required();
  command->add_option("--block", o->block, "tokens of a block, its landmark among them (default 51)")
      ->check(CLI::Range(2, 1 << 20));
  command->add_option("--retrieve", o->retrieve, "earlier blocks that a token reads in generation (default 0: all)")
      ->check(whole(0));
  command->add_option("--retrieve-by", o->retrieve_by,
                      "token: every token its own blocks; head: those of a block the same (default token)");
  command->add_flag("--stingy", o->stingy,
                    "positions: blocks before the last ones that are read share the first place");
  command->add_option("--dtype", o->dtype, "of the new weights: float32, bfloat16 or float16 (default bfloat16)");
  add_threads(*command, o->common);
  add_json(*command, o->common);
  command->callback([o] { run(*o); });
}

}  // namespace heed::cli
