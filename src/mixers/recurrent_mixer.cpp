#include "heed/mixers/recurrent_mixer.h"

#include <fmt/format.h>

#include "heed/error.h"
#include "heed/nn/start.h"

namespace heed {

using torch::Tensor;

namespace {

std::string shape_text(const Tensor& t) { return c10::str(t.sizes()); }

/// "key_dim = 8, here 16; ..." of what two configurations do not share.
std::string differences(const nlohmann::json& of_state, const nlohmann::json& here) {
  if (!of_state.is_object() || !here.is_object()) return "one of the two was made without the registry";
  std::string text;
  for (const auto& [key, value] : of_state.items()) {
    const auto other = here.value(key, nlohmann::json());
    if (other != value)
      text += fmt::format("{}{} = {}, here {}", text.empty() ? "" : "; ", key, value.dump(), other.dump());
  }
  for (const auto& [key, value] : here.items())
    if (!of_state.contains(key)) text += fmt::format("{}{} is {} here", text.empty() ? "" : "; ", key, value.dump());
  return text;
}

}  // namespace

int64_t RecurrentState::bytes() const {
  int64_t sum = 0;
  for (const auto& slot : slots)
    if (slot.defined()) sum += int64_t(slot.nbytes());
  return sum;
}

std::unique_ptr<MixerState> RecurrentState::clone() const {
  auto copy = std::make_unique<RecurrentState>();
  for (const auto& slot : slots) copy->slots.push_back(slot.defined() ? slot.clone() : Tensor());
  copy->tokens = tokens;
  copy->maker = maker;
  copy->batch = batch;
  return copy;
}

void RecurrentState::truncate(int64_t length) {
  require(length == 0 || length == tokens,
          "truncate to {} tokens: a recurrent state sums up all {} seen; 0 or {} is accepted (clone it to come back)",
          length, tokens, tokens);
  if (length == 0) slots.clear();
  tokens = length;
}

RecurrentCall::RecurrentCall(const MixerInput& input, RecurrentState* state)
    : input(input), x(input.x), state_(state) {}

Tensor RecurrentCall::positions() const {
  if (input.positions) return *input.positions;
  const auto all = torch::arange(seen(), seen() + tokens());
  if (!input.cu_seqlens) return all;
  const auto bounds = input.cu_seqlens->to(torch::kInt64);
  return all - bounds.index_select(0, torch::searchsorted(bounds, all, false, true) - 1);
}

Tensor& RecurrentCall::slot(size_t index) {
  auto& slots = (state_ == nullptr ? &own_ : state_)->slots;
  if (slots.size() <= index) slots.resize(index + 1);
  return slots[index];
}

Tensor RecurrentCall::without_padding(const Tensor& t) const {
  if (!input.key_padding) return t;
  auto hidden = *input.key_padding;
  while (hidden.dim() < t.dim()) hidden = hidden.unsqueeze(-1);
  return t.masked_fill(hidden, 0);
}

Tensor RecurrentCall::heads_without_padding(const Tensor& t) const {
  if (!input.key_padding) return t;
  auto hidden = input.key_padding->unsqueeze(1);
  if (t.dim() == 4) hidden = hidden.unsqueeze(-1);
  return t.masked_fill(hidden, 0);
}

std::optional<Tensor> RecurrentCall::decay_of_tokens(std::optional<Tensor> log_decay) const {
  if (!log_decay) return log_decay;
  if (log_decay->scalar_type() != torch::kFloat64) log_decay = log_decay->to(torch::kFloat32);
  if (x.scalar_type() == torch::kFloat64) log_decay = log_decay->to(torch::kFloat64);
  if (!input.key_padding) return log_decay;
  if (log_decay->dim() == 1) log_decay = log_decay->view({1, -1, 1}).expand({batch(), -1, tokens()});
  return heads_without_padding(*log_decay);
}

Tensor RecurrentCall::linear(size_t slot_index, const Tensor& q, const Tensor& k, const Tensor& v,
                             std::optional<Tensor> log_decay, ops::LinearChunkOptions options) {
  auto& held = slot(slot_index);
  options.cu_seqlens = input.cu_seqlens;
  const auto initial = held.defined() ? std::optional(held) : std::nullopt;
  auto result = ops::linear_chunk(q, heads_without_padding(k), v, decay_of_tokens(log_decay), initial, options);
  held = result.state;
  return result.out;
}

Tensor RecurrentCall::delta(size_t slot_index, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& beta,
                            std::optional<Tensor> log_decay, ops::DeltaChunkOptions options) {
  auto& held = slot(slot_index);
  options.cu_seqlens = input.cu_seqlens;
  const auto initial = held.defined() ? std::optional(held) : std::nullopt;
  auto result = ops::delta_chunk(q, k, v, heads_without_padding(beta), decay_of_tokens(log_decay), initial, options);
  held = result.state;
  return result.out;
}

Tensor RecurrentCall::conv(size_t slot_index, nn::ShortConv& conv, const Tensor& x) {
  return conv->forward(without_padding(x), &slot(slot_index), input.cu_seqlens);
}

RecurrentMixer::RecurrentMixer(std::string name, int64_t dim, bool causal)
    : dim_(dim),
      causal_(causal),
      identity_(std::make_shared<RecurrentIdentity>(RecurrentIdentity{std::move(name), {}})) {}

void RecurrentMixer::set_configuration(nlohmann::json configuration) {
  identity_ = std::make_shared<RecurrentIdentity>(RecurrentIdentity{mixer_name(), std::move(configuration)});
}

void RecurrentMixer::require_step() const {
  require(causal_, "{} has no step when causal = false: later tokens change earlier outputs", mixer_name());
  const auto reason = without_step();
  require(reason.empty(), "{} has no step: {}", mixer_name(), reason);
}

void RecurrentMixer::require_own(const RecurrentState& state, int64_t batch) const {
  if (state.maker == nullptr) return;
  const auto &own = *identity_, &other = *state.maker;
  require(own.mixer == other.mixer, "{}: the state is one of {}; one of its own is accepted", own.mixer, other.mixer);
  if (&own != &other && own.configuration != other.configuration)
    fail("{}: the state is of another configuration: {}", own.mixer,
         differences(other.configuration, own.configuration));
  require(state.batch == batch, "{}: a batch of {} with a state of {} sequences; as many are accepted", own.mixer,
          batch, state.batch);
}

Tensor RecurrentMixer::forward(const MixerInput& input, MixerState* state) {
  const auto& x = input.x;
  require(x.dim() == 3 && x.size(2) == dim_, "{}: x has shape {}; [B, N, {}] is accepted", mixer_name(), shape_text(x),
          dim_);
  require(!input.memory || takes_memory(), "{}: no memory is accepted", mixer_name());
  const int64_t keys = input.memory ? input.memory->size(1) : x.size(1);
  if (input.memory)
    require(input.memory->dim() == 3 && input.memory->size(0) == x.size(0) && input.memory->size(2) == dim_,
            "{}: memory has shape {}; [{}, M, {}] is accepted", mixer_name(), shape_text(*input.memory), x.size(0),
            dim_);
  if (input.key_padding)
    require(input.key_padding->dim() == 2 && input.key_padding->size(0) == x.size(0) &&
                input.key_padding->size(1) == keys && input.key_padding->scalar_type() == torch::kBool,
            "{}: key_padding of {} {}; bool [{}, {}] is accepted", mixer_name(),
            c10::toString(input.key_padding->scalar_type()), shape_text(*input.key_padding), x.size(0), keys);
  require(!input.sizes, "{}: sizes of tokens are not accepted", mixer_name());
  if (input.cu_seqlens) {
    require(x.size(0) == 1, "{}: cu_seqlens with a batch of {}; packed sequences have B = 1", mixer_name(), x.size(0));
    require(state == nullptr, "{}: cu_seqlens with a state; packed sequences start anew", mixer_name());
  }
  if (input.grid) {
    int64_t cells = 1;
    for (const int64_t size : input.grid->sizes) cells *= size;
    require(cells + leading_tokens() == x.size(1), "{}: a grid of {} cells for {} tokens; {} is accepted", mixer_name(),
            cells, x.size(1), cells + leading_tokens());
  }
  RecurrentState* own = nullptr;
  if (state != nullptr) {
    own = dynamic_cast<RecurrentState*>(state);
    require_step();
    require(own != nullptr, "{}: the state is not of its kind", mixer_name());
    require_own(*own, x.size(0));
  }
  RecurrentCall call(input, own);
  auto out = run(call);
  if (own != nullptr) own->tokens += x.size(1);
  return out;
}

std::unique_ptr<MixerState> RecurrentMixer::make_state(int64_t batch) const {
  require_step();
  require(batch >= 1, "{}: a state of {} sequences; 1 or more is accepted", mixer_name(), batch);
  auto state = std::make_unique<RecurrentState>();
  state->maker = identity_;
  state->batch = batch;
  return state;
}

torch::nn::Linear RecurrentMixer::project(const std::string& name, int64_t in, int64_t out, bool bias) {
  return register_module(name, nn::started_linear(in, out, bias));
}

Tensor split_heads(const Tensor& x, int64_t heads) { return x.unflatten(2, {heads, -1}).transpose(1, 2); }

Tensor join_heads(const Tensor& x) { return x.transpose(1, 2).flatten(2); }

}  // namespace heed
