#include "heed/nn/lora.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "heed/error.h"
#include "heed/nn/generator.h"

namespace heed::nn {

using torch::Tensor;

LoraImpl::LoraImpl(torch::nn::Module& model, const LoraOptions& options)
    : scale_(options.alpha / static_cast<double>(options.rank)) {
  require(options.rank >= 1, "lora: rank = {}: 1 or more is accepted", options.rank);
  for (auto& parameter : model.named_parameters()) {
    const bool stays = std::any_of(options.also.begin(), options.also.end(), [&](const std::string& part) {
      return parameter.key().find(part) != std::string::npos;
    });
    parameter.value().requires_grad_(stays);
    if (stays) others_.push_back(parameter.value());
  }
  auto generator = seeded_generator(options.seed);
  for (const auto& module : model.named_modules("", false)) {
    auto layer = std::dynamic_pointer_cast<torch::nn::LinearImpl>(module.value());
    if (!layer || std::none_of(options.layers.begin(), options.layers.end(),
                               [&](const std::string& name) { return module.key().ends_with(name); }))
      continue;
    // A layer under several names is one.
    if (std::any_of(updates_.begin(), updates_.end(), [&](const Update& u) { return u.layer == layer; })) continue;
    const auto& weight = layer->weight;
    require(options.rank <= std::min(weight.size(0), weight.size(1)), "lora: rank = {}: {} of {} x {} takes up to {}",
            options.rank, module.key(), weight.size(0), weight.size(1), std::min(weight.size(0), weight.size(1)));
    auto name = module.key();
    std::replace(name.begin(), name.end(), '.', '_');
    const double deviation = 1 / std::sqrt(static_cast<double>(weight.size(1)));
    const auto a = torch::randn({options.rank, weight.size(1)}, generator, torch::kFloat32) * deviation;
    updates_.push_back(
        {layer, weight, register_parameter(name + "_a", a.to(weight.scalar_type())),
         register_parameter(name + "_b", torch::zeros({weight.size(0), options.rank}, weight.options()))});
  }
  require(!updates_.empty(), "lora: no linear layer of the model ends with one of {}",
          fmt::format("{}", fmt::join(options.layers, ", ")));
}

Tensor LoraImpl::updated(const Update& update) const {
  return update.base + torch::matmul(update.b, update.a) * scale_;
}

void LoraImpl::apply_updates() {
  for (auto& update : updates_) update.layer->weight = updated(update);
}

void LoraImpl::merge() {
  torch::NoGradGuard no_grad;
  for (auto& update : updates_) {
    update.base.copy_(updated(update));
    update.b.zero_();
    update.layer->weight = update.base;
  }
}

std::vector<Tensor> LoraImpl::trainable() const {
  auto all = parameters();
  all.insert(all.end(), others_.begin(), others_.end());
  return all;
}

}  // namespace heed::nn
