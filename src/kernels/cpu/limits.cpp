#include "heed/kernels/limits.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/limits.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

// Enough independent chains for latency times throughput, few enough for the registers.
constexpr int kChains = kTileRows == 8 ? 16 : 12;

/// Runs `rounds` rounds of multiply-adds; returns how many float operations that was. `sink` keeps them from being
/// dropped.
double MultiplyAdds(int64_t rounds, float* sink) {
  const Lanes d;
  Vector sum[kChains];
  HWY_UNROLL(16) for (int c = 0; c < kChains; ++c) sum[c] = hn::Set(d, static_cast<float>(c));
  const Vector a = hn::Set(d, sink[0]), b = hn::Set(d, sink[1]);
  for (int64_t round = 0; round < rounds; ++round) {
    HWY_UNROLL(16) for (int c = 0; c < kChains; ++c) sum[c] = hn::MulAdd(sum[c], a, b);
  }
  Vector total = hn::Zero(d);
  HWY_UNROLL(16) for (int c = 0; c < kChains; ++c) total = hn::Add(total, sum[c]);
  sink[2] += hn::GetLane(total);
  return 2.0 * kChains * kLanes * static_cast<double>(rounds);
}

/// The arithmetic of the selective scan alone; returns how many states were updated.
double StateUpdates(int64_t rounds, float* sink) {
  constexpr int kStates = kTileRows;
  const FlushDenormals flush;
  const Lanes d;
  Vector state[kStates], rate[kStates];
  HWY_UNROLL(8) for (int n = 0; n < kStates; ++n) {
    state[n] = hn::Set(d, sink[0]);
    rate[n] = hn::Set(d, -static_cast<float>(n + 1));
  }
  const Vector write = hn::Set(d, sink[2]), in = hn::Set(d, sink[3]), out = hn::Set(d, sink[4]);
  HWY_ALIGN float step[kLanes];
  hn::Store(hn::Set(d, sink[1]), d, step);
  Vector total = hn::Zero(d);
  for (int64_t round = 0; round < rounds; ++round) {
    Vector y = hn::Zero(d);
    HWY_UNROLL(8) for (int n = 0; n < kStates; ++n) {
      // The compiler does not know that the step stands still, so that no exponential is left out.
      const Vector exponent = hn::Mul(hn::LoadU(d, forget_origin(step)), rate[n]);
      state[n] = hn::MulAdd(exp2_flushed(exponent), state[n], hn::Mul(write, in));
      y = hn::MulAdd(state[n], out, y);
    }
    total = hn::Add(total, y);
  }
  sink[5] += hn::GetLane(total);
  return static_cast<double>(kStates) * kLanes * static_cast<double>(rounds);
}

float ReadAll(const float* data, int64_t count) {
  const Lanes d;
  Vector sum[4];
  HWY_UNROLL(4) for (int c = 0; c < 4; ++c) sum[c] = hn::Zero(d);
  for (int64_t i = 0; i + 4 * kLanes <= count; i += 4 * kLanes) {
    HWY_UNROLL(4) for (int c = 0; c < 4; ++c) sum[c] = hn::Add(sum[c], hn::LoadU(d, data + i + c * kLanes));
  }
  return hn::GetLane(hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3])));
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {
namespace {

HWY_EXPORT(MultiplyAdds);
HWY_EXPORT(StateUpdates);
HWY_EXPORT(ReadAll);

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// 1e9 operations a second of all threads: the median of 21 runs of about 5 ms.
double sustained_rate(double (*kernel)(int64_t, float*), int threads) {
  std::vector<float> sinks(threads * 64, 0.5f);
  // The length of a run is set on one thread: waking others takes long on a busy machine and says nothing of the rate.
  int64_t rounds = 10000;
  for (double elapsed = 0; elapsed < 0.004;) {
    rounds *= 2;
    const double start = seconds();
    kernel(rounds, sinks.data());
    elapsed = seconds() - start;
  }
  std::array<double, 21> rates{};
  for (double& rate : rates) {
    double operations = 0;
    const double start = seconds();
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+ : operations)
    for (int t = 0; t < threads; ++t) operations += kernel(rounds, sinks.data() + t * 64);
    rate = operations / (seconds() - start) * 1e-9;
  }
  std::nth_element(rates.begin(), rates.begin() + rates.size() / 2, rates.end());
  return rates[rates.size() / 2];
}

}  // namespace

double measure_peak_gflops(int threads) { return sustained_rate(HEED_DISPATCH(MultiplyAdds), threads); }

double measure_state_updates(int threads) { return sustained_rate(HEED_DISPATCH(StateUpdates), threads); }

double measure_read_gbps(int threads) {
  const auto kernel = HEED_DISPATCH(ReadAll);
  const int64_t count = int64_t{64} << 20, share = count / threads;
  const std::unique_ptr<float[]> data(new float[count]);
  std::vector<float> sinks(threads * 64);
  double best = 0;
  // The first round writes, so that every page exists and lies near the thread that will read it.
  for (int repeat = 0; repeat < 6; ++repeat) {
    const double start = seconds();
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; ++t) {
      float* part = data.get() + t * share;
      if (repeat == 0) {
        std::memset(part, 0, share * sizeof(float));
      } else {
        sinks[t * 64] += kernel(part, share);
      }
    }
    const double elapsed = seconds() - start;
    if (repeat > 0) best = std::max(best, static_cast<double>(share * threads) * sizeof(float) / elapsed * 1e-9);
  }
  // Reading the sums keeps the reads; they are of zeros.
  return best + static_cast<double>(sinks[0]);
}

}  // namespace heed::kernels
#endif  // HWY_ONCE
