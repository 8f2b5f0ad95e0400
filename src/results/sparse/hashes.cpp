// Sorted hashes on planted tensors, and how the time of searches grows.
#include <fmt/format.h>

#include <map>

#include "bench/units.h"
#include "heed/attention.h"
#include "heed/bench/compare.h"
#include "heed/bench/selection_bench.h"
#include "heed/mixers/token_mixer.h"
#include "heed/nn/generator.h"
#include "heed/nn/lsh.h"
#include "results/sparse/cores.h"
#include "results/sparse/experiments.h"
#include "results/timing.h"

namespace heed::results::sparse {

using nlohmann::json;
using torch::Tensor;

Experiment sorted_hashes() {
  const auto run = [](const Report& report) {
    constexpr int64_t kTokens = 2048, kSize = 64;
    const std::vector<int64_t> halves{32, 128, 512};
    std::map<std::string, std::vector<double>> errors;
    const std::vector<std::pair<std::string, int64_t>> sorts{{"hashes of 7 bits", 7}, {"hashes of 1 bit", 1}};
    double done = 0;
    for (const bool planted : {true, false}) {
      const auto numbers = nn::seeded_generator(planted ? 1 : 2);
      const auto normal = [&] { return torch::randn({kTokens, kSize}, numbers); };
      const auto q = 1.15 * normal();
      auto k = normal();
      if (planted) k = torch::empty_like(q).index_copy_(0, torch::randperm(kTokens, numbers), q + 0.3 * normal());
      const auto head = [](const Tensor& x) { return x.view({1, 1, kTokens, kSize}); };
      const bench::LayerTensors tensors{0, head(q), head(k), head(normal())};
      const auto exact = bench::exact_attention(tensors.q, tensors.k, tensors.v, false).out;
      for (const auto& [sort, bits] : sorts)
        for (const auto half : halves) {
          report(0.5 * done++ / double(4 * halves.size()), sort);
          errors[(planted ? "planted, " : "isotropic, ") + sort].push_back(error_of(
              mixed("hyper_attention",
                    {{"causal", false}, {"bits", bits}, {"block", half}, {"samples", half}, {"exact_length", 0}},
                    tensors)
                  .out,
              exact));
        }
    }
    Table table{"Relative error of the outputs by keys a query, half of a block and half sampled", {"data"}, {}};
    for (const auto half : halves) table.columns.push_back(std::to_string(2 * half));
    for (const auto& [name, values] : errors) {
      table.rows.push_back({name});
      for (const double value : values) table.rows.back().push_back(bench::error_text(value));
    }
    Table times{"Time of flash attention over that of 256 + 256 keys", {"tokens", "noncausal", "causal"}, {}};
    std::vector<double> gains;
    for (const int64_t length : {2048, 4096, 8192, 16384}) {
      report(0.5 + 0.1 * double(gains.size()), fmt::format("{} tokens", length));
      const auto normal = [&](uint64_t seed) { return nn::seeded_normal({1, 1, length, kSize}, seed); };
      const auto q = normal(1), k = normal(2), v = normal(3);
      std::vector<std::string> row{std::to_string(length)};
      for (const bool causal : {false, true}) {
        const auto core =
            make_mixer("hyper_attention", {{"dim", kSize}, {"heads", 1}, {"causal", causal}, {"exact_length", 1024}});
        AttentionOptions options;
        if (causal) options.mask = Causal{};
        const double gain = cost_of([&] { attention(q, k, v, options); }).seconds / cost_of([&] {
                                                                                      core->mix({q, k, v});
                                                                                    }).seconds;
        if (!causal) gains.push_back(gain);
        row.push_back(fmt::format("{:.2f}x", gain));
      }
      times.rows.push_back(row);
    }
    const auto figure = [&](const std::string& name) { return Figure{"error, " + name, {errors[name][1]}}; };
    return Finding{
        fmt::format("{} queries and keys of {} channels. Planted: every query has a key near it, anywhere; "
                    "isotropic: none has. Hashes of one bit leave the order almost random. Claims are at "
                    "256 keys a query, and on time without a mask.",
                    kTokens, kSize),
        {table, times},
        {exceeds(figure("planted, hashes of 1 bit"), figure("planted, hashes of 7 bits"), 1.1),
         reaches(figure("isotropic, hashes of 7 bits"), figure("isotropic, hashes of 1 bit"),
                 0.05 * errors["isotropic, hashes of 1 bit"][1]),
         holds("its gain over flash grows with the length",
               gains.back() > 1.5 * gains.front() && gains.back() > gains[2],
               fmt::format("{:.2f}x to {:.2f}x", gains.front(), gains.back())),
         holds("it is faster than flash at 16384 tokens", gains.back() > 1, fmt::format("{:.2f}x", gains.back()))}};
  };
  return {"sorted_hashes",
          "Large weights by sorted hashes",
          {"hyper_attention"},
          "hashes find large weights where there are any, a sample stands for the rest, and time passes flash "
          "attention's at some length (arXiv 2310.05869).",
          run};
}

Experiment growth() {
  const auto run = [](const Report& report) {
    const std::vector<int64_t> lengths{2048, 4096, 8192, 16384};
    double done = 0;
    Table table{"", {"mechanism", "exponent"}, {}};
    for (const auto length : lengths) table.columns.push_back(std::to_string(length));
    std::map<std::string, double> exponent;
    const auto add = [&](const bench::Growth& growth) {
      exponent[growth.name] = growth.exponent();
      table.rows.push_back({fmt::format("`{}`", growth.name), fmt::format("{:.2f}", growth.exponent())});
      for (const double seconds : growth.seconds) table.rows.back().push_back(bench::time_text(seconds));
    };
    for (const auto& [name, settings] : std::vector<std::pair<std::string, json>>{
             {"dense", json::object()}, {"hip_attention", json::object()}, {"superlinear_attention", json::object()}}) {
      report(0.25 * done++, name);
      add(bench::measure_growth(name, settings, lengths, 3));
    }
    report(0.75, "routing_attention");
    bench::Growth routed{"routing_attention", {}, lengths, {}};
    for (const auto length : lengths) {
      // As many clusters as the root of the length, which is what max_length makes them.
      const auto mixer =
          make_mixer("routing_attention", {{"dim", 64}, {"heads", 1}, {"max_length", length}, {"local_heads", 0}});
      mixer->eval();
      MixerInput in;
      in.x = nn::seeded_normal({1, length, 64}, 1);
      routed.seconds.push_back(cost_of([&] { mixer->forward(in); }).seconds);
    }
    add(routed);
    const auto between = [&](const char* name, double low, double high) {
      return holds(fmt::format("time of {} grows with a power between {:g} and {:g}", name, low, high),
                   exponent[name] >= low && exponent[name] <= high, fmt::format("N^{:.2f}", exponent[name]));
    };
    return Finding{
        "One head of 64, causal, normal queries and keys (of `routing_attention` a layer with its linear "
        "maps); the exponent is the slope of log time over log length.",
        {table},
        {between("routing_attention", 1.25, 1.75), between("superlinear_attention", 1.25, 1.75),
         between("hip_attention", 0.9, 1.4), between("dense", 1.75, 2.25)}};
  };
  return {"growth",
          "How time grows with length",
          {"routing_attention", "superlinear_attention", "hip_attention"},
          "N^1.5 of clusters and of jumps (arXiv 2003.05997, 2601.18401), and N log N of halving (arXiv 2406.09827).",
          run};
}

}  // namespace heed::results::sparse
