#include "heed/checkpoint/run.h"

#include "cli/commands.h"

namespace heed::cli {

void add_run(CLI::App& app) {
  struct Options {
    Common common;
    checkpoint::RunRequest request;
    std::vector<std::string> set;
  };
  auto o = std::make_shared<Options>();
  auto* command = app.add_subcommand(
      "run",
      "apply one mechanism to the tensors of a safetensors file\n"
      "example: heed run op:flash --in qkv.safetensors --out out.safetensors --set causal=true window=256");
  command->add_option("name", o->request.name, "a mixer, core:MIXER or op:OPERATOR of `heed list`")->required();
  command->add_option("--in", o->request.in, "safetensors file with x, or q, k, v")->required();
  command->add_option("--out", o->request.out, "safetensors file to write: out, lse, gradients")
      ->check(writable_file())
      ->required();
  command->add_option("--set", o->set, "parameters, key=value; of mechanisms over a grid also grid=16x24");
  command->add_option("--weights", o->request.weights, "parameters of a mixer (default: drawn from --seed)");
  command->add_option("--save-weights", o->request.save_weights, "write the parameters of a mixer")
      ->check(writable_file());
  command->add_flag("--grad", o->request.grad, "also write the gradients of sum(out * grad) as d_NAME");
  add_threads(*command, o->common);
  add_seed(*command, o->common);
  command->callback([o] {
    apply(o->common);
    o->request.settings = parse_settings(o->set);
    o->request.seed = o->common.seed;
    checkpoint::run(o->request);
  });
}

}  // namespace heed::cli
