#include "heed/models/samba_asr.h"

#include "heed/error.h"
#include "heed/models/transformer.h"

namespace heed {
namespace {

using torch::Tensor;

/// bool [B, n]: true where nothing stands.
Tensor behind(const Tensor& lengths, int64_t n) { return torch::arange(n).unsqueeze(0) >= lengths.unsqueeze(1); }

/// Padding in front and the last token at the end, where text follows: convolutions and states then go on as if there
/// were no padding.
MixerInput right_aligned(const Tensor& x, const Tensor& lengths) {
  const auto missing = (x.size(1) - lengths).unsqueeze(1), place = torch::arange(x.size(1)).unsqueeze(0) - missing;
  MixerInput input;
  input.x = x.gather(1, place.clamp_min(0).unsqueeze(2).expand_as(x));
  input.key_padding = place < 0;
  return input;
}

nlohmann::json with_direction(const nlohmann::json& own, bool causal) {
  auto json = own.is_null() ? nlohmann::json::object() : own;
  json["causal"] = causal;
  return json;
}

}  // namespace

SambaAsrImpl::SambaAsrImpl(SambaAsrConfig config) : config_(std::move(config)) {
  const auto& c = config_;
  require(c.bands >= 1 && c.dim >= 1 && c.vocab_size >= 2,
          "samba_asr: {} bands, dim = {}, {} text tokens: 1, 1 and 2 or more are accepted", c.bands, c.dim,
          c.vocab_size);
  require(c.encoder_layers >= 0 && c.decoder_layers >= 1, "samba_asr: {} and {} layers: 0 and 1 or more are accepted",
          c.encoder_layers, c.decoder_layers);
  require(c.stride == 2 || c.stride == 4, "samba_asr: stride = {}: 2 or 4 is accepted", c.stride);
  const bool by_state = c.connection == "state";
  require(by_state || c.connection == "concatenated", "samba_asr: connection = {}: state or concatenated is accepted",
          c.connection);
  const auto linear = [&](const std::string& name, int64_t outputs) {
    return register_module(name, torch::nn::Linear(c.dim, outputs));
  };
  for (int64_t i = 0; i < 2; ++i) {
    const auto options =
        torch::nn::Conv1dOptions(i == 0 ? c.bands : c.dim, c.dim, 3).stride(i == 0 || c.stride == 4 ? 2 : 1);
    convolutions_.push_back(register_module("convolution_" + std::to_string(i), torch::nn::Conv1d(options)));
  }
  encoder_ = register_module(
      "encoder", MixerStack(c.mixer, with_direction(c.encoder_mixer, !c.bidirectional), c.dim, c.encoder_layers));
  encoder_norm_ = register_module("encoder_norm", nn::Norm(formats::NormKind::rms, c.dim, 1e-5));
  memory_proj_ = linear("memory_proj", c.dim);
  decoder_ =
      register_module("decoder", MixerStack(c.mixer, with_direction(c.decoder_mixer, true), c.dim, c.decoder_layers));
  decoder_norm_ = register_module("decoder_norm", nn::Norm(formats::NormKind::rms, c.dim, 1e-5));
  if (by_state && c.mean) {
    mean_proj_ = linear("mean_proj", c.dim);
    for (int64_t i = 0; i < c.decoder_layers; ++i)
      mean_gates_.push_back(linear("mean_gate_" + std::to_string(i), c.dim));
  }
  embedding_ = register_module("embedding", torch::nn::Embedding(c.vocab_size, c.dim));
  separator_ = register_parameter("separator", torch::randn({1, 1, c.dim}));
  head_ = linear("head", c.vocab_size);
  if (c.ctc) ctc_head_ = linear("ctc_head", c.vocab_size + 1);
}

EncodedSpeech SambaAsrImpl::encode(const Tensor& frames, const std::optional<Tensor>& lengths) {
  const auto& c = config_;
  require(frames.dim() == 3 && frames.size(1) >= 1 && frames.size(2) == c.bands,
          "samba_asr: frames {}: [B, T, {}] with T of 1 or more is accepted", c10::str(frames.sizes()), c.bands);
  auto counts = torch::full({frames.size(0)}, frames.size(1), torch::kInt64);
  if (lengths) {
    require(lengths->scalar_type() == torch::kInt64 && lengths->dim() == 1 && lengths->size(0) == frames.size(0),
            "samba_asr: lengths of {} {}: int64 [{}] is accepted", c10::toString(lengths->scalar_type()),
            c10::str(lengths->sizes()), frames.size(0));
    require(((*lengths >= 1) & (*lengths <= frames.size(1))).all().item<bool>(),
            "samba_asr: lengths from {} to {}: 1 to {} is accepted", lengths->min().item<int64_t>(),
            lengths->max().item<int64_t>(), frames.size(1));
    counts = *lengths;
  }
  // Where nothing later may be seen, a convolution ends at the frame it stands on.
  const std::vector<int64_t> around = c.bidirectional ? std::vector<int64_t>{1, 1} : std::vector<int64_t>{2, 0};
  auto x = frames.transpose(1, 2);
  for (auto& convolution : convolutions_) {
    x = x.masked_fill(behind(counts, x.size(2)).unsqueeze(1), 0);
    x = torch::silu(convolution(torch::constant_pad_nd(x, around)));
    const int64_t stride = convolution->options.stride()->at(0);
    counts = (counts + stride - 1).div(stride, "floor");
  }
  MixerInput input;
  input.x = x.transpose(1, 2);
  if (lengths) input.key_padding = behind(counts, input.x.size(1));
  return {encoder_norm_(encoder_->forward(std::move(input))), counts};
}

SambaAsrState SambaAsrImpl::read(const EncodedSpeech& speech) {
  SambaAsrState state{decoder_->make_states(speech.x.size(0)), {}};
  auto input = right_aligned(speech.x, speech.lengths);
  input.x = memory_proj_(input.x);
  if (config_.connection == "concatenated") {
    decoder_->forward(std::move(input), &state.layers);
    return state;
  }
  for (size_t i = 0; i < decoder_->layers(); ++i) decoder_->added(i, input, state.layers[i].get());
  if (mean_proj_) {
    const auto shown = speech.x.masked_fill(behind(speech.lengths, speech.x.size(1)).unsqueeze(2), 0);
    state.mean = mean_proj_(shown.sum(1, true) / speech.lengths.view({-1, 1, 1}).to(shown.scalar_type()));
  }
  return state;
}

Tensor SambaAsrImpl::decode(const SambaAsrState& state, Tensor x) {
  for (size_t i = 0; i < decoder_->layers(); ++i) {
    MixerInput input;
    input.x = x;
    auto added = decoder_->added(i, std::move(input), state.layers[i].get());
    if (state.mean.defined()) added = added + torch::sigmoid(mean_gates_[i](x)) * state.mean;
    x = x + added;
  }
  return head_(decoder_norm_(x));
}

Tensor SambaAsrImpl::forward(const EncodedSpeech& speech, const Tensor& text) {
  check_ids(text, config_.vocab_size, "samba_asr: text");
  const auto tokens = torch::cat({separator(text.size(0)), embedding_(text)}, 1);
  if (config_.connection == "state") return decode(read(speech), tokens);
  auto input = right_aligned(speech.x, speech.lengths);
  const int64_t before = input.x.size(1);
  input.x = torch::cat({memory_proj_(input.x), tokens}, 1);
  input.key_padding = torch::constant_pad_nd(*input.key_padding, {0, tokens.size(1)}, false);
  return head_(decoder_norm_(decoder_->forward(std::move(input)).slice(1, before)));
}

std::pair<SambaAsrState, Tensor> SambaAsrImpl::begin(const EncodedSpeech& speech) {
  auto state = read(speech);
  auto logits = decode(state, separator(speech.x.size(0))).squeeze(1);
  return {std::move(state), logits};
}

Tensor SambaAsrImpl::advance(const SambaAsrState& state, const Tensor& tokens) {
  check_ids(tokens, config_.vocab_size, "samba_asr: text");
  return decode(state, embedding_(tokens));
}

std::vector<std::vector<int64_t>> SambaAsrImpl::transcribe(const EncodedSpeech& speech, int64_t most) {
  torch::NoGradGuard no_grad;
  const int64_t batch = speech.x.size(0);
  std::vector<std::vector<int64_t>> texts(static_cast<size_t>(batch));
  std::vector<bool> ended(texts.size(), false);
  auto [state, logits] = begin(speech);
  for (int64_t step = 0; step < most; ++step) {
    const auto tokens = logits.argmax(1).contiguous();
    for (size_t b = 0; b < texts.size(); ++b) {
      const int64_t token = tokens.data_ptr<int64_t>()[b];
      ended[b] = ended[b] || token == 0;
      if (!ended[b]) texts[b].push_back(token);
    }
    if (std::find(ended.begin(), ended.end(), false) == ended.end()) break;
    logits = advance(state, tokens.unsqueeze(1)).squeeze(1);
  }
  return texts;
}

Tensor SambaAsrImpl::ctc_logits(const EncodedSpeech& speech) {
  require(bool(ctc_head_), "samba_asr: this model has no CTC head");
  return ctc_head_(speech.x);
}

}  // namespace heed
