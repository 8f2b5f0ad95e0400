#include "heed/probe/key_index.h"

#include <algorithm>
#include <chrono>

#include "heed/error.h"
#include "heed/mixers/taps.h"
#include "probe/key_searches.h"

namespace heed::probe {
namespace {

using torch::Tensor;
using Clock = std::chrono::steady_clock;

struct Cores : Taps {
  explicit Cores(size_t layers) : q(layers), k(layers) {}
  void core_input(const LayerContext& layer, CoreInput& core) override {
    q[size_t(layer.index)] = core.q[0].to(torch::kFloat32).contiguous();
    k[size_t(layer.index)] = core.k[0].to(torch::kFloat32).contiguous();
  }
  std::vector<Tensor> q, k;  // [Hq, N, D], [Hkv, N, D]
};

/// Share of the keys that the narrowest search with the recall scans.
double scanned_for(const KeySearch& search, const Tensor& asked, const Tensor& best, int64_t keys, double recall) {
  const int64_t queries = asked.size(0), top = best.size(1);
  std::vector<std::vector<int64_t>> wanted;
  for (int64_t i = 0; i < queries; ++i) {
    const auto row = best[i].contiguous();
    wanted.emplace_back(row.data_ptr<int64_t>(), row.data_ptr<int64_t>() + top);
    std::sort(wanted.back().begin(), wanted.back().end());
  }
  for (const int64_t width : search.widths(top)) {
    int64_t right = 0, scanned = 0;
    for (int64_t i = 0; i < queries; ++i) {
      const auto found = search.search(asked[i].data_ptr<float>(), width, top);
      for (const int64_t key : found.keys) right += std::binary_search(wanted[i].begin(), wanted[i].end(), key);
      scanned += found.scanned;
    }
    if (double(right) >= recall * double(queries * top))
      return std::min(1.0, double(scanned) / double(queries) / double(keys));
  }
  return 1;
}

}  // namespace

std::vector<KeyIndex> key_indices(const Tensor& queries, const Tensor& keys, const Tensor& asked, int64_t top,
                                  double recall, uint64_t seed) {
  torch::NoGradGuard no_grad;
  const auto best = std::get<1>(asked.matmul(keys.t()).topk(top, 1));
  std::vector<KeyIndex> indices;
  const auto add = [&](const char* name, const std::function<std::unique_ptr<KeySearch>()>& build) {
    const auto start = Clock::now();
    const auto search = build();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    indices.push_back({name, scanned_for(*search, asked, best, keys.size(0), recall), seconds});
  };
  add("query graph", [&] { return graph_search(queries, keys); });
  add("key graph", [&] { return graph_search(keys, keys); });
  add("hnsw", [&] { return hnsw_search(keys, seed); });
  add("ivf", [&] { return ivf_search(keys, seed); });
  return indices;
}

double mahalanobis(const Tensor& x, const Tensor& keys) {
  const auto wide = keys.to(torch::kFloat64);
  const auto mean = wide.mean(0);
  const auto centred = wide - mean;
  auto covariance = centred.t().matmul(centred) / double(std::max<int64_t>(1, keys.size(0) - 1));
  // Channels that hardly vary would make every distance infinite.
  covariance.diagonal().add_(1e-6 * covariance.diagonal().mean());
  const auto off = (x.to(torch::kFloat64) - mean).t();
  const auto solved = torch::linalg_solve(covariance, off);
  return (off * solved).sum(0).clamp_min(0).sqrt().mean().item<double>();
}

std::vector<KeyIndexReport> compare_key_indices(DecoderLm& model, const Tensor& tokens, const KeyIndexOptions& o,
                                                const std::function<void(int64_t done, int64_t total)>& progress) {
  torch::NoGradGuard no_grad;
  const auto& config = model->config();
  require(o.ask >= 1 && o.top >= 1 && o.sinks >= 0 && o.recall > 0 && o.recall <= 1,
          "key indices: {} asking tokens, {} keys, {} sinks, recall {}: 1, 1, 0 or more, above 0 to 1 are accepted",
          o.ask, o.top, o.sinks, o.recall);
  const int64_t end = tokens.size(1) - o.ask, count = end - o.sinks;
  require(count > std::max<int64_t>(o.top, 2 * config.head_dim),
          "key indices: {} tokens leave {} keys: more than {} are accepted", tokens.size(1),
          std::max<int64_t>(0, count), std::max<int64_t>(o.top, 2 * config.head_dim));
  auto layers = o.layers;
  if (layers.empty())
    for (size_t l = 0; l < config.layers.size(); ++l)
      if (config.layers[l].mixer == "dense") layers.push_back(int64_t(l));
  for (const int64_t l : layers)
    require(l >= 0 && l < int64_t(config.layers.size()) && config.layers[size_t(l)].mixer == "dense",
            "key indices: layer {}: one of plain dense attention, 0 to {}, is accepted", l, config.layers.size() - 1);
  model->eval();
  Cores cores(config.layers.size());
  model->hidden(tokens, nullptr, 0, &cores);
  std::vector<KeyIndexReport> reports;
  for (const int64_t l : layers) {
    const auto &q = cores.q[size_t(l)], &k = cores.k[size_t(l)];
    const int64_t heads = k.size(0), group = q.size(0) / heads;
    KeyIndexReport report{l, count};
    for (int64_t h = 0; h < heads; ++h) {
      const auto keys = k[h].slice(0, o.sinks, end).contiguous();
      const auto own = q.narrow(0, h * group, group);
      const auto queries = own.slice(1, o.sinks, end).flatten(0, 1),
                 asked = own.slice(1, end).flatten(0, 1).contiguous();
      const auto indices = key_indices(queries, keys, asked, o.top, o.recall);
      if (report.indices.empty())
        for (const auto& index : indices) report.indices.push_back({index.name, 0, 0});
      for (size_t i = 0; i < indices.size(); ++i) {
        report.indices[i].scanned += indices[i].scanned / double(heads);
        report.indices[i].build_seconds += indices[i].build_seconds / double(heads);
      }
      const auto every_other = keys.slice(0, 0, count, 2), between = keys.slice(0, 1, count, 2);
      report.key_distance += mahalanobis(between, every_other) / double(heads);
      report.query_distance += mahalanobis(asked, every_other) / double(heads);
    }
    reports.push_back(std::move(report));
    if (progress) progress(int64_t(reports.size()), int64_t(layers.size()));
  }
  return reports;
}

}  // namespace heed::probe
