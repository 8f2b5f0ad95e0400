// Attention whose weights follow from positions alone; the values carry the data.
#include "heed/attention.h"
#include "heed/error.h"
#include "mixers/linear/linear_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::HeadsConfig;
using torch::Tensor;

class PositionalAttention final : public RecurrentMixer {
 public:
  PositionalAttention(const HeadsConfig& config, int64_t max_length, bool content)
      : RecurrentMixer("positional_attention", config.dim, config.causal),
        config_(config),
        max_length_(max_length),
        content_(content) {
    // Of a one-hot position, a projection is a row of a table.
    q_table_ = table("q_table"), k_table_ = table("k_table");
    if (content)
      q_proj_ = project("q_proj", config.dim, config.keys()), k_proj_ = project("k_proj", config.dim, config.keys());
    v_proj_ = project("v_proj", config.dim, config.values());
    o_proj_ = project("o_proj", config.values(), config.dim);
  }

 protected:
  std::string without_step() const override { return "its weights are those of a sequence that begins at position 0"; }

  Tensor run(RecurrentCall& call) override {
    const int64_t n = call.tokens();
    require(n <= max_length_, "positional_attention: {} tokens; up to max_length = {} is accepted", n, max_length_);
    require(!call.input.cu_seqlens, "positional_attention: cu_seqlens is not accepted");
    const auto rows = [&](const Tensor& t) { return split_heads(t.narrow(0, 0, n).unsqueeze(0), config_.heads); };
    auto q = rows(q_table_), k = rows(k_table_);
    if (content_) {
      q = q + split_heads(q_proj_(call.x), config_.heads);
      k = k + split_heads(k_proj_(call.x), config_.heads);
    }
    const auto v = split_heads(v_proj_(call.x), config_.heads);
    AttentionOptions options;
    if (causal_) options.mask = Causal{};
    // The weights of all items are the same, so the items stand side by side as channels of one value.
    if (!content_ && !call.input.key_padding) {
      const auto wide = v.permute({1, 2, 0, 3}).flatten(2).unsqueeze(0);
      const auto out = attention(q, k, wide.contiguous(), options).squeeze(0).unflatten(2, {call.batch(), -1});
      return o_proj_(join_heads(out.permute({2, 0, 1, 3})));
    }
    const auto each = [&](const Tensor& t) { return t.expand({call.batch(), -1, -1, -1}); };
    if (call.input.key_padding) {
      options.k_documents = call.input.key_padding->to(torch::kInt32).neg();
      options.q_documents = torch::zeros({call.batch(), n}, torch::kInt32);
    }
    return o_proj_(join_heads(attention(each(q), each(k), v, options)));
  }

 private:
  Tensor table(const char* name) {
    auto t = register_parameter(name, torch::empty({max_length_, config_.keys()}));
    torch::nn::init::xavier_uniform_(t);
    return t;
  }

  HeadsConfig config_;
  int64_t max_length_;
  bool content_;
  Tensor q_table_, k_table_;  // [max_length, H key_dim]
  torch::nn::Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, o_proj_{nullptr};
};

}  // namespace

RegistryRow rows::positional_attention() {
  return {.name = "positional_attention",
          .family = "linear_and_recurrent",
          .paper = "Positional Attention (arXiv 2410.01686)",
          .year = 2024,
          .patterns = {true, true, false, false},
          .cost = "O(N^2)",
          .parameters = linear::heads_parameters(
              {{"max_length", 64, "positions of the tables; key_dim defaults to it"},
               {"content", false, "queries and keys also see the tokens: the standard attention it is compared with"}},
              false),
          .small = {{"dim", 24}, {"heads", 2}, {"key_dim", 6}},
          .make = linear::heads_maker(
              "positional_attention",
              [](HeadsConfig config, ConfigReader& reader) {
                const auto length = reader.integer("max_length", 64, 1, 1 << 20);
                // As many as positions: the paper projects one-hot vectors onto a space of their own size.
                if (reader.integer("key_dim", 0, 0) == 0) config.key_dim = length;
                return std::make_shared<PositionalAttention>(config, length, reader.get("content", false));
              },
              false)};
}

}  // namespace heed
