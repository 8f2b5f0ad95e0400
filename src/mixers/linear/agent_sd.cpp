// Agent attention without training, for diffusion models: merged tokens are the agents.
#include <cmath>

#include "heed/attention.h"
#include "heed/nn/token_merge.h"
#include "mixers/linear/image_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Cells;
using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

struct AgentSdConfig {
  int64_t stride = 4;
  double ratio = 0.95, exponent = 0.3, values = 0.075;
};

class AgentSd final : public linear::ImageAttention {
 public:
  AgentSd(const HeadsConfig& config, AgentSdConfig own) : ImageAttention("agent_sd", config), own_(own) {
    require(config.key_dim == config.head_dim, "agent_sd: key_dim = {} and head_dim = {}; equal ones are accepted",
            config.key_dim, config.head_dim);
  }

 protected:
  Tensor attend_cells(const Cells& cells, const Heads& heads) override {
    const auto padding = cells.hidden.defined() ? cells.hidden.squeeze(3).squeeze(1) : Tensor();
    const nn::TokenMerge merge(heads.k.mean(1), padding, cells.height, cells.width, own_.stride, own_.ratio);
    const auto seen_by = [&](const Tensor& hidden, const Tensor& queries) {
      AttentionOptions options;
      if (!hidden.defined()) return options;
      options.k_documents = hidden.to(torch::kInt32).neg();
      options.q_documents = torch::zeros({queries.size(0), queries.size(2)}, torch::kInt32);
      return options;
    };
    // Agents save nothing where they are not few.
    if (2 * merge.tokens >= heads.q.size(2)) return attention(heads.q, heads.k, heads.v, seen_by(padding, heads.q));
    // Projections are linear: the mean of queries is the query of the mean.
    const auto agents = split_heads(merge.reduce(join_heads(heads.q)), config_.heads);
    auto scatter = seen_by(merge.hidden, heads.q);
    scatter.scale = std::pow(static_cast<double>(config_.key_dim), -own_.exponent / 2);
    const auto held = attention(agents, heads.k, heads.v, seen_by(padding, agents));
    return attention(heads.q, agents, held, scatter) + own_.values * heads.v;
  }

 private:
  AgentSdConfig own_;
};

}  // namespace

RegistryRow rows::agent_sd() {
  return linear::image_row(
      {.name = "agent_sd",
       .paper = "Agent Attention (arXiv 2312.08874), its form for Stable Diffusion; tokens merged by the likeness of "
                "their keys (arXiv 2210.09461)",
       .year = 2023,
       .training_free = true,
       .cost = "O(N n)",
       .parameters =
           linear::heads_parameters({{"stride", 4, "a token of every stride x stride cells is kept"},
                                     {"ratio", 0.95, "share of the tokens that is merged into those kept, at most"},
                                     {"exponent", 0.3, "queries meet agents at the scale head_dim^(-exponent / 2)"},
                                     {"values", 0.075, "share of a token's own value that is added"}},
                                    false),
       .small = {{"dim", 24}, {"heads", 3}, {"stride", 2}, {"ratio", 0.6}},
       .make = linear::heads_maker(
           "agent_sd",
           [](const HeadsConfig& config, ConfigReader& reader) {
             AgentSdConfig own;
             own.stride = reader.integer("stride", own.stride, 1, 1 << 14);
             own.ratio = reader.get("ratio", own.ratio);
             require(own.ratio >= 0 && own.ratio <= 1, "agent_sd: ratio = {}: 0 to 1 is accepted", own.ratio);
             own.exponent = reader.get("exponent", own.exponent);
             own.values = reader.get("values", own.values);
             return std::make_shared<AgentSd>(config, own);
           },
           false)});
}

}  // namespace heed
