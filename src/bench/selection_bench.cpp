#include "heed/bench/selection_bench.h"

#include <cmath>

#include "heed/attention.h"
#include "heed/bench/measure.h"
#include "heed/error.h"
#include "heed/mixers/token_mixer.h"
#include "heed/nn/lsh.h"
#include "heed/ops/cache.h"
#include "heed/ops/select_blocks.h"

namespace heed::bench {
namespace {

using torch::Tensor;

constexpr int64_t kSize = 64;

Tensor drawn(int64_t length, uint64_t seed) { return nn::seeded_normal({1, 1, length, kSize}, seed); }

template <class Run>
double seconds_of(const Run& run) {
  const double start = now();
  run();
  return now() - start;
}

}  // namespace

DynamicSelection measure_dynamic_selection(int64_t length, int64_t block, double density, int rounds) {
  torch::NoGradGuard no_grad;
  const ops::BlockGrid grid{length, length, block, block};
  const auto count = static_cast<int64_t>(std::lround(density * static_cast<double>(grid.key_blocks())));
  require(count >= 1 && count <= grid.key_blocks(), "density {} of {} blocks: a block or more is accepted", density,
          grid.key_blocks());
  const auto q = drawn(length, 1), k = drawn(length, 2), v = drawn(length, 3);
  AttentionOptions options;
  const auto select = [&] {
    const auto scores = torch::matmul(ops::block_means(q, block), ops::block_means(k, block).transpose(2, 3));
    options.blocks = ops::block_list_of_rows(ops::top_k(scores, count), grid);
  };
  select();
  attention(q, k, v, options);
  std::vector<double> selecting, attending, dense;
  for (int round = 0; round < rounds; ++round) {
    selecting.push_back(seconds_of(select));
    attending.push_back(seconds_of([&] { attention(q, k, v, options); }));
    dense.push_back(seconds_of([&] { attention(q, k, v); }));
  }
  DynamicSelection result{length, block};
  result.density = static_cast<double>(ops::area(*options.blocks, grid, {}, 1, 1)) /
                   (static_cast<double>(length) * static_cast<double>(length));
  result.select_seconds = median(selecting);
  result.attend_seconds = median(attending);
  result.dense_seconds = median(dense);
  return result;
}

double Growth::exponent() const {
  double x = 0, y = 0, xx = 0, xy = 0;
  const auto n = static_cast<double>(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) {
    const double a = std::log(static_cast<double>(lengths[i])), b = std::log(seconds[i]);
    x += a, y += b, xx += a * a, xy += a * b;
  }
  return (n * xy - x * y) / (n * xx - x * x);
}

Growth measure_growth(const std::string& mixer, const nlohmann::json& config, const std::vector<int64_t>& lengths,
                      int rounds) {
  require(lengths.size() >= 2, "growth over {} lengths: two or more are accepted", lengths.size());
  torch::NoGradGuard no_grad;
  auto all = config;
  all.update({{"dim", kSize}, {"heads", 1}});
  const auto core = make_mixer(mixer, all);
  core->eval();
  Growth growth{mixer, config, lengths, {}};
  for (const int64_t length : lengths) {
    const CoreInput in{drawn(length, 1), drawn(length, 2), drawn(length, 3)};
    std::vector<double> times;
    core->mix(in);
    for (int round = 0; round < rounds; ++round) times.push_back(seconds_of([&] { core->mix(in); }));
    growth.seconds.push_back(median(times));
  }
  return growth;
}

nlohmann::ordered_json to_json(const DynamicSelection& r) {
  return {{"N", r.length},
          {"block", r.block},
          {"density", r.density},
          {"select_ms", r.select_seconds * 1e3},
          {"attend_ms", r.attend_seconds * 1e3},
          {"dense_ms", r.dense_seconds * 1e3},
          {"speed_up", r.speed_up()},
          {"efficiency", r.efficiency()}};
}

nlohmann::ordered_json to_json(const Growth& r) {
  auto times = nlohmann::ordered_json::array();
  for (const double seconds : r.seconds) times.push_back(seconds * 1e3);
  return {{"mixer", r.name}, {"config", r.config}, {"lengths", r.lengths}, {"ms", times}, {"exponent", r.exponent()}};
}

}  // namespace heed::bench
