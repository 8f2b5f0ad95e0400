#include "heed/nn/ia_red2.h"

#include <cmath>

#include "heed/error.h"
#include "heed/nn/config.h"
#include "heed/nn/generator.h"
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
  require(c.penalty >= 0 && c.reward_weight >= 0, "ia_red2: penalty = {}, reward_weight = {}: 0 or more is accepted",
          c.penalty, c.reward_weight);
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
  const auto chance = torch::rand(scores.sizes(), seeded_generator(in.seed));
  return with_leading(chance < scores.detach(), in);
}

Tensor IaRed2::greedy(const Tensor& scores, const ReductionInput& in) const {
  return with_leading(scores.detach() >= config_.threshold, in);
}

TokenMap IaRed2::map(const ReductionInput& in) {
  // What stays learns by its reward alone, and the tokens that it looks at do not learn to be kept.
  const bool learns = is_training() && torch::GradMode::is_enabled() && config_.reward_weight > 0;
  torch::AutoGradMode grad(learns);
  const auto found = scores(in.x.detach());
  const auto stays = is_training() ? drawn(found, in) : greedy(found, in);
  const auto open = open_tokens(in), gone = open & stays.logical_not();
  choice_.kept = 1 - gone.sum(1) / open.sum(1).clamp_min(1).to(torch::kFloat32);
  choice_.log_likelihood = learns ? policy_log_likelihood(found, stays, in) : Tensor();
  const auto sizes = in.sizes.defined() ? in.sizes : torch::ones({in.x.size(0), in.x.size(1)});
  return ragged_tokens(stays, sizes);
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
  const auto share = right.to(kept_share.scalar_type());
  return share * (1 - kept_share.square()) - (1 - share) * penalty;
}

Tensor policy_loss(const Tensor& log_likelihood, const Tensor& reward, const Tensor& greedy_reward) {
  return -((reward - greedy_reward).detach() * log_likelihood).mean();
}

std::vector<std::shared_ptr<IaRed2>> learning_policies(torch::nn::Module& model) {
  std::vector<std::shared_ptr<IaRed2>> found;
  for (const auto& module : model.modules(false))
    if (auto policy = std::dynamic_pointer_cast<IaRed2>(module); policy && policy->config().reward_weight > 0)
      found.push_back(std::move(policy));
  return found;
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
                    {"first_score", plain.first_score, "about what every token scores before training"},
                    {"penalty", plain.penalty, "what a wrong answer costs; a right one earns 1 - (share kept)^2"},
                    {"reward_weight", plain.reward_weight,
                     "of the policy's loss where a model learns a task of classes; 0: the policy stays as it is"}};
  return {row, [](const nlohmann::json& json) -> std::shared_ptr<TokenReducer> {
            ConfigReader reader("ia_red2", json);
            IaRed2Config c;
            c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
            c.heads = reader.integer("heads", c.heads, 1, 1 << 16);
            c.threshold = reader.get("threshold", c.threshold);
            c.first_score = reader.get("first_score", c.first_score);
            c.penalty = reader.get("penalty", c.penalty);
            c.reward_weight = reader.get("reward_weight", c.reward_weight);
            reader.finish();
            return std::make_shared<IaRed2>(c);
          }};
}

}  // namespace heed::nn
