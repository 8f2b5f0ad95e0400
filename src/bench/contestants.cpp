#include "bench/contestants.h"

#include <algorithm>

#include "heed/bench/kernel_case.h"
#include "heed/error.h"
#include "heed/kernels/mask_text.h"
#include "heed/names.h"
#include "heed/nn/config.h"
#include "heed/ops/dispatch.h"

namespace heed::bench {
namespace {

using Core = std::function<torch::Tensor(const CoreInput&)>;

Core prepare_mixer(const RegistryRow& row, const nlohmann::json& settings, bool causal, const CoreShape& shape) {
  nlohmann::json config = nlohmann::json::object();
  const nlohmann::json offered{
      {"dim", shape.heads * shape.head_dim},
      {"heads", shape.heads},
      {"kv_heads", shape.kv_heads},
      {"head_dim", shape.head_dim},
      {"causal", causal},
      {"max_length", std::max(shape.length, std::min<int64_t>(shape.trained_length, 1 << 20))}};
  for (const auto& parameter : row.parameters)
    if (offered.contains(parameter.name)) config[parameter.name] = offered[parameter.name];
  config.update(settings);
  // What a mechanism draws at random is the same in every run.
  torch::manual_seed(0);
  const auto mixer = row.make(config);
  mixer->eval();
  mixer->to(shape.dtype);
  return [mixer](const CoreInput& core) { return mixer->mix(core); };
}

AttentionOptions operator_options(ConfigReader& reader, bool causal_default) {
  AttentionOptions o;
  const auto text = reader.get<std::string>("mask", "");
  o.mask = kernels::parse_mask(text);
  if (reader.get("causal", causal_default && text.empty())) o.mask = o.mask & Causal{};
  const auto window = reader.integer("window", 0, 0), sinks = reader.integer("sinks", 0, 0);
  require(sinks == 0 || window > 0, "{}: sinks = {}: they keep tokens visible beside a window: give window",
          reader.owner(), sinks);
  if (window > 0) o.mask = o.mask & (Window{window} | SinkTokens{sinks});
  o.scale = reader.get("scale", 0.0);
  o.softcap = reader.get("softcap", 0.0);
  return o;
}

Core prepare_operator(const RegistryRow& row, const std::string& name, const nlohmann::json& settings,
                      const CoreShape& shape) {
  ConfigReader reader(name, settings);
  auto options = operator_options(reader, true);
  if (row.name == "block_sparse") {
    const auto pattern = reader.choice("pattern", "butterfly", {"butterfly", "random"});
    const auto block = reader.integer("block", 64, 1, 1 << 20);
    const OwnedBlockList owned(pattern, shape.length, shape.length, block);
    options.blocks = BlockListTensors{
        torch::tensor(owned.offsets, torch::kInt64), torch::tensor(owned.columns, torch::kInt32), 1, 1, block, block};
  }
  reader.finish();
  if (row.name != "decode")
    return [options](const CoreInput& core) { return nn::attention(core.q, core.k, core.v, options, core.report); };
  return [options](const CoreInput& core) {
    ops::FlashCall call(core.q, core.k, core.v, options);
    call.allocate_outputs();
    ops::run_decode(call);
    if (core.report != nullptr) {
      kernels::BlockList blocks;
      core.report->pairs = kernels::visible_pairs(call.params(blocks));
      core.report->lse = call.lse;
    }
    return call.out;
  };
}

/// Operators that are a core of their own; others of the registry are schedules or parts of these.
bool takes_part(const RegistryRow& row) {
  if (row.kind == Kind::mixer) return row.core && !row.grid;
  return row.name == "flash" || row.name == "block_sparse" || row.name == "decode";
}

bool holds(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

Core Contestant::prepare(const CoreShape& shape) const {
  require(shape.length >= row->min_n, "needs {} tokens", row->min_n);
  if (row->kind == Kind::mixer) return prepare_mixer(*row, settings, causal, shape);
  return prepare_operator(*row, name, settings, shape);
}

std::vector<Contestant> contestants(const CompareOptions& options) {
  std::vector<Contestant> all;
  for (const auto& rows : {operator_rows(), mixer_rows()}) {
    for (const auto& row : rows) {
      if (!takes_part(row)) continue;
      Contestant c;
      c.row = &row;
      c.name = (row.kind == Kind::op ? "op:" : "") + row.name;
      c.one_query = row.name == "decode";
      c.causal = row.patterns.causal_self;
      if (const auto found = options.settings.find(c.name); found != options.settings.end()) {
        c.configured = true;
        c.settings = found->second;
        if (c.settings.contains("causal") && c.settings["causal"].is_boolean()) c.causal = c.settings["causal"];
      }
      all.push_back(std::move(c));
    }
  }
  std::vector<std::string> known;
  for (const auto& c : all) known.push_back(c.name);
  for (const auto* names : {&options.only, &options.skip})
    for (const auto& name : *names) require(holds(known, name), "{} takes no part: {}", name, suggest(name, known));
  for (const auto& [name, value] : options.settings)
    require(holds(known, name), "--set {}: takes no part: {}", name, suggest(name, known));
  std::erase_if(all, [&](const Contestant& c) {
    return (!options.only.empty() && !holds(options.only, c.name)) || holds(options.skip, c.name);
  });
  require(!all.empty(), "no mechanism is left to compare");
  return all;
}

}  // namespace heed::bench
