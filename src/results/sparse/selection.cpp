// Keys chosen on the tensors of a trained model, or of planted ones. Nothing is trained.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "bench/units.h"
#include "heed/assets.h"
#include "heed/bench/compare.h"
#include "heed/nn/generator.h"
#include "results/sparse/cores.h"
#include "results/sparse/experiments.h"
#include "results/sparse/shipped.h"

namespace heed::results::sparse {
namespace {

using nlohmann::json;
using torch::Tensor;

std::unique_ptr<bench::QkvSource> shipped_tensors() {
  return bench::model_source({find_asset("tiny-lm"), {}, {}, torch::kFloat32});
}

/// Causal weights [H, rows, N] of the last `rows` queries.
Tensor weights_of(const bench::LayerTensors& t, int64_t rows) {
  const int64_t n = t.q.size(2), group = t.q.size(1) / t.k.size(1);
  const auto q = t.q[0].narrow(1, n - rows, rows), k = t.k[0].repeat_interleave(group, 0);
  const auto later = torch::arange(n) > torch::arange(n - rows, n).unsqueeze(1);
  return torch::softmax(
      (torch::matmul(q, k.transpose(1, 2)) / std::sqrt(double(q.size(2)))).masked_fill(later, -INFINITY), 2);
}

/// Topics of keys in runs of different lengths, and queries that ask for an earlier one.
struct Topics {
  bench::LayerTensors tensors;
  int64_t mean_length = 0;
};
Topics drawn_topics(int64_t tokens, int64_t size, uint64_t seed) {
  const auto numbers = nn::seeded_generator(seed);
  const auto normal = [&](at::IntArrayRef sizes) { return torch::randn(sizes, numbers); };
  auto k = torch::empty({tokens, size}), q = torch::empty({tokens, size});
  std::vector<Tensor> topics;
  for (int64_t begin = 0; begin < tokens;) {
    const int64_t length = std::min(tokens - begin, torch::randint(16, 129, {1}, numbers).item<int64_t>());
    topics.push_back(normal({size}));
    const auto wanted = topics[size_t(torch::randint(int64_t(topics.size()), {1}, numbers).item<int64_t>())];
    k.narrow(0, begin, length).copy_(topics.back() + normal({length, size}));
    q.narrow(0, begin, length).copy_(wanted + 0.5 * normal({length, size}));
    begin += length;
  }
  const auto head = [&](const Tensor& x) { return x.view({1, 1, tokens, size}); };
  return {{0, head(q), head(k), head(normal({tokens, size}))}, tokens / int64_t(topics.size())};
}

}  // namespace

Experiment drop_in() {
  const auto run = [](const Report& report) {
    constexpr int64_t kKeys = 256;
    const std::vector<int64_t> lengths{4096, 8192, 16384, 32768};
    const auto source = shipped_tensors();
    bench::CompareOptions options;
    options.lengths = lengths;
    options.repeats = 3;
    options.far_fidelity = true;
    options.settings = {{"sliding_window", {{"window", kKeys - 4}, {"sinks", 4}}},
                        {"hip_attention", {{"budget", kKeys - 68}, {"sinks", 4}, {"window", 64}}},
                        {"dynamic_hierarchical_sparse_attention", {{"budget", kKeys}, {"borders", "similarity"}}},
                        {"hyper_attention", {{"block", kKeys / 2}, {"samples", kKeys / 2}, {"exact_length", 512}}},
                        {"dynamic_mask_attention", {{"kept", kKeys}}},
                        {"core_context_attention", {{"group", 32}, {"window", kKeys / 2}}},
                        {"superlinear_attention", {{"skip", 7}, {"anchors", 2}}},
                        {"landmark_attention", {{"block", 64}}},
                        {"masformer", {{"window", kKeys}}}};
    options.only = {"op:flash", "shifted_sparse_attention"};
    for (const auto& [name, settings] : options.settings) options.only.push_back(name);
    const auto compared = bench::compare(*source, options, [&](int64_t done, int64_t total, const std::string& next) {
      report(double(done) / double(total), next);
    });
    std::map<std::pair<std::string, int64_t>, bench::CompareRow> rows;
    for (const auto& row : compared.rows) rows[{row.name, row.length}] = row;
    const auto time_of_flash = [&](const char* name, int64_t length) {
      return rows.at({name, length}).time_ms / rows.at({"op:flash", length}).time_ms;
    };

    Finding finding;
    finding.setup = fmt::format(
        "The first, middle and last layer of the language model that comes with heed, reading a text; about {} keys a "
        "query for all but those that attend to every key in use. Mass: of exact attention, on the keys that are seen; "
        "error: relative L2 of the outputs; both means over layers. Rows whose weights are not those of exact "
        "attention have no mass. The model was trained on {} bytes: what it attends to beyond them is less its own.",
        kKeys, source->trained_length());
    for (const int64_t length : lengths) {
      auto& table = finding.tables.emplace_back(
          Table{fmt::format("{} bytes", length), {"mechanism", "time, of flash", "attention mass kept", "error"}, {}});
      for (const auto& row : compared.rows)
        if (row.length == length)
          table.rows.push_back(
              {fmt::format("`{}`", row.name),
               row.skipped.empty() ? fmt::format("{:.2f}", time_of_flash(row.name.c_str(), length)) : "-",
               row.mass ? bench::mass_text(*row.mass) : "-", row.error ? bench::error_text(*row.error) : row.skipped});
      const auto mass = [&](const char* name) {
        return Figure{fmt::format("mass that {} keeps of {} bytes", name, length),
                      {rows.at({name, length}).mass.value_or(std::nan(""))}};
      };
      finding.claims.push_back(exceeds(mass("hip_attention"), mass("sliding_window")));
      finding.claims.push_back(exceeds(mass("dynamic_hierarchical_sparse_attention"), mass("sliding_window")));
    }
    for (const char* name : {"sliding_window", "hip_attention", "hyper_attention"})
      for (const int64_t length : {lengths.front(), lengths.back()}) {
        const double share = time_of_flash(name, length);
        finding.claims.push_back(holds(fmt::format("{} is faster than flash at {} bytes", name, length), share < 1,
                                       fmt::format("{:.2f} of its time", share)));
      }
    return finding;
  };
  return {"drop_in",
          "Sparse mechanisms on a trained model as it is",
          {"hip_attention", "dynamic_hierarchical_sparse_attention", "hyper_attention", "dynamic_mask_attention",
           "core_context_attention", "superlinear_attention", "landmark_attention", "shifted_sparse_attention",
           "masformer"},
          "keys that are searched for keep more of the attention than the nearest ones do, in less time than exact "
          "attention takes.",
          run};
}

Experiment tree_search() {
  const auto run = [](const Report& report) {
    constexpr int64_t kTokens = 2048, kRows = 512, kBudget = 128, kWindow = 64, kSinks = 4;
    const auto layers = shipped_tensors()->tensors(kTokens);
    Table table{"", {"layer", "exact top", "hip_attention", "strided", "random", "sinks and window alone"}, {}};
    std::vector<Figure> mass{{"hip_attention", {}}, {"exact top", {}}, {"strided", {}}, {"random", {}}, {"local", {}}};
    for (const auto& layer : layers) {
      report(0.2 * double(mass[0].values.size()), fmt::format("layer {}", layer.layer));
      const auto weights = weights_of(layer, kRows);
      const auto places = torch::arange(kTokens), rows = torch::arange(kTokens - kRows, kTokens).unsqueeze(1);
      const auto near = (places < kSinks) | ((places > rows - kWindow) & (places <= rows));
      const auto far = weights.masked_fill(near, 0);
      const double local = (weights - far).sum(2).mean().item<double>();
      const auto others = (near | (places > rows)).logical_not().sum(1);  // [rows]
      const auto step = (others + kBudget - 1).div(kBudget, "floor").unsqueeze(1);
      const auto strided = far.masked_fill(places.remainder(step) != 0, 0).sum(2).mean().item<double>();
      const auto random =
          (far.sum(2) * (others.to(torch::kFloat32).reciprocal() * double(kBudget))).mean().item<double>();
      const double top = std::get<0>(far.topk(kBudget, 2)).sum(2).mean().item<double>();
      const auto hip = mixed("hip_attention", {{"budget", kBudget}, {"sinks", kSinks}, {"window", kWindow}}, layer);
      const auto exact = bench::exact_attention(layer.q, layer.k, layer.v, true);
      const double found =
          torch::exp(hip.lse.to(torch::kFloat64) - exact.lse).narrow(2, kTokens - kRows, kRows).mean().item<double>();
      const std::vector<double> values{found, local + top, local + strided, local + random, local};
      for (size_t i = 0; i < mass.size(); ++i) mass[i].values.push_back(values[i]);
      table.rows.push_back({std::to_string(layer.layer), bench::mass_text(values[1]), bench::mass_text(values[0]),
                            bench::mass_text(values[2]), bench::mass_text(values[3]), bench::mass_text(values[4])});
    }
    // The needle: a model all of whose layers search, against one whose layers see as many keys nearby.
    constexpr int64_t kNeedle = 1024, kSamples = 32, kFew = 64;
    const auto task = tasks::make_task("niah_single", {{"max_tokens", kNeedle}});
    auto shipped = shipped_model();
    const auto score = [&](const LayerPlan& plan) {
      const auto model = train::task_model_of(with_mixer(shipped, plan));
      return train::score_task(*model, *task, tasks::Split::test, kSamples, 8).score;
    };
    report(0.7, "needles");
    Figure searched{"needles found by hip_attention",
                    {score({"hip_attention", {{"budget", kFew}, {"sinks", 4}, {"window", 32}}})}};
    Figure nearby{"by sinks and a window", {score({"sliding_window", {{"sinks", 4}, {"window", kFew + 32}}})}};
    Figure dense{"by dense attention", {score({"dense", json::object()})}};
    Table needles{"Share of the answers' bytes that are right, a needle in 1024 bytes, 100 keys a query",
                  {"attention", "score"},
                  {{"dense", dense.text()}, {"`hip_attention`", searched.text()}, {"sinks and window", nearby.text()}}};
    const auto mean = [&](size_t i) { return Figure{mass[i].name + ", mass", {mass[i].mean()}}; };
    return Finding{
        fmt::format("The language model that comes with heed reads {} bytes of a text; attention mass of the last {} "
                    "queries on {} sinks, a window of {} and {} further keys (a tenth of all), three layers. Nothing "
                    "is trained; {} samples with needles.",
                    kTokens, kRows, kSinks, kWindow, kBudget, kSamples),
        {table, needles},
        {exceeds(mean(0), mean(3)), exceeds(mean(0), mean(2)), reaches(mean(0), mean(1), 0.05),
         exceeds(searched, nearby), reaches(searched, dense, 0.1)}};
  };
  return {"tree_search",
          "Halving runs of keys",
          {"hip_attention"},
          "a search by true scores of representatives finds most of what the exact top keys hold, and the needle "
          "wherever it is, without training (arXiv 2406.09827).",
          run};
}

Experiment chunks() {
  const auto run = [](const Report& report) {
    constexpr int64_t kTokens = 1024, kSize = 32, kBudget = 128;
    constexpr uint64_t kDraws = 8;
    const std::vector<std::pair<const char*, json>> kinds{
        {"dynamic chunks, sqrt", {{"borders", "similarity"}, {"pooling", "sqrt"}}},
        {"dynamic chunks, mean", {{"borders", "similarity"}, {"pooling", "mean"}}},
        {"dynamic chunks, sum", {{"borders", "similarity"}, {"pooling", "sum"}}},
        {"fixed blocks, sqrt", {{"borders", "fixed"}, {"pooling", "sqrt"}}}};
    std::vector<Figure> masses;
    for (const auto& kind : kinds) masses.push_back({kind.first, {}});
    Figure best{"exact top keys", {}};
    for (uint64_t seed = 0; seed < kDraws; ++seed) {
      const auto drawn = drawn_topics(kTokens, kSize, seed);
      const auto exact = bench::exact_attention(drawn.tensors.q, drawn.tensors.k, drawn.tensors.v, true);
      best.values.push_back(
          std::get<0>(weights_of(drawn.tensors, kTokens - kBudget).topk(kBudget, 2)).sum(2).mean().item<double>());
      for (size_t i = 0; i < kinds.size(); ++i) {
        report((double(seed) + double(i) / double(kinds.size())) / double(kDraws), kinds[i].first);
        auto settings = kinds[i].second;
        settings["budget"] = kBudget;
        if (settings["borders"] == "fixed") settings["min_chunk"] = settings["max_chunk"] = drawn.mean_length;
        const auto found = mixed("dynamic_hierarchical_sparse_attention", settings, drawn.tensors);
        masses[i].values.push_back(torch::exp(found.lse.to(torch::kFloat64) - exact.lse)
                                       .narrow(2, kBudget, kTokens - kBudget)
                                       .mean()
                                       .item<double>() /
                                   best.values.back());
      }
    }
    // Draws differ more than chunks do: the two are compared draw by draw.
    const auto over = [&](const Figure& other) {
      Figure ratio{fmt::format("{} over {}", masses[0].name, other.name), {}};
      for (size_t i = 0; i < other.values.size(); ++i) ratio.values.push_back(masses[0].values[i] / other.values[i]);
      return exceeds(ratio, {"1", {1}});
    };
    Table table{"", {"chunks", "attention mass, of that of the exact top keys"}, {}};
    for (const auto& mass : masses) table.rows.push_back({mass.name, mass.text()});
    return Finding{
        fmt::format("{} keys of {} channels in runs of 16 to 128 of one topic; queries of a run ask for an earlier "
                    "topic. {} keys a query; fixed blocks have the mean length of the runs. Borders from the "
                    "similarity of neighbours, no predictor. {} draws; the exact top keys hold {} of the attention.",
                    kTokens, kSize, kBudget, kDraws, best.text()),
        {table},
        {over(masses[3]), over(masses[1]), over(masses[2])}};
  };
  return {"chunks",
          "Chunks that end where their content does",
          {"dynamic_hierarchical_sparse_attention"},
          "chunks cut by content hold more of the attention than fixed blocks, and sums over the root of their length "
          "rank them better than means or sums (arXiv 2510.24606).",
          run};
}

Experiment core_tokens() {
  const auto run = [](const Report& report) {
    constexpr int64_t kTokens = 1024, kGroup = 8, kWindow = 64;
    const auto layers = shipped_tensors()->tensors(kTokens);
    Figure cores{"error of core tokens", {}}, means{"error of mean tokens", {}},
        window{"error of the window alone", {}};
    Table table{"", {"layer", "core tokens", "means of groups", "window alone"}, {}};
    for (const auto& t : layers) {
      report(double(cores.values.size()) / double(layers.size()), fmt::format("layer {}", t.layer));
      const auto exact = bench::exact_attention(t.q, t.k, t.v, true).out;
      cores.values.push_back(
          error_of(mixed("core_context_attention", {{"group", kGroup}, {"window", kWindow}}, t).out, exact));
      window.values.push_back(error_of(mixed("sliding_window", {{"window", kWindow}, {"sinks", 0}}, t).out, exact));
      // The same keys in sight, groups as their means.
      const auto pooled = [&](const Tensor& x) { return x.unflatten(2, {-1, kGroup}).mean(3); };
      const auto k = torch::cat({pooled(t.k), t.k}, 2), v = torch::cat({pooled(t.v), t.v}, 2);
      const auto at = torch::arange(kTokens).unsqueeze(1), places = torch::arange(kTokens);
      const auto groups = (at + 1 - kWindow).clamp_min(0).div(kGroup, "floor");  // of the past, for each query
      const auto seen =
          torch::cat({torch::arange(kTokens / kGroup) < groups, (places >= groups * kGroup) & (places <= at)}, 1);
      AttentionOptions options;
      options.bias = torch::zeros({1, 1, kTokens, k.size(2)}).masked_fill(seen.logical_not(), -INFINITY);
      means.values.push_back(error_of(attention(t.q, k, v, options), exact));
      table.rows.push_back({std::to_string(t.layer), bench::error_text(cores.values.back()),
                            bench::error_text(means.values.back()), bench::error_text(window.values.back())});
    }
    const auto mean = [](const Figure& figure) { return Figure{figure.name, {figure.mean()}}; };
    return Finding{fmt::format("Three layers of the language model that comes with heed, reading {} bytes: groups of "
                               "{} older than a window of {} as one token each; relative error of the outputs, "
                               "untrained. Claims are on the mean of the layers.",
                               kTokens, kGroup, kWindow),
                   {table},
                   {exceeds(mean(window), mean(cores)), exceeds(mean(means), mean(cores))}};
  };
  return {"core_tokens",
          "Far tokens as one each group",
          {"core_context_attention"},
          "groups weighed by their last query stand for their tokens better than means, and better than nothing (arXiv "
          "2412.12465).",
          run};
}

}  // namespace heed::results::sparse
