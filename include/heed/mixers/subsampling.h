// Layers that see random parts of a sequence while they learn (stochastic_subsampled_attention).
#pragma once

#include <torch/torch.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace heed {

class Subsampling {
 public:
  virtual ~Subsampling() = default;
  /// When keys are drawn: in training (at first), always (self-ensembles), or never (the dense end of a training).
  enum class When { training, always, never };
  When subsampled = When::training;
};

/// Sets all such layers within `model` (their rows' "evaluate" is what they begin with); returns how many there are.
int64_t set_subsampling(torch::nn::Module& model, Subsampling::When when);

/// All such layers within `model` draw `when` told to while this lives; then each does as before.
class SubsamplingScope {
 public:
  SubsamplingScope(torch::nn::Module& model, Subsampling::When when);
  ~SubsamplingScope();
  SubsamplingScope(const SubsamplingScope&) = delete;
  SubsamplingScope& operator=(const SubsamplingScope&) = delete;

  int64_t layers() const { return int64_t(before_.size()); }

 private:
  std::vector<std::pair<std::shared_ptr<torch::nn::Module>, Subsampling::When>> before_;
};

}  // namespace heed
