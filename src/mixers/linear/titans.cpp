// Titans: attention over near tokens, a neural memory of far ones, and persistent tokens in front of all.
#include "heed/attention.h"
#include "heed/error.h"
#include "heed/nn/norm.h"
#include "heed/nn/start.h"
#include "mixers/linear/neural_memory.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

struct TitansConfig {
  std::string layout = "context";  ///< context (MAC), gate (MAG), layer (MAL), memory (no attention), attention
  int64_t window = 256;            ///< visible tokens of gate and layer, the own one included
  int64_t persistent = 4;
  std::string gate = "sigmoid";  ///< of gate and context: what the memory's branch goes through
};

class Titans final : public RecurrentMixer {
 public:
  Titans(const linear::NeuralMemoryConfig& memory, TitansConfig config)
      : RecurrentMixer("titans", memory.dim, true), heads_(memory.heads), config_(std::move(config)) {
    const int64_t dim = memory.dim;
    if (config_.layout != "attention") {
      memory_ = register_module("memory", linear::NeuralMemory(memory));
      memory_norm_ = register_module("memory_norm", nn::Norm(formats::NormKind::rms, dim, 1e-5));
    }
    if (config_.layout != "memory") {
      q_proj_ = project("q_proj", dim, dim);
      k_proj_ = project("k_proj", dim, dim);
      v_proj_ = project("v_proj", dim, dim);
      norm_ = register_module("norm", nn::Norm(formats::NormKind::rms, dim, 1e-5));
    }
    if (config_.persistent > 0)
      persistent_ = register_parameter("persistent", nn::started_rows({config_.persistent, dim}));
    o_proj_ = project("o_proj", dim, dim);
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    require(!call.input.cu_seqlens, "titans: cu_seqlens is not accepted");
    const auto& layout = config_.layout;
    if (layout == "context") return o_proj_(in_context(call));
    const auto& x = call.x;
    if (layout == "attention") return o_proj_(norm_(windowed(call, x)));
    if (layout == "memory") return o_proj_(memory_norm_(remembered(call, x)));
    if (layout == "layer") return o_proj_(norm_(windowed(call, memory_norm_(remembered(call, x)))));
    return o_proj_(gated(windowed(call, x), remembered(call, x)));
  }

 private:
  static constexpr size_t kKeys = 0, kValues = 1, kHidden = 2, kMemory = 3;

  Tensor gated(const Tensor& attended, const Tensor& recalled) {
    const auto open = memory_norm_(recalled);
    return norm_(attended) * (config_.gate == "silu" ? torch::silu(open) : torch::sigmoid(open));
  }

  /// M([P ; x]) without the rows of P, which the memory learns before the first token.
  Tensor remembered(RecurrentCall& call, const Tensor& x) {
    const int64_t first = config_.persistent;
    auto padding = call.input.key_padding;
    if (call.seen() > 0 || first == 0) return memory_->forward(call, kMemory, x, first + call.seen(), padding);
    const auto all = torch::cat({persistent_.expand({x.size(0), -1, -1}), x}, 1);
    if (padding) padding = torch::constant_pad_nd(*padding, {first, 0}, false);
    return memory_->forward(call, kMemory, all, 0, padding).narrow(1, first, x.size(1));
  }

  /// Keys or values of a slot, then those of `fresh`; the last `keep` tokens stay in the slot.
  static Tensor extended(RecurrentCall& call, size_t slot, const Tensor& fresh, int64_t keep) {
    auto& held = call.slot(slot);
    const auto all = held.defined() ? torch::cat({held, fresh}, 2) : fresh;
    const int64_t kept = std::min(keep, all.size(2));
    held = all.narrow(2, all.size(2) - kept, kept).clone();
    return all;
  }

  /// Attention with P in front of the keys of two slots, which keep the last `keep` of them and know what was padding.
  Tensor attend(RecurrentCall& call, const Tensor& queries, const Tensor& source, const std::optional<Tensor>& padding,
                int64_t keep, const Mask& mask) {
    const auto k = extended(call, kKeys, split_heads(k_proj_(source), heads_), keep),
               v = extended(call, kValues, split_heads(v_proj_(source), heads_), keep);
    AttentionOptions options;
    options.mask = mask;
    if (padding || call.slot(kHidden).defined()) {
      // Ids 0 of tokens and -1 of padding, which fits no query.
      auto& held = call.slot(kHidden);
      if (!held.defined()) held = torch::zeros({source.size(0), 1, k.size(2) - source.size(1), 1}, torch::kInt32);
      const auto fresh =
          padding ? padding->to(torch::kInt32).neg() : torch::zeros({source.size(0), source.size(1)}, torch::kInt32);
      const auto ids = extended(call, kHidden, fresh.view({source.size(0), 1, -1, 1}), keep).flatten(1);
      options.k_documents = torch::constant_pad_nd(ids, {config_.persistent, 0}, 0);
      options.q_documents = torch::zeros({source.size(0), queries.size(2)}, torch::kInt32);
    }
    return attention(queries, with_persistent(k_proj_, k), with_persistent(v_proj_, v), options);
  }

  Tensor with_persistent(torch::nn::Linear& projection, const Tensor& t) {
    if (config_.persistent == 0) return t;
    const auto rows = split_heads(projection(persistent_.unsqueeze(0)), heads_);
    return torch::cat({rows.expand({t.size(0), -1, -1, -1}), t}, 2);
  }

  /// Every token sees P and the window that ends at it.
  Tensor windowed(RecurrentCall& call, const Tensor& x) {
    const Mask mask = Causal{} & (Window{config_.window} | SinkTokens{config_.persistent});
    const auto q = split_heads(q_proj_(x), heads_);
    return join_heads(attend(call, q, x, call.input.key_padding, config_.window - 1, mask));
  }

  /// MAC, segment by segment: token i of a segment sees P, the segment up to i, and what the memory of the segments
  /// before returns for those tokens. The memory learns what attention gave.
  Tensor in_context(RecurrentCall& call) {
    const int64_t segment = memory_->config().chunk;
    std::vector<Tensor> outputs;
    for (int64_t done = 0; done < call.tokens();) {
      const int64_t before = call.seen() + done, place = before % segment;
      const int64_t count = std::min(segment - place, call.tokens() - done);
      const auto x = call.x.narrow(1, done, count);
      // h_j and x_j side by side: under a causal mask x_i, at 2 i + 1, sees both of every j up to i.
      const auto pairs = torch::stack({memory_->recall(call, kMemory, x), x}, 2).flatten(1, 2);
      if (place == 0) call.slot(kKeys) = call.slot(kValues) = call.slot(kHidden) = Tensor();
      std::optional<Tensor> padding, pair_padding;
      if (call.input.key_padding) {
        padding = call.input.key_padding->narrow(1, done, count);
        pair_padding = padding->repeat_interleave(2, 1);
      }
      const auto q = split_heads(q_proj_(x), heads_).repeat_interleave(2, 2);
      const auto all = attend(call, q, pairs, pair_padding, 2 * segment, Causal{});
      const auto attended = join_heads(all.unflatten(2, {count, 2}).select(3, 1));
      outputs.push_back(gated(attended, memory_->forward(call, kMemory, attended, before, padding)));
      done += count;
    }
    return torch::cat(outputs, 1);
  }

  int64_t heads_;
  TitansConfig config_;
  linear::NeuralMemory memory_{nullptr};
  torch::nn::Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, o_proj_{nullptr};
  nn::Norm norm_{nullptr}, memory_norm_{nullptr};
  Tensor persistent_;  // [P, dim]
};

}  // namespace

RegistryRow rows::titans() {
  auto parameters = linear::neural_memory_parameters();
  parameters.insert(
      parameters.end(),
      {{"layout", "context", "context (MAC), gate (MAG), layer (MAL), memory (no attention) or attention (no memory)"},
       {"window", 256, "visible tokens of all layouts but context, whose segment is the chunk"},
       {"persistent", 4, "learned tokens that everyone sees"},
       {"gate", "sigmoid", "of context and gate: the normalised memory multiplies through sigmoid or silu"}});
  return {.name = "titans",
          .family = "linear_and_recurrent",
          .paper = "Titans: Learning to Memorize at Test Time (arXiv 2501.00663)",
          .year = 2025,
          .patterns = {false, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .cost = "O(N)",
          .parameters = parameters,
          .small = {{"dim", 12}, {"heads", 2}, {"chunk", 4}, {"memory_expand", 2}, {"persistent", 2}, {"window", 5}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("titans", json);
            const auto memory = linear::NeuralMemoryConfig::read(reader);
            TitansConfig config;
            config.layout = reader.choice("layout", config.layout, {"context", "gate", "layer", "memory", "attention"});
            config.window = reader.integer("window", config.window, 1);
            config.persistent = reader.integer("persistent", config.persistent, 0, 1 << 16);
            config.gate = reader.choice("gate", config.gate, {"sigmoid", "silu"});
            reader.finish();
            return std::make_shared<Titans>(memory, config);
          }};
}

}  // namespace heed
