#include "results/timing.h"

#include <torch/torch.h>

#include "bench/memory_meter.h"
#include "heed/bench/measure.h"

namespace heed::results {

Cost cost_of(const std::function<void()>& call) {
  torch::NoGradGuard no_grad;
  Cost cost;
  {
    bench::MemoryMeter meter;
    call();
    cost.bytes = meter.peak();
  }
  std::vector<double> seconds;
  for (double spent = 0; seconds.size() < 3 || (spent < 0.3 && seconds.size() < 100);) {
    const double begin = bench::now();
    call();
    seconds.push_back(bench::now() - begin);
    spent += seconds.back();
  }
  cost.seconds = bench::median(seconds);
  return cost;
}

}  // namespace heed::results
