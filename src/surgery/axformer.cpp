#include "heed/surgery/axformer.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "heed/error.h"

namespace heed::surgery {

using torch::Tensor;
using Kind = AxElement::Kind;

namespace {

int64_t heads_of(const EncoderConfig& config, size_t layer) {
  const auto& plan = config.layers[layer].config;
  return plan.is_object() && plan.contains("heads") ? plan["heads"].get<int64_t>() : config.heads;
}

void check(Encoder& model, const AxOptions& o) {
  const auto& c = model->config();
  for (size_t l = 0; l < c.layers.size(); ++l)
    require(c.layers[l].mixer == "dense", "axformer: layer {} is {}: dense attention is accepted", l,
            c.layers[l].mixer);
  require(c.kv_heads == c.heads, "axformer: {} key heads of {} heads: as many are accepted", c.kv_heads, c.heads);
  require(o.channel_groups >= 1 && c.hidden % o.channel_groups == 0,
          "axformer: {} groups of {} channels: a divisor is accepted", o.channel_groups, c.hidden);
}

/// The weights whose columns bring the element to the residual stream, and the bias where the block goes as a whole.
struct Outlet {
  Tensor weight, bias;
};

Outlet outlet(Encoder& model, const AxElement& e, const AxOptions& o) {
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
  const int64_t width = channels ? c.hidden / o.channel_groups : c.head_dim;
  return {weight.narrow(1, e.index * width, width), {}};
}

/// Takes an element out, and puts it back unless told to leave it.
class Removal {
 public:
  Removal(Encoder& model, const AxElement& e, const AxOptions& o) : place_(outlet(model, e, o)) {
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
std::vector<AxElement> candidates(Encoder& model, const AxOptions& o, bool whole_blocks) {
  std::vector<AxElement> all;
  const auto& c = model->config();
  for (int64_t l = int64_t(c.layers.size()) - 1; l >= 0; --l) {
    if (whole_blocks) {
      all.push_back({Kind::attention, l, 0});
      all.push_back({Kind::channels, l, 0});
      continue;
    }
    for (int64_t h = 0; h < heads_of(c, size_t(l)); ++h) all.push_back({Kind::head, l, h});
    for (int64_t g = 0; g < o.channel_groups; ++g) all.push_back({Kind::channel_group, l, g});
  }
  return all;
}

}  // namespace

std::string to_string(const AxElement& e) {
  static const char* names[] = {"attention", "channels", "head", "channel group"};
  const bool part = e.kind == Kind::head || e.kind == Kind::channel_group;
  return fmt::format("layer {} {}{}", e.layer, names[int(e.kind)], part ? fmt::format(" {}", e.index) : "");
}

AxPlan axformer_search(Encoder& model, const std::function<double(Encoder&)>& loss, const AxOptions& o) {
  check(model, o);
  AxPlan plan;
  plan.first_loss = plan.loss = loss(model);
  std::vector<Removal> removals;
  for (const bool whole_blocks : {true, false})
    for (const auto& e : candidates(model, o, whole_blocks)) {
      const auto parent = e.kind == Kind::head ? Kind::attention : Kind::channels;
      if (!whole_blocks && contains(plan.removed, {parent, e.layer, 0})) continue;
      Removal removal(model, e, o);
      const double now = loss(model);
      const bool kept = now <= plan.loss + o.tolerance;
      plan.trials.push_back({e, false, now, kept});
      if (!kept) {
        removal.undo();
        continue;
      }
      removals.push_back(std::move(removal));
      plan.removed.push_back(e);
      plan.loss = std::min(plan.loss, now);
    }
  if (o.hard_attention)
    for (int64_t l = int64_t(model->blocks.size()) - 1; l >= 0; --l) {
      if (contains(plan.removed, {Kind::attention, l, 0})) continue;
      auto tried = plan;
      tried.removed.clear();  // the weights are 0 already
      tried.hard_layers.push_back(l);
      auto changed = axformer_apply(model, tried, o);
      const double now = loss(changed);
      const bool kept = now <= plan.loss + std::max(0.0, o.tolerance) && o.tolerance > -INFINITY;
      plan.trials.push_back({{Kind::attention, l, 0}, true, now, kept});
      if (!kept) continue;
      plan.hard_layers.push_back(l);
      plan.loss = std::min(plan.loss, now);
    }
  for (auto removal = removals.rbegin(); removal != removals.rend(); ++removal) removal->undo();
  return plan;
}

Encoder axformer_apply(Encoder& model, const AxPlan& plan, const AxOptions& o) {
  check(model, o);
  auto config = model->config();
  const size_t layers = config.layers.size();
  std::vector<std::vector<int64_t>> left(layers);
  for (size_t l = 0; l < layers; ++l) {
    const int64_t heads = heads_of(config, l);
    for (int64_t h = 0; h < heads; ++h)
      if (!contains(plan.removed, {Kind::head, int64_t(l), h})) left[l].push_back(h);
    // A layer needs a head; one without any keeps its first, whose output weights are 0.
    if (left[l].empty()) left[l].push_back(0);
    auto& layer = config.layers[l];
    if (layer.config.is_null()) layer.config = nlohmann::json::object();
    if (int64_t(left[l].size()) != heads)
      layer.config.update({{"heads", left[l].size()}, {"kv_heads", left[l].size()}, {"head_dim", config.head_dim}});
    if (std::find(plan.hard_layers.begin(), plan.hard_layers.end(), int64_t(l)) == plan.hard_layers.end()) continue;
    layer.mixer = "hard_attention";
    layer.config.update({{"share", o.share}, {"ratio", o.ratio}});
  }
  std::vector<Removal> removals;
  for (const auto& e : plan.removed) removals.emplace_back(model, e, o);
  Encoder changed(config, model->parameters().front().scalar_type());
  const auto old = model->named_parameters();
  torch::NoGradGuard no_grad;
  for (auto& entry : changed->named_parameters()) {
    const auto& from = old[entry.key()];
    if (from.sizes() == entry.value().sizes()) {
      entry.value().copy_(from);
      continue;
    }
    // A projection of which heads are left out: rows of q, k and v, columns of the output.
    const auto number = entry.key().substr(7);  // layers_N.
    const auto& heads = left[size_t(std::stoll(number))];
    const int64_t dim = entry.key().find("o_proj.weight") != std::string::npos ? 1 : 0;
    std::vector<Tensor> parts;
    for (const int64_t h : heads) parts.push_back(from.narrow(dim, h * config.head_dim, config.head_dim));
    entry.value().copy_(torch::cat(parts, dim));
  }
  for (auto removal = removals.rbegin(); removal != removals.rend(); ++removal) removal->undo();
  changed->train(model->is_training());
  return changed;
}

}  // namespace heed::surgery
