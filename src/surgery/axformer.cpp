#include "heed/surgery/axformer.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "heed/error.h"

namespace heed::surgery {

using torch::Tensor;
using Kind = AxElement::Kind;

namespace {

/// Query and key heads of a layer.
struct Heads {
  Heads(const TransformerConfig& config, size_t layer) : query(config.heads), key(config.kv_heads) {
    const auto& plan = config.layers[layer].config;
    if (!plan.is_object()) return;
    query = plan.value("heads", query);
    key = plan.value("kv_heads", plan.contains("heads") ? query : key);
  }
  int64_t group() const { return query / key; }
  int64_t query, key;
};

void check(const TransformerConfig& c, const AxOptions& o) {
  for (size_t l = 0; l < c.layers.size(); ++l)
    require(c.layers[l].mixer == "dense", "axformer: layer {} is {}: dense attention is accepted", l,
            c.layers[l].mixer);
  require(c.block.channel_mixer != "none", "axformer: a channel mixer of none is not accepted");
  require(o.channel_groups >= 1 && c.hidden % o.channel_groups == 0,
          "axformer: {} groups of {} channels: a divisor is accepted", o.channel_groups, c.hidden);
}

/// The weights whose columns bring the element to the residual stream, and the bias where the block goes as a whole.
struct Outlet {
  Tensor weight, bias;
};

template <class Model>
Outlet outlet(Model& model, const AxElement& e, const AxOptions& o) {
  const auto& c = model->config();
  auto& block = model->blocks[size_t(e.layer)];
  const auto named = [&](torch::nn::Module& module, const Tensor& weight) {
    Tensor bias;
    std::string name;
    for (const auto& entry : module.named_parameters())
      if (entry.value().is_same(weight)) name = entry.key().substr(0, entry.key().rfind("weight")) + "bias";
    if (const auto* found = module.named_parameters().find(name)) bias = *found;
    return bias;
  };
  const bool channels = e.kind == Kind::channels || e.kind == Kind::channel_group;
  torch::nn::Module& module = channels ? static_cast<torch::nn::Module&>(*block->mlp) : *block->mixer;
  const auto weight = channels ? block->mlp->output_weight() : block->mixer->named_parameters()["o_proj.weight"];
  if (e.kind == Kind::attention || e.kind == Kind::channels) return {weight, named(module, weight)};
  const int64_t width = channels ? c.hidden / o.channel_groups : c.head_dim * Heads(c, size_t(e.layer)).group();
  return {weight.narrow(1, e.index * width, width), {}};
}

/// Takes an element out, and puts it back unless told to leave it.
class Removal {
 public:
  explicit Removal(const Outlet& place) : place_(place) {
    torch::NoGradGuard no_grad;
    weight_ = place_.weight.clone();
    place_.weight.zero_();
    if (place_.bias.defined()) {
      bias_ = place_.bias.clone();
      place_.bias.zero_();
    }
  }
  void undo() {
    torch::NoGradGuard no_grad;
    place_.weight.copy_(weight_);
    if (bias_.defined()) place_.bias.copy_(bias_);
  }

 private:
  Outlet place_;
  Tensor weight_, bias_;
};

bool contains(const std::vector<AxElement>& list, const AxElement& e) {
  return std::find(list.begin(), list.end(), e) != list.end();
}

/// Coarse ones first; within either, later layers first.
std::vector<AxElement> candidates(const TransformerConfig& c, const AxOptions& o, bool whole_blocks) {
  std::vector<AxElement> all;
  for (int64_t l = int64_t(c.layers.size()) - 1; l >= 0; --l) {
    if (whole_blocks) {
      all.push_back({Kind::attention, l, 0});
      all.push_back({Kind::channels, l, 0});
      continue;
    }
    for (int64_t h = 0; h < Heads(c, size_t(l)).key; ++h) all.push_back({Kind::head, l, h});
    for (int64_t g = 0; g < o.channel_groups; ++g) all.push_back({Kind::channel_group, l, g});
  }
  return all;
}

template <class Model>
AxPlan search(Model& model, const std::function<double(Model&)>& loss, const AxOptions& o, const AxReport& report) {
  const auto& c = model->config();
  check(c, o);
  const auto coarse = candidates(c, o, true), fine = candidates(c, o, false);
  const size_t most = coarse.size() + fine.size() + (o.hard_attention ? c.layers.size() : 0);
  AxPlan plan;
  const auto tried = [&](const AxTrial& trial) {
    plan.trials.push_back(trial);
    if (trial.kept) plan.loss = std::min(plan.loss, trial.loss);
    if (report) report(trial, plan.trials.size(), most);
  };
  plan.first_loss = plan.loss = loss(model);
  std::vector<Removal> removals;
  for (const auto* list : {&coarse, &fine})
    for (const auto& e : *list) {
      const auto parent = e.kind == Kind::head ? Kind::attention : Kind::channels;
      if (list == &fine && contains(plan.removed, {parent, e.layer, 0})) continue;
      Removal removal(outlet(model, e, o));
      const double now = loss(model);
      const bool kept = now <= plan.loss + o.tolerance;
      tried({e, false, now, kept});
      if (!kept) {
        removal.undo();
        continue;
      }
      removals.push_back(std::move(removal));
      plan.removed.push_back(e);
    }
  if (o.hard_attention)
    for (int64_t l = int64_t(model->blocks.size()) - 1; l >= 0; --l) {
      if (contains(plan.removed, {Kind::attention, l, 0})) continue;
      auto next = plan;
      next.removed.clear();  // the weights are 0 already
      next.hard_layers.push_back(l);
      auto changed = axformer_apply(model, next, o);
      const double now = loss(changed);
      const bool kept = now <= plan.loss + std::max(0.0, o.tolerance) && o.tolerance > -INFINITY;
      tried({{Kind::attention, l, 0}, true, now, kept});
      if (kept) plan.hard_layers.push_back(l);
    }
  for (auto removal = removals.rbegin(); removal != removals.rend(); ++removal) removal->undo();
  return plan;
}

template <class Model>
Model applied(Model& model, const AxPlan& plan, const AxOptions& o) {
  auto config = model->config();
  check(config, o);
  const size_t layers = config.layers.size();
  std::vector<std::vector<int64_t>> left(layers);  // key heads
  std::vector<int64_t> group(layers);              // query heads of one
  for (size_t l = 0; l < layers; ++l) {
    const Heads heads(config, l);
    group[l] = heads.group();
    for (int64_t h = 0; h < heads.key; ++h)
      if (!contains(plan.removed, {Kind::head, int64_t(l), h})) left[l].push_back(h);
    // A layer needs a head; one without any keeps its first, whose output weights are 0.
    if (left[l].empty()) left[l].push_back(0);
    auto& layer = config.layers[l];
    if (layer.config.is_null()) layer.config = nlohmann::json::object();
    const auto count = int64_t(left[l].size());
    if (count != heads.key)
      layer.config.update({{"heads", count * group[l]}, {"kv_heads", count}, {"head_dim", config.head_dim}});
    if (std::find(plan.hard_layers.begin(), plan.hard_layers.end(), int64_t(l)) == plan.hard_layers.end()) continue;
    layer.mixer = "hard_attention";
    layer.config.update({{"share", o.share}, {"ratio", o.ratio}});
  }
  std::vector<Removal> removals;
  for (const auto& e : plan.removed) removals.emplace_back(outlet(model, e, o));
  Model changed(config, model->parameters().front().scalar_type());
  const auto old = model->named_parameters();
  torch::NoGradGuard no_grad;
  for (auto& entry : changed->named_parameters()) {
    const auto& from = old[entry.key()];
    if (from.sizes() == entry.value().sizes()) {
      entry.value().copy_(from);
      continue;
    }
    // A projection of which heads are left out: rows of q, k and v, columns of the output.
    const auto layer = size_t(std::stoll(entry.key().substr(7)));  // layers_N.
    const bool out = entry.key().find("o_proj.weight") != std::string::npos,
               of_queries = out || entry.key().find("q_proj") != std::string::npos;
    const int64_t width = config.head_dim * (of_queries ? group[layer] : 1);
    std::vector<Tensor> parts;
    for (const int64_t h : left[layer]) parts.push_back(from.narrow(out ? 1 : 0, h * width, width));
    entry.value().copy_(torch::cat(parts, out ? 1 : 0));
  }
  for (auto removal = removals.rbegin(); removal != removals.rend(); ++removal) removal->undo();
  changed->train(model->is_training());
  return changed;
}

}  // namespace

std::string to_string(const AxElement& e) {
  static const char* names[] = {"attention", "channels", "head", "channel group"};
  const bool part = e.kind == Kind::head || e.kind == Kind::channel_group;
  return fmt::format("layer {} {}{}", e.layer, names[int(e.kind)], part ? fmt::format(" {}", e.index) : "");
}

AxPlan axformer_search(Encoder& model, const std::function<double(Encoder&)>& loss, const AxOptions& options,
                       const AxReport& report) {
  return search(model, loss, options, report);
}
AxPlan axformer_search(DecoderLm& model, const std::function<double(DecoderLm&)>& loss, const AxOptions& options,
                       const AxReport& report) {
  return search(model, loss, options, report);
}
Encoder axformer_apply(Encoder& model, const AxPlan& plan, const AxOptions& options) {
  return applied(model, plan, options);
}
DecoderLm axformer_apply(DecoderLm& model, const AxPlan& plan, const AxOptions& options) {
  return applied(model, plan, options);
}

}  // namespace heed::surgery
