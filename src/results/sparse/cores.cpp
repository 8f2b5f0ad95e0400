#include "results/sparse/cores.h"

#include "heed/mixers/token_mixer.h"

namespace heed::results::sparse {

using torch::Tensor;

Mixed mixed(const std::string& mixer, nlohmann::json settings, const bench::LayerTensors& t) {
  const int64_t heads = t.q.size(1), size = t.q.size(3);
  settings.update({{"dim", heads * size}, {"heads", heads}, {"kv_heads", t.k.size(1)}, {"head_dim", size}});
  torch::manual_seed(0);
  const auto core = make_mixer(mixer, settings);
  core->eval();
  torch::NoGradGuard no_grad;
  nn::CoreReport report;
  CoreInput in{t.q, t.k, t.v};
  in.report = &report;
  const auto out = core->mix(in);
  return {out, report.lse};
}

double error_of(const Tensor& out, const Tensor& exact) {
  return ((out.to(torch::kFloat64) - exact).norm() / exact.norm()).item<double>();
}

}  // namespace heed::results::sparse
