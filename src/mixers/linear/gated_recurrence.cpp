// GRU and LSTM: the recurrences that linear ones are measured against. Their past goes through a nonlinearity at every
// token, so nothing of them runs side by side.
#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/config.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

/// Outputs [B, N, hidden] and what is remembered after the last token, [1, B, hidden] a tensor.
struct Recurred {
  Tensor out;
  std::vector<Tensor> memory;
};

Recurred recur(torch::nn::GRU& gru, const Tensor& x, const std::vector<Tensor>& memory) {
  const auto [out, h] = gru(x, memory[0]);
  return {out, {h}};
}

Recurred recur(torch::nn::LSTM& lstm, const Tensor& x, const std::vector<Tensor>& memory) {
  const auto [out, last] = lstm(x, std::make_tuple(memory[0], memory[1]));
  return {out, {std::get<0>(last), std::get<1>(last)}};
}

template <class Cells>
constexpr size_t kTensors = std::is_same_v<Cells, torch::nn::LSTM> ? 2 : 1;

template <class Cells, class Options>
class GatedRecurrence final : public RecurrentMixer {
 public:
  GatedRecurrence(const char* name, int64_t dim, int64_t hidden) : RecurrentMixer(name, dim, true), hidden_(hidden) {
    cells_ = register_module("cells", Cells(Options(dim, hidden).batch_first(true)));
    o_proj_ = project("o_proj", hidden, dim);
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    std::vector<Tensor> memory;
    for (size_t i = 0; i < kTensors<Cells>; ++i) {
      const auto& seen = call.slot(i);
      memory.push_back(seen.defined() ? seen : torch::zeros({1, call.batch(), hidden_}, call.x.options()));
    }
    std::vector<Tensor> outs;
    if (call.input.cu_seqlens) {
      const auto bounds = call.input.cu_seqlens->to(torch::kInt64);
      for (int64_t i = 0; i + 1 < bounds.size(0); ++i) {
        const int64_t begin = bounds[i].item<int64_t>(), end = bounds[i + 1].item<int64_t>();
        if (end > begin) outs.push_back(walk(call, begin, end, memory).out);
      }
    } else {
      auto result = walk(call, 0, call.tokens(), memory);
      outs.push_back(result.out);
      for (size_t i = 0; i < memory.size(); ++i) call.slot(i) = result.memory[i];
    }
    return o_proj_(torch::cat(outs, 1));
  }

 private:
  /// Tokens begin to end; those of padding leave the memory as it is.
  Recurred walk(RecurrentCall& call, int64_t begin, int64_t end, std::vector<Tensor> memory) {
    if (!call.input.key_padding) return recur(cells_, call.x.slice(1, begin, end), memory);
    std::vector<Tensor> outs;
    for (int64_t t = begin; t < end; ++t) {
      const auto padded = call.input.key_padding->select(1, t).view({1, -1, 1});
      auto next = recur(cells_, call.x.slice(1, t, t + 1), memory);
      for (size_t i = 0; i < memory.size(); ++i) memory[i] = torch::where(padded, memory[i], next.memory[i]);
      outs.push_back(next.out);
    }
    return {torch::cat(outs, 1), memory};
  }

  int64_t hidden_;
  Cells cells_{nullptr};
  torch::nn::Linear o_proj_{nullptr};
};

template <class Cells, class Options>
RegistryRow row(const char* name, const char* paper, int year) {
  return {.name = name,
          .family = "linear_and_recurrent",
          .paper = paper,
          .year = year,
          .patterns = {false, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .cost = "O(N)",
          .parameters = {{"dim", 64, "channels C of the tokens"},
                         {"hidden", 0, "channels of the memory; 0: dim"},
                         {"causal", true, "only true is accepted"}},
          .small = {{"dim", 24}},
          .make = [name](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader(name, json);
            const auto dim = reader.integer("dim", 64, 1, 1 << 20), hidden = reader.integer("hidden", 0, 0, 1 << 20);
            require(reader.get("causal", true), "{}: causal = false is not accepted: a recurrence has a direction",
                    name);
            reader.finish();
            return std::make_shared<GatedRecurrence<Cells, Options>>(name, dim, hidden == 0 ? dim : hidden);
          }};
}

}  // namespace

RegistryRow rows::gru() {
  return row<torch::nn::GRU, torch::nn::GRUOptions>(
      "gru", "Learning Phrase Representations using RNN Encoder-Decoder (arXiv 1406.1078)", 2014);
}

RegistryRow rows::lstm() {
  return row<torch::nn::LSTM, torch::nn::LSTMOptions>("lstm", "Long Short-Term Memory (Neural Computation 9(8))", 1997);
}

}  // namespace heed
