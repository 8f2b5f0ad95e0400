#include "checkpoint/run_inputs.h"
#include "heed/nn/sizes.h"
#include "heed/ops/neighborhood.h"

namespace heed::checkpoint {

std::optional<TensorMap> run_neighborhood(const std::string& name, const RunRequest& request, Inputs& inputs) {
  if (!name.starts_with("neighborhood")) return std::nullopt;
  ConfigReader reader("op:" + name, request.settings);
  ops::NeighborhoodOptions o;
  o.grid = nn::read_sizes(reader, "grid", {});
  require(!o.grid.empty(), "op:{}: grid is missing: cells an axis, as in grid=16x24", name);
  o.window = nn::read_sizes(reader, "window", {});
  require(!o.window.empty(), "op:{}: window is missing: visible cells an axis, as in window=7x7", name);
  o.stride = nn::read_sizes(reader, "stride", {1});
  o.dilation = nn::read_sizes(reader, "dilation", {1});
  o.causal = nn::read_flags(reader, "causal", {false});
  if (name == "neighborhood_av") {
    const auto weights = inputs.required("weights"), v = inputs.required("v");
    reader.finish(), inputs.finish();
    return TensorMap{{"out", ops::neighborhood_av(weights, v, o)}};
  }
  o.scale = reader.get("scale", 0.0);
  const auto q = inputs.required("q"), k = inputs.required("k");
  if (name == "neighborhood_qk") {
    reader.finish(), inputs.finish();
    return TensorMap{{"out", ops::neighborhood_qk(q, k, o)}};
  }
  o.softcap = reader.get("softcap", 0.0);
  const auto v = inputs.required("v");
  o.sink_logit = inputs.optional("sink_logit");
  o.key_padding = inputs.optional("key_padding");
  reader.finish(), inputs.finish();
  const auto result = ops::neighborhood(q, k, v, o);
  return TensorMap{{"out", result.out}, {"lse", result.lse}};
}

}  // namespace heed::checkpoint
