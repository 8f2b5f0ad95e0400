// Low-rank updates of linear layers (LoRA, arXiv 2106.09685), and what else LongLoRA (arXiv 2309.12307) trains.
#pragma once

#include <torch/torch.h>

#include <string>
#include <vector>

namespace heed::nn {

struct LoraOptions {
  int64_t rank = 8;
  double alpha = 16;  ///< updates are scaled by alpha / rank
  /// Linear layers whose names end with one of these.
  std::vector<std::string> layers{"q_proj", "k_proj", "v_proj", "o_proj"};
  /// Parameters of the model that stay trainable because their name holds one of these; LongLoRA: {"embed", "norm"}.
  std::vector<std::string> also;
  uint64_t seed = 0;
};

/// W + alpha / rank B A beside every chosen weight W of a model, which is frozen, as are all parameters but `also`. A
/// starts normal, B at 0, so that the model starts as it was. The model must outlive this object.
class LoraImpl : public torch::nn::Module {
 public:
  /// Throws heed::Error where no layer fits, or the rank exceeds a layer's sizes.
  LoraImpl(torch::nn::Module& model, const LoraOptions& options);

  /// Gives the layers their updated weights, of which the graph leads to A and B. Before every forward that shall have
  /// gradients, or after a step.
  void apply_updates();
  /// Adds the updates to the weights for good and starts anew from 0.
  void merge();
  /// A, B, and the parameters of the model that are trained: what an optimiser takes.
  std::vector<torch::Tensor> trainable() const;

 private:
  struct Update {
    std::shared_ptr<torch::nn::LinearImpl> layer;
    torch::Tensor base, a, b;  ///< [out, in], [rank, in], [out, rank]
  };
  torch::Tensor updated(const Update& update) const;

  std::vector<Update> updates_;
  std::vector<torch::Tensor> others_;
  double scale_;
};
TORCH_MODULE(Lora);

}  // namespace heed::nn
