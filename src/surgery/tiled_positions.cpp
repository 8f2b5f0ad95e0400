#include "heed/surgery/tiled_positions.h"

#include <fmt/format.h>

#include <algorithm>

#include "models/mixer_parameters.h"

namespace heed::surgery {

using torch::Tensor;

namespace {

/// Names of parameters, those of several layers together.
class LayerNames {
 public:
  void add(const std::string& name, const std::string& note = {}) {
    constexpr std::string_view kLayers = "layers_";
    const auto dot = name.find('.');
    const bool layered = name.starts_with(kLayers) && dot != std::string::npos;
    const auto own = (layered ? name.substr(dot + 1) : name) + note;
    auto found = std::find_if(groups_.begin(), groups_.end(), [&](const auto& group) { return group.name == own; });
    if (found == groups_.end()) found = groups_.insert(groups_.end(), {own, {}});
    if (layered) found->layers.push_back(std::stoll(name.substr(kLayers.size(), dot - kLayers.size())));
  }
  bool empty() const { return groups_.empty(); }

  /// "embed_tokens.weight, self_attn.q_proj.weight, self_attn.k_proj.weight in layers 0-2, 5"
  std::string text() const {
    std::string all;
    for (size_t i = 0; i < groups_.size(); ++i) {
      const auto& [name, layers] = groups_[i];
      all += (all.empty() ? "" : ", ") + name;
      if (!layers.empty() && (i + 1 == groups_.size() || groups_[i + 1].layers != layers))
        all += (layers.size() == 1 ? " in layer " : " in layers ") + ranges(layers);
    }
    return all;
  }

 private:
  struct Group {
    std::string name;
    std::vector<int64_t> layers;
  };
  static std::string ranges(const std::vector<int64_t>& sorted) {
    std::string all;
    for (size_t begin = 0, end; begin < sorted.size(); begin = end) {
      for (end = begin + 1; end < sorted.size() && sorted[end] == sorted[end - 1] + 1;) ++end;
      all += fmt::format("{}{}", all.empty() ? "" : ", ", sorted[begin]);
      if (end - begin > 1) all += fmt::format("-{}", sorted[end - 1]);
    }
    return all;
  }
  std::vector<Group> groups_;
};

bool takes_positions(const std::string& mixer) { return has_parameter(mixer, "positions"); }
std::string shape(const Tensor& t) { return c10::str(t.sizes()); }

}  // namespace

void lengthen_positions(DecoderConfig& config, int64_t length) {
  if (config.learned_positions > 0) config.learned_positions = std::max(config.learned_positions, length);
  if (config.positions.kind == "learned") config.positions.max_length = std::max(config.positions.max_length, length);
}

std::string take_weights(DecoderLm& to, DecoderLm& from) {
  LayerNames fresh, unused, without_positions;
  const auto old = from->named_parameters();
  const bool own_tables = from->config().positions.kind == "learned" && to->config().positions.kind == "learned";
  torch::NoGradGuard no_grad;
  for (auto& entry : to->named_parameters()) {
    const auto* found = old.find(entry.key());
    if (found == nullptr) {
      fresh.add(entry.key());
      continue;
    }
    auto& target = entry.value();
    const bool positions =
        entry.key() == "embed_positions.weight" || (own_tables && entry.key().ends_with("positions.table"));
    if (found->sizes() == target.sizes())
      target.copy_(*found);
    else if (positions && found->size(1) == target.size(1))
      target.copy_(found->index_select(0, torch::arange(target.size(0)).remainder(found->size(0))));
    else
      fresh.add(entry.key(), fmt::format(" of {} for {}", shape(target), shape(*found)));
  }
  const auto own = to->named_parameters();
  for (const auto& entry : old)
    if (!own.contains(entry.key())) unused.add(entry.key());
  const auto &config = to->config(), &before = from->config();
  for (size_t l = 0; l < config.layers.size(); ++l) {
    const auto& mixer = config.layers[l].mixer;
    const bool had = l < before.layers.size() && takes_positions(before.layers[l].mixer);
    if (before.positions.kind != "none" && had && !takes_positions(mixer))
      without_positions.add(fmt::format("layers_{}.{}", l, mixer));
  }
  if (!from->landmark_block()) to->reset_landmark();
  std::string text;
  const auto say = [&](std::string_view what, const LayerNames& names) {
    if (!names.empty()) text += fmt::format("{}{}{}", text.empty() ? "" : "; ", what, names.text());
  };
  say("begin anew: ", fresh);
  say("not taken over: ", unused);
  say(fmt::format("without {} positions: ", before.positions.kind), without_positions);
  return text;
}

}  // namespace heed::surgery
