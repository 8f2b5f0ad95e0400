#include "heed/mixers/attention_mixer.h"

#include <cmath>

#include "heed/error.h"
#include "heed/mixers/attention_cache.h"
#include "heed/mixers/taps.h"
#include "heed/nn/start.h"

namespace heed {
namespace {

using torch::Tensor;

/// Packed positions restart at each sequence.
Tensor packed_positions(const Tensor& cu_seqlens, int64_t tokens) {
  const auto cu = cu_seqlens.to(torch::kInt64).contiguous();
  auto positions = torch::arange(tokens);
  for (int64_t s = 0; s + 1 < cu.numel(); ++s) {
    const int64_t begin = cu[s].item<int64_t>(), end = cu[s + 1].item<int64_t>();
    require(0 <= begin && begin <= end && end <= tokens, "cu_seqlens: [{}, {}) lies outside the {} tokens", begin, end,
            tokens);
    positions.slice(0, begin, end).sub_(begin);
  }
  return positions;
}

/// ALiBi's -slope (i - j), but for what all keys of a query share, as one more channel: keys hold their position in it,
/// queries their head's slope. So a policy drops and scores keys with what their distance costs them.
void slopes_as_channel(AttentionOptions& options, Tensor& q, Tensor& k, const Tensor& positions) {
  require(options.softcap == 0, "a cache policy and ALiBi go with no soft cap, not {}", options.softcap);
  require(k.scalar_type() == torch::kFloat32 || k.scalar_type() == torch::kFloat64,
          "a cache policy and ALiBi go with float32 or float64, not {}: keys hold their position",
          c10::toString(k.scalar_type()));
  if (options.scale == 0) options.scale = 1 / std::sqrt(double(q.size(3)));
  const auto slopes = options.alibi_slopes->to(q.scalar_type()) / options.scale;
  q = torch::cat({q, slopes.view({1, -1, 1, 1}).expand({q.size(0), -1, q.size(2), 1})}, 3);
  k = torch::cat({k, positions.to(k.scalar_type()).view({1, 1, -1, 1}).expand({k.size(0), k.size(1), -1, 1})}, 3);
  options.alibi_slopes.reset();
}

}  // namespace

std::unique_ptr<MixerState> TokenMixer::make_state(int64_t) const {
  fail("{} has no step: it needs the whole sequence", name());
}
Tensor TokenMixer::mix(const CoreInput&) { fail("{} has no core that is a function of q, k, v", name()); }

AttentionConfig AttentionConfig::read(ConfigReader& reader) {
  AttentionConfig c;
  c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
  c.heads = reader.integer("heads", c.heads, 1, 1 << 16);
  c.kv_heads = reader.integer("kv_heads", 0, 0, 1 << 16);
  if (!c.kv_heads) c.kv_heads = c.heads;
  require(c.heads % c.kv_heads == 0, "{}: heads = {} is no multiple of kv_heads = {}", reader.owner(), c.heads,
          c.kv_heads);
  c.head_dim = reader.integer("head_dim", 0, 0, 1 << 16);
  require(c.head_dim || c.dim % c.heads == 0, "{}: dim = {} is no multiple of heads = {}; give head_dim",
          reader.owner(), c.dim, c.heads);
  if (!c.head_dim) c.head_dim = c.dim / c.heads;
  c.causal = reader.get("causal", c.causal);
  const bool bias = reader.get("bias", false);
  c.qkv_bias = reader.get("qkv_bias", bias);
  c.output_bias = reader.get("output_bias", bias);
  c.qk_norm = reader.choice("qk_norm", c.qk_norm, {"none", "rms", "layer"});
  c.norm_eps = reader.get("norm_eps", c.norm_eps);
  require(c.norm_eps >= 0 && c.norm_eps <= 1, "{}: norm_eps = {}: 0 to 1 is accepted", reader.owner(), c.norm_eps);
  c.scale = reader.get("scale", c.scale);
  require(c.scale >= 0 && std::isfinite(c.scale), "{}: scale = {}: 0 (1 / sqrt(head_dim)) or more is accepted",
          reader.owner(), c.scale);
  c.softcap = reader.get("softcap", c.softcap);
  require(c.softcap >= 0 && std::isfinite(c.softcap), "{}: softcap = {}: 0 (none) or more is accepted", reader.owner(),
          c.softcap);
  c.dropout = reader.get("dropout", c.dropout);
  require(c.dropout >= 0 && c.dropout < 1, "{}: dropout = {}: 0 up to 1 is accepted", reader.owner(), c.dropout);
  c.max_length = reader.integer("max_length", c.max_length, 1);
  c.positions = nn::PositionsConfig::from_json(reader.object("positions"), reader.owner());
  return c;
}

void KvState::append(const Tensor& k, const Tensor& v) {
  kv.append(k, v);
  tokens += k.size(2);
}

void KvState::erase(int64_t begin, int64_t end) {
  if (begin >= end) return;
  kv.erase(begin, end);
  if (padding.defined()) padding = torch::cat({padding.slice(1, 0, begin), padding.slice(1, end)}, 1);
}

std::unique_ptr<MixerState> KvState::clone() const {
  auto copy = std::make_unique<KvState>();
  copy->kv = kv.clone();
  if (padding.defined()) copy->padding = padding.clone();
  copy->tokens = tokens;
  return copy;
}

void KvState::truncate(int64_t length) {
  require(length >= 0 && length <= tokens, "truncate to {} tokens: 0 to {} is accepted", length, tokens);
  require(kv.length() == tokens || length == 0,
          "truncate to {} tokens: {} of the {} seen were evicted, so only 0 is accepted", length, tokens - kv.length(),
          tokens);
  kv.erase(length, kv.length());
  if (padding.defined()) padding = padding.narrow(1, 0, length).clone();
  tokens = length;
}

AttentionMixer::AttentionMixer(std::string name, AttentionConfig config)
    : name_(std::move(name)), config_(std::move(config)) {
  const auto& c = config_;
  q_proj_ = register_module("q_proj", nn::started_linear(c.dim, c.heads * c.head_dim, c.qkv_bias));
  k_proj_ = register_module("k_proj", nn::started_linear(c.dim, c.kv_heads * c.head_dim, c.qkv_bias));
  v_proj_ = register_module("v_proj", nn::started_linear(c.dim, c.kv_heads * c.head_dim, c.qkv_bias));
  o_proj_ = register_module("o_proj", nn::started_linear(c.heads * c.head_dim, c.dim, c.output_bias));
  if (c.qk_norm != "none") {
    const auto kind = c.qk_norm == "rms" ? formats::NormKind::rms : formats::NormKind::layer;
    q_norm_ = register_module("q_norm", nn::Norm(kind, c.head_dim, c.norm_eps));
    k_norm_ = register_module("k_norm", nn::Norm(kind, c.head_dim, c.norm_eps));
  }
  positions_ = register_module("positions", nn::Positions(c.positions, c.dim, c.heads, c.causal));
}

std::unique_ptr<MixerState> AttentionMixer::make_state(int64_t) const {
  require(config_.causal, "{} has no step when causal = false: later tokens change earlier outputs", name_);
  return std::make_unique<KvState>();
}

Mask AttentionMixer::mask() const { return config_.causal ? Mask(Causal{}) : Mask(); }

Tensor AttentionMixer::split_heads(const Tensor& x, int64_t heads) const {
  return x.unflatten(2, {heads, config_.head_dim}).transpose(1, 2);
}

void AttentionMixer::normalize(Tensor& q, Tensor& k) {
  if (!q_norm_) return;
  q = q_norm_(q);
  k = k_norm_(k);
}

void AttentionMixer::check_keys(const MixerInput& in, const Tensor& source) const {
  for (const auto& [given, what] : {std::pair{&in.key_padding, "key_padding"}, {&in.sizes, "sizes"}})
    if (*given)
      require((*given)->dim() == 2 && (*given)->size(0) == source.size(0) && (*given)->size(1) == source.size(1),
              "{}: {} does not fit: [{}, {}] is accepted", name_, what, source.size(0), source.size(1));
}

Tensor AttentionMixer::append_padding(const MixerInput& in, KvState& state) const {
  if (!in.key_padding && !state.padding.defined()) return {};
  const auto real = [&](int64_t tokens) { return torch::zeros({in.x.size(0), tokens}, torch::kBool); };
  const auto old = state.padding.defined() ? state.padding : real(state.slots());
  return state.padding = torch::cat({old, in.key_padding.value_or(real(in.x.size(1)))}, 1);
}

AttentionOptions AttentionMixer::options_for(const CoreInput& in) {
  AttentionOptions options;
  options.mask = mask();
  options.scale = config_.scale;
  options.softcap = config_.softcap;
  const int64_t n = in.q.size(2), m = in.k.size(2);
  positions_->score_terms(options, in.q_positions.value_or(torch::arange(m - n, m)),
                          in.k_positions.value_or(torch::arange(m)));
  if (in.cu_seqlens) options.cu_q = options.cu_k = in.cu_seqlens;
  if (in.key_padding) {
    // Documents 0 (real) and -1 (padding): a padding key matches no query.
    options.k_documents = in.key_padding->to(torch::kInt32).neg();
    options.q_documents = torch::zeros({in.q.size(0), n}, torch::kInt32);
  }
  if (in.key_sizes) {
    const auto bias = in.key_sizes->log().unsqueeze(1).unsqueeze(1);
    options.bias = options.bias ? *options.bias + bias : bias;
  }
  if (is_training() && config_.dropout > 0) {
    options.dropout = config_.dropout;
    options.seed = in.seed;
  }
  customize(options, in);
  return options;
}

Tensor AttentionMixer::mix(const CoreInput& input) {
  return nn::attention(input.q, input.k, input.v, options_for(input), input.report);
}

Tensor AttentionMixer::attend_cached(const MixerInput& in, AttentionCache& cache, const Tensor& raw_q,
                                     const Tensor& raw_k, const Tensor& v, const Tensor& positions) {
  auto q = raw_q, k = raw_k;
  const auto& kind = config_.positions.kind;
  require(config_.causal && kind != "t5", "{}: a cache policy serves causal attention without t5 positions", name_);
  require(serves_caches(), "{}: a cache policy serves mixers that are attention under a mask", name_);
  require(!in.key_padding, "{}: a cache policy takes prompts without padding", name_);
  AttentionOptions options = options_for({q, k, v});
  require(options.normalizer == NormalizerKind::softmax && !options.sink_logit && !options.bias &&
              !options.temperature && !options.multiplier && !options.blocks,
          "{}: a cache policy serves plain softmax attention", name_);
  if (options.alibi_slopes) slopes_as_channel(options, q, k, positions);
  auto heads = after_core(in, cache.attend({in.layer, q, k, v, positions, positions_.get(), options, in.residual}));
  if (in.taps) in.taps->core_output(in.layer, heads);
  return heads;
}

Tensor AttentionMixer::forward(const MixerInput& in, MixerState* raw_state) {
  const auto& c = config_;
  require(in.x.dim() == 3 && in.x.size(2) == c.dim,
          "{}: x of {} dimensions and {} channels: [batch, tokens, {}] is accepted", name_, in.x.dim(),
          in.x.dim() ? in.x.size(-1) : 0, c.dim);
  auto* state = dynamic_cast<KvState*>(raw_state);
  auto* cache = dynamic_cast<AttentionCache*>(raw_state);
  require(!raw_state || state || cache, "{}: this state was made by another mixer", name_);
  require(!raw_state || (!in.memory && !in.cu_seqlens),
          "{}: a state goes with self attention over one sequence an item: no memory, no cu_seqlens", name_);
  require(!in.cu_seqlens || in.x.size(0) == 1, "{}: packed sequences come with batch size 1, not {}", name_,
          in.x.size(0));

  const Tensor& source = in.memory ? *in.memory : in.x;
  require(source.dim() == 3 && source.size(0) == in.x.size(0) && source.size(2) == c.dim,
          "{}: memory does not fit x: [{}, tokens, {}] is accepted", name_, in.x.size(0), c.dim);
  const int64_t n = in.x.size(1), past = raw_state ? raw_state->seen() : 0;
  auto q_positions = in.positions    ? *in.positions
                     : in.cu_seqlens ? packed_positions(*in.cu_seqlens, n)
                                     : torch::arange(past, past + n);
  auto k_positions = in.memory ? torch::arange(source.size(1)) : q_positions;

  auto q = split_heads(q_proj_(positions_->embed(in.x, q_positions)), c.heads);
  const auto embedded = in.memory ? positions_->embed(source, k_positions) : positions_->embed(source, q_positions);
  auto k = split_heads(k_proj_(embedded), c.kv_heads);
  auto v = split_heads(v_proj_(embedded), c.kv_heads);
  normalize(q, k);
  before_core(in, state, q, k, v);
  check_keys(in, source);
  require(!raw_state || !in.sizes, "{}: sizes of tokens and a state: one of the two is accepted", name_);
  const auto finish = [&](torch::Tensor heads) {
    heads = after_core(in, heads);
    if (in.taps) in.taps->core_output(in.layer, heads);
    return o_proj_(heads.transpose(1, 2).flatten(2));
  };
  if (!cache)
    if (const auto heads = attend_own(in, state, q, k, v, q_positions)) return finish(*heads);
  if (cache) return o_proj_(attend_cached(in, *cache, q, k, v, q_positions).transpose(1, 2).flatten(2));
  q = positions_->rotate(q, q_positions);
  k = positions_->rotate(k, k_positions);

  CoreInput core{q, k, v, in.key_padding, in.cu_seqlens, q_positions, k_positions, in.seed, nullptr, in.share};
  core.grid = in.grid;
  core.key_sizes = in.sizes;
  if (state) {
    if (const auto padding = append_padding(in, *state); padding.defined()) core.key_padding = padding;
    state->append(k, v);
    core.k_positions.reset();
    core.q_positions.reset();
  }
  // Taps are shown all keys and values.
  auto heads = state && !in.taps ? mix_held(core, *state) : std::nullopt;
  if (!heads) {
    if (state) core.k = state->keys(), core.v = state->values();
    if (in.taps) in.taps->core_input(in.layer, core);
    heads = mix(core);
  }
  const auto out = finish(*heads);
  if (state) evict(*state);
  return out;
}

}  // namespace heed
