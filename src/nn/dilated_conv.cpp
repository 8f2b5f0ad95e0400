#include "heed/nn/dilated_conv.h"

#include <map>

#include "heed/error.h"
#include "heed/nn/shown_norm.h"

namespace heed::nn {

using torch::Tensor;

namespace {

using Branches = std::vector<std::pair<int64_t, int64_t>>;  // cells a side, and how far they are apart

/// The choice of the paper for each size.
const Branches& branches_of(int64_t size) {
  static const std::map<int64_t, Branches> table{{3, {}},
                                                 {5, {{3, 1}, {3, 2}}},
                                                 {7, {{5, 1}, {3, 2}, {3, 3}}},
                                                 {9, {{5, 1}, {5, 2}, {3, 3}, {3, 4}}},
                                                 {11, {{5, 1}, {5, 2}, {3, 3}, {3, 4}, {3, 5}}},
                                                 {13, {{5, 1}, {7, 2}, {3, 3}, {3, 4}, {3, 5}}},
                                                 {15, {{5, 1}, {7, 2}, {3, 3}, {3, 5}, {3, 7}}},
                                                 {17, {{5, 1}, {9, 2}, {3, 4}, {3, 5}, {3, 7}}}};
  const auto found = table.find(size);
  require(found != table.end(), "a dilated convolution of {} x {} cells; odd sizes from 3 to 17 are accepted", size,
          size);
  return found->second;
}

}  // namespace

DilatedConvImpl::DilatedConvImpl(int64_t channels, int64_t size) : size_(size) {
  auto all = branches_of(size);
  all.insert(all.begin(), {size, 1});
  for (const auto& [cells, dilation] : all) {
    const auto number = std::to_string(convs_.size());
    convs_.push_back(register_module("conv_" + number, GridConv(channels, cells, false, dilation)));
    norms_.push_back(register_module("norm_" + number, torch::nn::BatchNorm1d(channels)));
    dilations_.push_back(dilation);
  }
}

Tensor DilatedConvImpl::branches(const Tensor& tokens, int64_t height, int64_t width, const Tensor& hidden) {
  Tensor sum;
  for (size_t i = 0; i < convs_.size(); ++i) {
    const auto part = norm_of_shown(norms_[i], convs_[i](tokens, height, width), hidden);
    sum = sum.defined() ? sum + part : part;
  }
  return sum;
}

std::pair<Tensor, Tensor> DilatedConvImpl::merged() const {
  Tensor kernel, bias;
  for (size_t i = 0; i < convs_.size(); ++i) {
    const auto& norm = norms_[i];
    const auto& own = convs_[i]->weight;
    const auto scale = norm->weight * torch::rsqrt(norm->running_var + norm->options.eps());
    const auto shift = norm->bias - norm->running_mean * scale;
    // A kernel's cells `dilation` apart, in the middle of the large one.
    const int64_t side = own.size(2), reach = (side - 1) * dilations_[i] + 1, border = (size_ - reach) / 2;
    const auto apart = torch::arange(side) * dilations_[i] + border;
    const auto places = (apart.unsqueeze(1) * size_ + apart.unsqueeze(0)).flatten();
    const auto scaled = (own * scale.view({-1, 1, 1, 1})).flatten(2);
    const auto spread = torch::zeros({own.size(0), 1, size_ * size_}, own.options()).index_add(2, places, scaled);
    kernel = kernel.defined() ? kernel + spread : spread;
    bias = bias.defined() ? bias + shift : shift;
  }
  return {kernel.view({-1, 1, size_, size_}), bias};
}

Tensor DilatedConvImpl::forward(const Tensor& tokens, int64_t height, int64_t width, const Tensor& hidden) {
  if (is_training()) return branches(tokens, height, width, hidden);
  const auto [kernel, bias] = merged();
  const auto image = to_image(tokens, height, width).contiguous();
  return to_tokens(torch::conv2d(image, kernel, bias, 1, size_ / 2, 1, kernel.size(0)));
}

}  // namespace heed::nn
