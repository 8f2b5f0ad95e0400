#include <fmt/format.h>

#include "cli/probe.h"
#include "heed/bench/picture_page.h"
#include "heed/checkpoint/encoder_checkpoint.h"
#include "heed/error.h"
#include "heed/formats/atomic_file.h"

namespace heed::cli {
namespace {

struct ProbePicture {
  Common common;
  std::string picture, model, out, html;
  int64_t layer = -1, head = -1;
};

torch::Tensor chosen_map(const ProbePicture& o, const probe::PictureMaps& maps) {
  if (o.layer < 0) return maps.rollout;
  require(o.layer < maps.heads.size(0), "--layer {}: 0 to {} is accepted", o.layer, maps.heads.size(0) - 1);
  require(o.head < maps.heads.size(1), "--head {}: 0 to {} is accepted", o.head, maps.heads.size(1) - 1);
  return o.head < 0 ? maps.heads[o.layer].mean(0) : maps.heads[o.layer][o.head];
}

void run(ProbePicture& o) {
  apply(o.common);
  require(o.head < 0 || o.layer >= 0, "--head {}: --layer says of which layer", o.head);
  const auto picture = formats::read_picture(o.picture);
  auto model = checkpoint::load_vision(o.model);
  const auto maps =
      probe::picture_maps(model, probe::pixels_of(picture, model->config(), probe::PictureNorm::of(o.model)));
  const auto map = chosen_map(o, maps);
  if (!o.out.empty()) formats::write_png(o.out, probe::overlay(picture, map));
  if (!o.html.empty()) formats::write_file(o.html, bench::picture_html(picture, maps, o.picture));
  const auto json = bench::to_json(maps);
  if (write_json(o.common, json.dump(1))) return;
  for (const auto& c : json["classes"])
    fmt::print("class {:>5}  {:.3f}\n", c["class"].get<int64_t>(), c["probability"].get<double>());
  const auto at = map.argmax().item<int64_t>();
  fmt::print("{} x {} patches; most weight on row {}, column {}: {:.3f}, {:.1f} times an even share\n", map.size(0),
             map.size(1), at / map.size(1), at % map.size(1), map.max().item<double>(),
             map.max().item<double>() / map.mean().item<double>());
}

}  // namespace

void add_probe_picture(CLI::App& probe) {
  auto o = std::make_shared<ProbePicture>();
  auto* command = probe.add_subcommand(
      "picture",
      "where a vision transformer looks in a picture of yours, PNG or JPEG\n"
      "example: heed probe picture photo.jpg --model vit-base --out attention.png --html attention.html");
  command->add_option("picture", o->picture, "PNG or JPEG")->required();
  command->add_option("--model", o->model, "folder of a vision transformer, in Hugging Face's layout or as train --task --out writes it")->required();
  command->add_option("--layer", o->layer, "show this layer, from 0 (default: the rollout through all)")
      ->check(whole(0));
  command->add_option("--head", o->head, "and this head of it, from 0 (default: their mean)")->check(whole(0));
  command->add_option("--out", o->out, "write the picture with the map on it, as PNG")->check(writable_file());
  command->add_option("--html", o->html, "write a page with all layers and the last one's heads")
      ->check(writable_file());
  add_threads(*command, o->common);
  add_json(*command, o->common);
  command->callback([o] { run(*o); });
}

}  // namespace heed::cli
