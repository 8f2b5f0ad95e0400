// Window attention with a few global tokens that see and are seen by all (arXiv 2004.05150).
#include "heed/error.h"
#include "mixers/rows.h"

namespace heed {
namespace {

struct LongformerConfig {
  int64_t window = 512;       ///< causal: visible keys, the own one included; bidirectional: window / 2 on either side
  int64_t global_tokens = 1;  ///< the first tokens
  std::vector<int64_t> dilation{1};  ///< one for all heads, or one a query head
};

class Longformer final : public AttentionMixer {
 public:
  Longformer(const AttentionConfig& c, LongformerConfig longformer)
      : AttentionMixer("longformer", c), longformer_(std::move(longformer)) {
    auto copy_of = [&](const char* name, const torch::nn::Linear& from) {
      auto linear = register_module(
          name,
          torch::nn::Linear(
              torch::nn::LinearOptions(from->options.in_features(), from->options.out_features()).bias(c.qkv_bias)));
      torch::NoGradGuard no_grad;
      linear->weight.copy_(from->weight);
      if (c.qkv_bias) linear->bias.copy_(from->bias);
      return linear;
    };
    q_global_ = copy_of("q_global_proj", q_proj_);
    k_global_ = copy_of("k_global_proj", k_proj_);
    v_global_ = copy_of("v_global_proj", v_proj_);
  }

  std::unique_ptr<MixerState> make_state(int64_t) const override {
    fail("longformer has no step: global tokens need the projections of the whole sequence");
  }

  /// Global rows go through the same q, k, v here; the layer gives them their own projections.
  torch::Tensor mix(const CoreInput& in) override {
    const auto local = local_rows(in);
    const int64_t global = std::min(longformer_.global_tokens, in.q.size(2));
    if (global == 0) return local;
    auto first = in;
    nn::CoreReport report;
    if (in.report) first.report = &report;
    const auto out = torch::cat({global_rows(first, in.q, in.k, in.v), local.slice(2, global)}, 2);
    if (in.report && in.report->pairs >= 0) in.report->pairs += report.pairs;
    if (in.report && in.report->lse.defined())
      in.report->lse = torch::cat({report.lse, in.report->lse.slice(2, global)}, 2);
    return out;
  }

 protected:
  torch::Tensor after_core(const MixerInput& in, torch::Tensor heads) override {
    const int64_t global = std::min(longformer_.global_tokens, in.x.size(1));
    if (global == 0) return heads;
    require(!in.cu_seqlens, "longformer: global tokens and packed sequences: one of the two is accepted");
    const auto positions = in.positions.value_or(torch::arange(in.x.size(1)));
    const auto x = positions_->embed(in.x, positions);
    auto q = split_heads(q_global_(x), config_.heads), k = split_heads(k_global_(x), config_.kv_heads);
    normalize(q, k);
    CoreInput core{positions_->rotate(q, positions),
                   positions_->rotate(k, positions),
                   split_heads(v_global_(x), config_.kv_heads),
                   in.key_padding,
                   {},
                   {},
                   {},
                   in.seed};
    return torch::cat({global_rows(core, core.q, core.k, core.v), heads.slice(2, global)}, 2);
  }

 private:
  Mask local_mask(int64_t dilation) const {
    const int64_t half = longformer_.window / 2 * dilation, full = (longformer_.window - 1) * dilation;
    const SinkTokens global{longformer_.global_tokens};
    const Mask band = config_.causal ? Mask(Window{full, 0}) : Mask(Window{half, half});
    const Mask spread = dilation > 1 ? band & Dilation{dilation} : band;
    const Mask seen = longformer_.global_tokens > 0 ? spread | global : spread;
    return config_.causal ? Causal{} & seen : seen;
  }

  /// Window and global columns in one softmax; heads of equal dilation in one call.
  torch::Tensor local_rows(const CoreInput& in) {
    auto options = options_for(in);
    const auto& dilation = longformer_.dilation;
    if (dilation.size() == 1) {
      options.mask = local_mask(dilation[0]);
      return nn::attention(in.q, in.k, in.v, options, in.report);
    }
    const int64_t group = in.q.size(1) / in.k.size(1);
    std::vector<torch::Tensor> heads;
    for (int64_t h = 0; h < in.q.size(1); ++h) {
      auto head_options = options;
      head_options.mask = local_mask(dilation[h]);
      if (options.bias) head_options.bias = options.bias->size(1) > 1 ? options.bias->narrow(1, h, 1) : *options.bias;
      if (options.alibi_slopes) head_options.alibi_slopes = options.alibi_slopes->narrow(0, h, 1);
      heads.push_back(
          attention(in.q.narrow(1, h, 1), in.k.narrow(1, h / group, 1), in.v.narrow(1, h / group, 1), head_options));
    }
    return torch::cat(heads, 1);
  }

  torch::Tensor global_rows(const CoreInput& in, const torch::Tensor& q, const torch::Tensor& k,
                            const torch::Tensor& v) {
    const int64_t n = q.size(2), global = std::min(longformer_.global_tokens, n);
    auto options = options_for(in);
    // The first rows of a longer sequence: aligned with its first keys.
    options.mask = config_.causal ? Mask(Causal{Alignment::top_left}) : Mask();
    if (options.q_documents) options.q_documents = options.q_documents->narrow(1, 0, global);
    if (options.bias && options.bias->size(2) > 1) options.bias = options.bias->narrow(2, 0, global);
    if (!options.alibi_slopes) return nn::attention(q.narrow(2, 0, global), k, v, options, in.report);
    // ALiBi counts from the last key, so all rows are needed for its distances.
    return attention(q, k, v, options).narrow(2, 0, global);
  }

  LongformerConfig longformer_;
  torch::nn::Linear q_global_{nullptr}, k_global_{nullptr}, v_global_{nullptr};
};

}  // namespace

RegistryRow rows::longformer() {
  return {.name = "longformer",
          .family = "exact_and_systems",
          .paper = "Longformer: The Long-Document Transformer (arXiv 2004.05150)",
          .year = 2020,
          .patterns = {true, true, false, false},
          .core = true,
          .cost = "O(N (w + g))",
          .parameters = attention_parameters(
              {{"window", 512, "causal: visible keys, the own one included; bidirectional: window / 2 on either side"},
               {"global_tokens", 1, "the first tokens, which see and are seen by all"},
               {"dilation", nlohmann::json::array({1}), "gap between visible keys: one number, or one a query head"}}),
          .small = {{"dim", 24},
                    {"heads", 4},
                    {"kv_heads", 2},
                    {"positions", "rope"},
                    {"window", 8},
                    {"global_tokens", 2},
                    {"dilation", {1, 1, 2, 3}}},
          .make = attention_maker("longformer", [](const AttentionConfig& config, ConfigReader& reader) {
            LongformerConfig longformer;
            longformer.window = reader.integer("window", longformer.window, 1);
            longformer.global_tokens = reader.integer("global_tokens", longformer.global_tokens, 0);
            longformer.dilation = reader.get("dilation", longformer.dilation);
            const auto count = int64_t(longformer.dilation.size());
            require(count == 1 || count == config.heads, "longformer: dilation has {} entries: 1 or {} are accepted",
                    count, config.heads);
            for (const auto step : longformer.dilation)
              require(step >= 1, "longformer: dilation = {}: 1 or more is accepted", step);
            return std::make_shared<Longformer>(config, longformer);
          })};
}

}  // namespace heed
