// Two softmax attentions through a few agent tokens: agents read the keys, queries read the agents.
#include "heed/attention.h"
#include "mixers/linear/image_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Cells;
using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

class AgentAttention final : public linear::ImageAttention {
 public:
  AgentAttention(const HeadsConfig& config, int64_t side, int64_t bias_side)
      : ImageAttention("agent_attention", config), side_(side) {
    require(config.key_dim == config.head_dim,
            "agent_attention: key_dim = {} and head_dim = {}; equal ones are accepted", config.key_dim,
            config.head_dim);
    const auto table = [&](const char* name, std::vector<int64_t> sizes) {
      return register_parameter(name, torch::randn(sizes).clamp(-2, 2) * 0.02);
    };
    const int64_t agents = side * side;
    key_bias_ = table("key_bias", {config.heads, agents, 7, 7});
    key_row_bias_ = table("key_row_bias", {config.heads, agents, bias_side, 1});
    key_column_bias_ = table("key_column_bias", {config.heads, agents, 1, bias_side});
    query_bias_ = table("query_bias", {config.heads, agents, 7, 7});
    query_row_bias_ = table("query_row_bias", {config.heads, agents, bias_side, 1});
    query_column_bias_ = table("query_column_bias", {config.heads, agents, 1, bias_side});
    conv_ = register_module("conv", nn::GridConv(config.values(), 3));
  }

 protected:
  Tensor attend_cells(const Cells& cells, const Heads& heads) override {
    const auto image = nn::to_image(join_heads(cells.shown(heads.q)), cells.height, cells.width);
    const auto agents = split_heads(nn::to_tokens(torch::adaptive_avg_pool2d(image, {side_, side_})), config_.heads);
    AttentionOptions gather, scatter;
    gather.bias = bias(cells, key_bias_, key_row_bias_, key_column_bias_);
    scatter.bias = bias(cells, query_bias_, query_row_bias_, query_column_bias_).transpose(2, 3).contiguous();
    if (cells.hidden.defined()) {
      gather.k_documents = cells.hidden.squeeze(3).squeeze(1).to(torch::kInt32).neg();
      gather.q_documents = torch::zeros({heads.q.size(0), side_ * side_}, torch::kInt32);
    }
    const auto held = attention(agents, heads.k, heads.v, gather);
    return attention(heads.q, agents, held, scatter);
  }

  Tensor before_output(RecurrentCall& call, Tensor joined) override {
    const auto cells = cells_of(call);
    return joined + conv_(call.without_padding(v_proj_(call.x)), cells.height, cells.width);
  }

 private:
  /// [1, H, agents, N] of a table of 7 x 7 and one of rows and columns, brought to the grid.
  static Tensor bias(const Cells& cells, const Tensor& table, const Tensor& rows, const Tensor& columns) {
    const auto resized = [](const Tensor& t, int64_t height, int64_t width) {
      return torch::upsample_bilinear2d(t, {height, width}, false);
    };
    const auto sum =
        resized(table, cells.height, cells.width) + resized(rows, cells.height, 1) + resized(columns, 1, cells.width);
    return sum.flatten(2).unsqueeze(0);
  }

  int64_t side_;
  Tensor key_bias_, key_row_bias_, key_column_bias_, query_bias_, query_row_bias_, query_column_bias_;
  nn::GridConv conv_{nullptr};
};

}  // namespace

RegistryRow rows::agent_attention() {
  return linear::image_row({.name = "agent_attention",
                            .paper = "Agent Attention (arXiv 2312.08874)",
                            .year = 2023,
                            .cost = "O(N n)",
                            .parameters = linear::heads_parameters(
                                {{"agent_side", 7, "agents are side x side pooled queries"},
                                 {"bias_side", 14, "rows and columns of the tables of biases, resized to the grid"}},
                                false),
                            .small = {{"dim", 24}, {"heads", 3}, {"agent_side", 2}, {"bias_side", 4}},
                            .make = linear::heads_maker(
                                "agent_attention",
                                [](const HeadsConfig& config, ConfigReader& reader) {
                                  const auto side = reader.integer("agent_side", 7, 1, 1024);
                                  return std::make_shared<AgentAttention>(config, side,
                                                                          reader.integer("bias_side", 14, 1, 1 << 14));
                                },
                                false)});
}

}  // namespace heed
