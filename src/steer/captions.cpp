#include "heed/steer/captions.h"

#include "heed/error.h"

namespace heed::steer {
namespace {

using tasks::PairWorld;
using torch::Tensor;

constexpr int64_t kDraws = 3;  // of what is left out or left at random

/// [B, K] without one column each.
Tensor without(const Tensor& kept, const Tensor& patch) {
  return kept.masked_select(kept.ne(patch.unsqueeze(1))).view({kept.size(0), -1});
}

Tensor rows_at(const Tensor& x, const Tensor& rows) {
  return x.gather(1, rows.unsqueeze(2).expand({-1, -1, x.size(2)}));
}

}  // namespace

nlohmann::json pair_world_settings(int64_t patches, double kept) {
  // In 32 channels no share of the root mean square reaches the 20 of large models: sqrt(32) is the most.
  return {
      {"spans", {{0, patches}}}, {"channels", {train::kSinkChannel}}, {"tau", 4}, {"kept", kept}, {"first_layer", 0},
      {"last_layers", 0}};
}

std::vector<std::vector<int64_t>> captions(VisionText& model, const Tensor& image, const cache::Policy& caches) {
  torch::NoGradGuard no_grad;
  model->eval();
  const int64_t batch = image.size(0);
  auto state = cache::make_state(model->text, caches, batch);
  auto token = torch::full({batch, 1}, PairWorld::kBegin, torch::kInt64);
  std::vector<std::vector<int64_t>> all(static_cast<size_t>(batch));
  std::vector<bool> ended(all.size());
  for (int64_t i = 0; i <= PairWorld::kMostNamed; ++i) {
    const auto logits = model->forward(i == 0 ? image : Tensor(), token, &state);
    if (i == 0) cache::each_cache(state, [](cache::LayerCache& cache) { cache.finish_prompt(); });
    token = logits.argmax(2);
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t id = token[b][0].item<int64_t>();
      if (id < PairWorld::kFirstObject) ended[size_t(b)] = true;
      if (!ended[size_t(b)]) all[size_t(b)].push_back(id - PairWorld::kFirstObject);
    }
  }
  return all;
}

std::vector<CaptionRow> compare_captions(VisionText& model, const PairWorld& world, const CaptionOptions& o,
                                         const std::function<void(int64_t done, int64_t total)>& progress) {
  require(o.images >= 1, "{} images: 1 or more are accepted", o.images);
  torch::NoGradGuard no_grad;
  model->eval();
  const auto shape = cache::shape_of(model->text->config());
  const auto full = cache::make_policy("full", {}, shape);
  std::vector<CaptionRow> rows;
  int64_t done = 0;
  const int64_t total = 2 * (3 + int64_t(o.kept.size()) + 3 * int64_t(o.targets.size()));
  for (const bool conflict : {false, true}) {
    const auto batch = train::pair_world_batch(world, tasks::Split::test, 0, o.images, conflict);
    const auto x = model->vision->embed(batch.pixels);
    const auto all = torch::arange(PairWorld::kPatches).expand({o.images, PairWorld::kPatches});
    const auto whole = model->image_tokens(model->vision->forward(batch.pixels).slice(1, 1));
    const auto add_to = [&](CaptionRow& row, const Tensor& image, const Tensor& kept, const cache::Policy& caches) {
      const auto named = captions(model, train::plant_sink(image, kept, batch.empty, o.sink), caches);
      for (size_t b = 0; b < named.size(); ++b) row.score.add(named[b], batch.present[b]);
    };
    const auto finish = [&](CaptionRow row) {
      rows.push_back(std::move(row));
      if (progress) progress(++done, total);
    };
    const auto measure = [&](const std::string& what, const Tensor& image, const Tensor& kept,
                             const cache::Policy& caches) {
      CaptionRow row{what, conflict, {}};
      add_to(row, image, kept, caches);
      finish(std::move(row));
    };
    measure("plain", whole, all, full);
    const auto rest = without(all, batch.empty);
    measure("without the sink", rows_at(whole, rest), rest, full);
    CaptionRow others{"without another patch", conflict, {}};
    for (int64_t d = 0; d < kDraws; ++d) {
      tasks::Random random(tasks::hash64("another patch") + o.seed, uint64_t(d));
      auto patch = batch.empty.clone();
      for (int64_t b = 0; b < o.images; ++b)
        patch[b] = (batch.empty[b].item<int64_t>() + random.between(1, PairWorld::kPatches - 1)) % PairWorld::kPatches;
      const auto left = without(all, patch);
      add_to(others, rows_at(whole, left), left, full);
    }
    finish(std::move(others));
    for (const double kept : o.kept)
      measure(fmt::format("var_redistribution kept={}", kept), whole, all,
              make_intervention("var_redistribution", pair_world_settings(PairWorld::kPatches, kept), shape));
    for (const int64_t target : o.targets) {
      const auto name = [&](const char* how) { return fmt::format("{} {} of {}", how, target, PairWorld::kPatches); };
      const auto image_of = [&](const FlowCut& cut) { return model->image_tokens(cut.hidden.slice(1, 1)); };
      const auto flow = flow_cut(model->vision, x, {target});
      measure(name("flow_cut"), image_of(flow), flow.kept, full);
      const auto by_class = cut_by_class_attention(model->vision, x, {target});
      measure(name("class attention"), image_of(by_class), by_class.kept, full);
      CaptionRow random{name("random"), conflict, {}};
      for (int64_t d = 0; d < kDraws; ++d) {
        const auto cut = cut_at_random(model->vision, x, {target}, o.seed + uint64_t(d));
        add_to(random, image_of(cut), cut.kept, full);
      }
      finish(std::move(random));
    }
  }
  return rows;
}

}  // namespace heed::steer
