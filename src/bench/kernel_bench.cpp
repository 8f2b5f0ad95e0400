#include "heed/bench/kernel_bench.h"

#include <fmt/format.h>

#include "bench/kernel_problem.h"
#include "bench/memory_meter.h"
#include "heed/bench/measure.h"
#include "heed/kernels/limits.h"
#include "heed/kernels/runtime.h"

namespace heed::bench {
namespace {

using Call = KernelCase::Call;
using Compared = KernelCase::Compared;

constexpr int kRounds = 3;             // limits are measured around each
constexpr double kRoundSeconds = 0.5;  // of timed calls
constexpr int kAttempts = 3;           // at a figure that lies above its limit
constexpr int kLeastCalls = 3, kMostCalls = 200;

double timed_call(KernelProblem& problem) {
  const double start = now();
  problem.run();
  return now() - start;
}

CheckResult require_check(KernelProblem& problem) {
  const auto checked = problem.check();
  if (!checked.passed())
    throw Refused(fmt::format("{}: error {:.2e} against the double reference is above {:.2e}: not timed",
                              problem.shape().id(), checked.error, checked.tolerance));
  return checked;
}

std::string unit_of(const KernelCase& c) {
  static const char* units[] = {"GFLOP/s", "GB/s", "Gstate/s", "GFLOP/s"};
  return units[static_cast<int>(c.bound())];
}

}  // namespace

namespace {

/// Times the problem and, in turn with it, its partner, with limits measured around every round.
KernelResult time_beside_limits(KernelProblem& problem, KernelProblem* partner) {
  const KernelCase& c = problem.shape();
  const int threads = kernels::num_threads();
  std::vector<double> times, partner_times, peaks, reads, states;
  const auto measure_limits = [&] {
    peaks.push_back(kernels::measure_peak_gflops(threads));
    if (c.bound_by_reading()) reads.push_back(kernels::measure_read_gbps(threads));
    if (c.bound() == KernelCase::Bound::states) states.push_back(kernels::measure_state_updates(threads));
  };
  measure_limits();
  for (int round = 0; round < kRounds; ++round) {
    double spent = 0;
    for (int call = 0; call < kMostCalls && (call < kLeastCalls || spent < kRoundSeconds); ++call) {
      times.push_back(timed_call(problem));
      spent += times.back();
      if (partner != nullptr) partner_times.push_back(timed_call(*partner));
    }
    measure_limits();
  }
  if (reads.empty()) reads.push_back(kernels::measure_read_gbps(threads));

  const double seconds = median(times);
  KernelResult result{.shape = c};
  result.time_ms = seconds * 1e3;
  result.repetitions = static_cast<int>(times.size());
  result.peak_gflops = median(peaks);
  result.read_gbps = median(reads);
  result.limit = c.bound_by_reading() ? result.read_gbps : states.empty() ? result.peak_gflops : median(states);
  result.limit *= c.useful_in_tiles();
  result.rate = (c.bound_by_reading() ? c.kv_bytes() : c.flops()) / seconds * 1e-9;
  if (partner != nullptr) {
    result.ratio = seconds / median(partner_times);
    if (c.compared == Compared::by_work) result.ratio *= partner->shape().flops() / c.flops();
  }
  return result;
}

}  // namespace

KernelResult measure_kernel(const KernelCase& c, const KernelCase* partner) {
  KernelProblem problem(c);
  const double error = require_check(problem).error;
  std::unique_ptr<KernelProblem> beside;
  if (partner != nullptr) {
    beside = std::make_unique<KernelProblem>(*partner);
    require_check(*beside);
  }
  // Every cache is touched once before it counts.
  for (size_t i = 0; i < std::max<size_t>(1, problem.caches()); ++i) problem.run();
  KernelResult result;
  // On a busy machine a limit can be measured while others work and the case while they rest: then both are measured
  // again.
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    result = time_beside_limits(problem, beside.get());
    if (result.rate <= result.limit) break;
  }
  refuse_above_limit(c.id(), result.rate, result.limit, unit_of(c));
  result.error = error;
  MemoryMeter meter;
  problem.run();
  result.extra_bytes = meter.peak();
  return result;
}

double time_kernel(const KernelCase& c) {
  KernelProblem problem(c);
  problem.run();
  std::vector<double> times;
  double spent = 0;
  while (times.size() < 3 || (spent < kRoundSeconds && times.size() < kMostCalls)) {
    times.push_back(timed_call(problem));
    spent += times.back();
  }
  return median(times);
}

MemoryResult measure_memory(int64_t length) {
  KernelCase c;
  c.q_heads = c.kv_heads = 1;
  c.queries = c.keys = length;
  KernelProblem problem(c);
  MemoryMeter meter;
  problem.run();
  return {length, kernels::flash_forward_bytes(problem.flash()), meter.peak()};
}

nlohmann::ordered_json to_json(const KernelResult& r) {
  const auto& c = r.shape;
  nlohmann::ordered_json row{
      {"kernel", c.kernel()},
      {"case", c.name},
      {"dtype", name_of(c.dtype)},
      {"B", c.batch},
      {"Hq", c.q_heads},
      {"Hkv", c.kv_heads},
      {"N", c.queries},
      {"M", c.keys},
      {"D", c.d},
      {"time_ms", r.time_ms},
      {"limit", r.limit},
      {"share", r.share()},
      {"extra_bytes", r.extra_bytes},
      {"checked", true},
      {"limit_unit", unit_of(c)},
      {"rate", r.rate},
      {"useful_gflop", c.flops() * 1e-9},
      {"kv_bytes", c.kv_bytes()},
      {"error", r.error},
      {"repetitions", r.repetitions},
      {"peak_gflops", r.peak_gflops},
      {"read_gbps", r.read_gbps},
      {"command", fmt::format("heed bench kernels --threads {} --filter '{}'", kernels::num_threads(), c.id())}};
  if (c.around) {
    // Of whole tiles; the kernel can stay below their work, because parts of a tile skip keys.
    row["tile_share"] = r.rate / (r.peak_gflops * c.useful_in_tiles(true));
    row["useful_in_tiles"] = c.useful_in_tiles(true);
    row["useful_in_parts"] = c.useful_in_tiles();
  }
  if (r.ratio > 0) {
    row["ratio"] = r.ratio;
    row["ratio_to"] = c.partner;
    row["ratio_of"] = c.compared == Compared::by_work ? "time per useful operation" : "time";
    // Of the speed-up that less work promises, what is reached.
    if (c.kernel() == "block_sparse" && c.compared == Compared::by_work) row["efficiency"] = 1 / r.ratio;
  }
  return row;
}

nlohmann::ordered_json to_json(const PeerResult& r) {
  const auto& c = r.shape;
  nlohmann::ordered_json row{{"kernel", c.kernel()}, {"case", c.name},  {"dtype", name_of(c.dtype)},
                             {"B", c.batch},         {"Hq", c.q_heads}, {"Hkv", c.kv_heads},
                             {"N", c.queries},       {"M", c.keys},     {"D", c.d},
                             {"peer", r.peer}};
  if (!r.skipped.empty()) {
    row["skipped"] = r.skipped;
    return row;
  }
  row["peer_ms"] = r.peer_ms;
  row["heed_ms"] = r.heed_ms;
  row["ratio"] = r.ratio();
  return row;
}

}  // namespace heed::bench
