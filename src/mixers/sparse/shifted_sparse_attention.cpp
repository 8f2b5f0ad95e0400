// Attention in groups while training, of which half of the heads see shifted ones; dense otherwise (LongLoRA, arXiv
// 2309.12307).
#include "heed/error.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

struct ShiftedConfig {
  int64_t group = 0;  ///< tokens; 0: a quarter of those there are
  bool shift = true;
  std::string edges = "split";  ///< split, wrap
};

class ShiftedSparseAttention final : public AttentionMixer {
 public:
  ShiftedSparseAttention(const AttentionConfig& config, const ShiftedConfig& own)
      : AttentionMixer("shifted_sparse_attention", config), own_(own) {
    const auto& kind = config.positions.kind;
    require(config.causal, "shifted_sparse_attention: causal = false: groups are causal");
    require(kind != "alibi" && kind != "t5",
            "shifted_sparse_attention: positions {}: none, rope, learned and sinusoidal are accepted", kind);
    require(!own.shift || config.heads % 2 == 0,
            "shifted_sparse_attention: heads = {}: an even number is accepted, of which half are shifted",
            config.heads);
  }

  Tensor mix(const CoreInput& in) override {
    const int64_t n = in.q.size(2), heads = in.q.size(1);
    if (!is_training() || n != in.k.size(2)) return AttentionMixer::mix(in);
    require(!in.cu_seqlens, "shifted_sparse_attention: cu_seqlens is not accepted in training");
    const int64_t group = own_.group > 0 ? own_.group : n / 4;
    require(group > 0 && n % group == 0, "shifted_sparse_attention: {} tokens in groups of {}: a multiple is accepted",
            n, group);
    require(!own_.shift || group % 2 == 0, "shifted_sparse_attention: groups of {}: an even number is accepted", group);
    if (!own_.shift) return in_groups(in, 0, heads, group, 0);
    const auto straight = in_groups(in, 0, heads / 2, group, 0);
    if (own_.edges == "split") return torch::cat({straight, in_groups(in, heads / 2, heads, group, group / 2)}, 1);
    // The last half group comes first and shares a group with the first tokens, which see it.
    auto rolled = in;
    for (Tensor* x : {&rolled.q, &rolled.k, &rolled.v}) *x = x->roll(-group / 2, 2);
    if (rolled.key_padding) rolled.key_padding = rolled.key_padding->roll(-group / 2, 1);
    return torch::cat({straight, in_groups(rolled, heads / 2, heads, group, 0).roll(group / 2, 2)}, 1);
  }

 private:
  /// Causal attention of query heads [begin, end) inside groups, whose borders lie `shift` tokens earlier.
  Tensor in_groups(const CoreInput& in, int64_t begin, int64_t end, int64_t group, int64_t shift) {
    auto options = options_for(in);
    const auto groups = (torch::arange(in.q.size(2)) + shift).div(group, "floor").to(torch::kInt32);
    const auto ids = groups.expand({in.q.size(0), -1});
    options.q_documents = ids.contiguous();
    options.k_documents = in.key_padding ? ids.masked_fill(*in.key_padding, -1) : options.q_documents;
    const auto kv_head = torch::arange(begin, end).div(in.q.size(1) / in.k.size(1), "floor").to(torch::kInt32);
    options.q_to_k_head = options.q_to_v_head = kv_head;
    return attention(in.q.slice(1, begin, end), in.k, in.v, options);
  }

  ShiftedConfig own_;
};

}  // namespace

RegistryRow rows::shifted_sparse_attention() {
  return {
      .name = "shifted_sparse_attention",
      .family = "sparse_and_vision",
      .paper = "LongLoRA: Efficient Fine-tuning of Long-Context Large Language Models (arXiv 2309.12307)",
      .year = 2023,
      .patterns = {false, true, false, false},
      .step = true,
      .core = true,
      .training_free = true,
      .cost = "training O(N group), else O(N^2)",
      .parameters = attention_parameters(
          {{"group", 0, "tokens of a group in training, which the length is a multiple of; 0: a quarter of the length"},
           {"shift", true, "the second half of the heads has its groups shifted by half of one"},
           {"edges", "split",
            "shifted groups at the ends: split (two halves) or wrap (one group around the ends, in which the first "
            "tokens see the last ones)"}}),
      .small = {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}},
      .make = attention_maker("shifted_sparse_attention", [](const AttentionConfig& config, ConfigReader& reader) {
        ShiftedConfig own;
        own.group = reader.integer("group", own.group, 0, 1 << 24);
        own.shift = reader.get("shift", own.shift);
        own.edges = reader.choice("edges", own.edges, {"split", "wrap"});
        return std::make_shared<ShiftedSparseAttention>(config, own);
      })};
}

}  // namespace heed
