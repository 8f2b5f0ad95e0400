#include "heed/nn/ia_red2.h"

#include <cmath>

#include "heed/error.h"
#include "heed/nn/config.h"
#include "nn/reducer_list.h"

namespace heed::nn {

using torch::Tensor;

namespace {

/// bool [B, N]: tokens about which there is something to decide.
Tensor open_tokens(const ReductionInput& in) {
  auto open = (torch::arange(in.x.size(1)) >= in.leading).expand({in.x.size(0), in.x.size(1)});
  return in.padding.defined() ? open & in.padding.logical_not() : open;
}

Tensor with_leading(const Tensor& chosen, const ReductionInput& in) {
  const auto leading = (torch::arange(in.x.size(1)) < in.leading).expand_as(chosen);
  const auto stays = chosen | leading;
  return in.padding.defined() ? stays & in.padding.logical_not() : stays;
}

}  // namespace

IaRed2::IaRed2(const IaRed2Config& config) : config_(config) {
  const auto& c = config_;
  require(c.dim % c.heads == 0, "ia_red2: dim = {} is no multiple of heads = {}", c.dim, c.heads);
  require(c.threshold >= 0 && c.threshold <= 1, "ia_red2: threshold = {}: 0 to 1 is accepted", c.threshold);
  require(c.first_score > 0 && c.first_score < 1, "ia_red2: first_score = {}: between 0 and 1 is accepted",
          c.first_score);
  torch::NoGradGuard no_grad;
  policy_ = register_parameter("policy", torch::randn({c.dim}) * 0.02);
  // Biases alone make the first logit.
  const double logit = std::log(c.first_score / (1 - c.first_score)),
               each = std::sqrt(std::abs(logit) / double(c.dim / c.heads));
  const auto linear = [&](const char* name, double bias) {
    auto module = register_module(name, torch::nn::Linear(c.dim, c.dim));
    module->weight.normal_(0, 0.02);
    module->bias.fill_(bias);
    return module;
  };
  query_ = linear("query", each);
  key_ = linear("key", logit < 0 ? -each : each);
}

Tensor IaRed2::scores(const Tensor& x) {
  require(x.dim() == 3 && x.size(2) == config_.dim, "ia_red2: x of shape {}: [batch, tokens, {}] is accepted",
          c10::str(x.sizes()), config_.dim);
  const auto q = query_(policy_).view({config_.heads, -1}), k = key_(x).unflatten(2, {config_.heads, -1});
  return torch::sigmoid((k * q).sum(3)).mean(2);
}

Tensor IaRed2::drawn(const Tensor& scores, const ReductionInput& in) const {
  const auto chance = torch::rand(scores.sizes(), at::detail::createCPUGenerator(in.seed));
  return with_leading(chance < scores.detach(), in);
}

Tensor IaRed2::greedy(const Tensor& scores, const ReductionInput& in) const {
  return with_leading(scores.detach() >= config_.threshold, in);
}

TokenMap IaRed2::map(const ReductionInput& in) {
  torch::NoGradGuard no_grad;
  const auto found = scores(in.x);
  const auto sizes = in.sizes.defined() ? in.sizes : torch::ones({in.x.size(0), in.x.size(1)});
  return ragged_tokens(is_training() ? drawn(found, in) : greedy(found, in), sizes);
}

TokenMap ragged_tokens(const Tensor& stays, const Tensor& sizes) {
  const int64_t most = std::max<int64_t>(1, stays.numel() ? stays.sum(1).max().item<int64_t>() : 1);
  const auto kept = std::get<1>(stays.to(torch::kUInt8).sort(c10::optional<bool>(true), 1, true)).narrow(1, 0, most);
  auto map = kept_tokens(kept.contiguous(), sizes);
  map.target = map.target.masked_fill(stays.logical_not(), -1);
  map.weight = stays.to(map.weight.scalar_type());
  const auto filler = stays.gather(1, kept).logical_not();
  map.sizes = map.sizes.masked_fill(filler, 0);
  if (filler.any().item<bool>()) map.hidden = filler;
  return map;
}

Tensor policy_log_likelihood(const Tensor& scores, const Tensor& stays, const ReductionInput& in) {
  const auto chance = torch::where(stays, scores, 1 - scores).clamp_min(1e-12);
  return chance.log().masked_fill(open_tokens(in).logical_not(), 0).sum(1);
}

Tensor redundancy_reward(const Tensor& kept_share, const Tensor& right, double penalty) {
  const auto earned = 1 - kept_share.square();
  return torch::where(right, earned, torch::full_like(earned, -penalty));
}

Tensor policy_loss(const Tensor& log_likelihood, const Tensor& reward, const Tensor& greedy_reward) {
  return -((reward - greedy_reward).detach() * log_likelihood).mean();
}

Reducer ia_red2() {
  RegistryRow row;
  row.name = "ia_red2";
  row.kind = Kind::reducer;
  row.family = "sparse_and_vision";
  row.paper = "IA-RED^2: Interpretability-Aware Redundancy Reduction for Vision Transformers (arXiv 2106.12620)";
  row.year = 2021;
  row.patterns.noncausal_self = true;
  row.cost = "O(N)";
  const IaRed2Config plain;
  row.parameters = {{"dim", plain.dim, "channels of the tokens"},
                    {"heads", plain.heads, "of the interpreter"},
                    {"threshold", plain.threshold, "in evaluation, tokens of at least this score stay"},
                    {"first_score", plain.first_score, "about what every token scores before training"}};
  return {row, [](const nlohmann::json& json) -> std::shared_ptr<TokenReducer> {
            ConfigReader reader("ia_red2", json);
            IaRed2Config c;
            c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
            c.heads = reader.integer("heads", c.heads, 1, 1 << 16);
            c.threshold = reader.get("threshold", c.threshold);
            c.first_score = reader.get("first_score", c.first_score);
            reader.finish();
            return std::make_shared<IaRed2>(c);
          }};
}

}  // namespace heed::nn
