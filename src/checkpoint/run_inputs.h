// What `heed run` reads, and the operators that take other tensors than attention does.
#pragma once

#include <algorithm>

#include "heed/checkpoint/run.h"
#include "heed/checkpoint/tensor_file.h"
#include "heed/error.h"
#include "heed/names.h"

namespace heed::checkpoint {

/// The tensors of the input file; remembers which were used, so that a misspelt one is noticed.
class Inputs {
 public:
  explicit Inputs(const RunRequest& request) : request_(request), tensors_(load_tensors(request.in)) {
    if (!request.grad) tensors_.erase("grad");
    for (auto& [name, tensor] : tensors_)
      if (request.grad && name != "grad" && tensor.is_floating_point()) tensor.requires_grad_();
  }

  std::optional<torch::Tensor> optional(const std::string& name) {
    used_.push_back(name);
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? std::nullopt : std::optional<torch::Tensor>(found->second);
  }
  torch::Tensor required(const std::string& name) {
    const auto tensor = optional(name);
    require(tensor.has_value(), "{}: tensor {} is missing: {} takes it", request_.in.string(), name, request_.name);
    return *tensor;
  }
  void finish() const {
    for (const auto& [name, tensor] : tensors_)
      require(name == "grad" || std::find(used_.begin(), used_.end(), name) != used_.end(), "{}: tensor {}: {}",
              request_.in.string(), name, suggest(name, used_));
  }
  const TensorMap& tensors() const { return tensors_; }

 private:
  const RunRequest& request_;
  TensorMap tensors_;
  std::vector<std::string> used_;
};

/// The outputs of op:NAME under their names, `out` among them, where NAME is a recurrence or a convolution; else
/// nothing.
std::optional<TensorMap> run_recurrence(const std::string& name, const RunRequest& request, Inputs& inputs);
/// Likewise, where NAME is a neighbourhood of a grid.
std::optional<TensorMap> run_neighborhood(const std::string& name, const RunRequest& request, Inputs& inputs);

}  // namespace heed::checkpoint
