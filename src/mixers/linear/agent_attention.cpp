// Two softmax attentions through a few agent tokens: agents read the keys, queries read the agents.
#include "heed/attention.h"
#include "heed/error.h"
#include "mixers/linear/image_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Cells;
using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

struct AgentConfig {
  int64_t side = 7;        ///< agents are side x side
  int64_t bias_side = 14;  ///< rows and columns of the tables of biases
  bool class_token = false;
  double dropout = 0;
};

class AgentAttention final : public linear::ImageAttention {
 public:
  AgentAttention(const HeadsConfig& config, const AgentConfig& own)
      : ImageAttention("agent_attention", config, own.class_token), own_(own) {
    require(config.key_dim == config.head_dim,
            "agent_attention: key_dim = {} and head_dim = {}; equal ones are accepted", config.key_dim,
            config.head_dim);
    key_bias_ = tables("key");
    query_bias_ = tables("query");
    conv_ = register_module("conv", nn::GridConv(config.values(), 3));
  }

 protected:
  Tensor attend_cells(const Cells& cells, const Heads& heads) override {
    const auto image = nn::to_image(cells.of_grid(join_heads(cells.shown(heads.q))), cells.height, cells.width);
    const auto agents =
        split_heads(nn::to_tokens(torch::adaptive_avg_pool2d(image, {own_.side, own_.side})), config_.heads);
    AttentionOptions gather, scatter;
    gather.bias = bias(cells, key_bias_);
    scatter.bias = bias(cells, query_bias_).transpose(2, 3).contiguous();
    if (cells.hidden.defined()) {
      gather.k_documents = cells.hidden.squeeze(3).squeeze(1).to(torch::kInt32).neg();
      gather.q_documents = torch::zeros({heads.q.size(0), agents.size(2)}, torch::kInt32);
    }
    if (is_training()) gather.dropout = scatter.dropout = own_.dropout;
    gather.seed = cells.seed, scatter.seed = ~cells.seed;
    const auto held = attention(agents, heads.k, heads.v, gather);
    return attention(heads.q, agents, held, scatter);
  }

  Tensor before_output(RecurrentCall& call, Tensor joined) override {
    const auto cells = cells_of(call);
    const auto v = cells.of_grid(call.without_padding(v_proj_(call.x)));
    return joined + cells.behind_zeros(conv_(v, cells.height, cells.width));
  }

 private:
  /// Biases between agents and the cells of a grid of any size: a small table, one of rows and one of columns; and
  /// between agents and the class token.
  struct Tables {
    Tensor cells, rows, columns, token;  ///< [H, agents, 7, 7], [.., side, 1], [.., 1, side], [H, agents, 1]
  };

  Tables tables(const std::string& of) {
    const int64_t agents = own_.side * own_.side, heads = config_.heads;
    const auto table = [&](const char* part, std::vector<int64_t> sizes) {
      return register_parameter(of + part, torch::randn(sizes).clamp(-2, 2) * 0.02);
    };
    return {table("_bias", {heads, agents, 7, 7}), table("_row_bias", {heads, agents, own_.bias_side, 1}),
            table("_column_bias", {heads, agents, 1, own_.bias_side}),
            own_.class_token ? table("_class_bias", {heads, agents, 1}) : Tensor()};
  }

  /// [1, H, agents, N] of tables brought to the grid.
  static Tensor bias(const Cells& cells, const Tables& tables) {
    const auto resized = [](const Tensor& t, int64_t height, int64_t width) {
      return torch::upsample_bilinear2d(t, {height, width}, false);
    };
    const auto sum = resized(tables.cells, cells.height, cells.width) + resized(tables.rows, cells.height, 1) +
                     resized(tables.columns, 1, cells.width);
    const auto flat = sum.flatten(2);
    return (tables.token.defined() ? torch::cat({tables.token, flat}, 2) : flat).unsqueeze(0);
  }

  AgentConfig own_;
  Tables key_bias_, query_bias_;
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
                                 {"bias_side", 14, "rows and columns of the tables of biases, resized to the grid"},
                                 {"class_token", false, "the first token is no cell: no agent pools it"},
                                 {"dropout", 0.0, "share of the weights of both attentions dropped in training"}},
                                false),
                            .small = {{"dim", 24}, {"heads", 3}, {"agent_side", 2}, {"bias_side", 4}},
                            .make = linear::heads_maker(
                                "agent_attention",
                                [](const HeadsConfig& config, ConfigReader& reader) {
                                  AgentConfig own;
                                  own.side = reader.integer("agent_side", own.side, 1, 1024);
                                  own.bias_side = reader.integer("bias_side", own.bias_side, 1, 1 << 14);
                                  own.class_token = reader.get("class_token", own.class_token);
                                  own.dropout = reader.get("dropout", own.dropout);
                                  require(own.dropout >= 0 && own.dropout < 1,
                                          "agent_attention: dropout = {}: 0 up to 1 is accepted", own.dropout);
                                  return std::make_shared<AgentAttention>(config, own);
                                },
                                false)});
}

}  // namespace heed
