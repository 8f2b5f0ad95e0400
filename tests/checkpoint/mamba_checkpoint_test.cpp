// A checkpoint of Mamba in transformers' names: its logits against the model written out token by token.
#include <gtest/gtest.h>

#include <fstream>
#include <numeric>

#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/checkpoint/tensor_file.h"
#include "heed/error.h"
#include "support/temporary_directory.h"
#include "support/test_files.h"
#include "support/torch_support.h"

namespace heed::mamba_checkpoint_test {
namespace {

using nlohmann::json;
using test::relative_error;
using torch::Tensor;

const auto kWide = torch::TensorOptions(torch::kFloat64);

/// Sizes of a tiny model; no two of them are equal.
struct Sizes {
  int64_t vocabulary = 37, dim = 10, layers = 3, states = 5, expand = 2, conv = 4, rank = 7;
  int64_t inner() const { return expand * dim; }
};

struct TinyMamba {
  Sizes sizes;
  checkpoint::TensorMap tensors;

  explicit TinyMamba(Sizes given, bool tied = true) : sizes(given) {
    const auto& s = sizes;
    const auto put = [&](const std::string& name, std::vector<int64_t> shape, double deviation = 0.5) {
      tensors[name] = torch::randn(shape, kWide) * deviation;
    };
    put("backbone.embeddings.weight", {s.vocabulary, s.dim}, 1);
    put("backbone.norm_f.weight", {s.dim}, 1);
    if (!tied) put("lm_head.weight", {s.vocabulary, s.dim});
    for (int64_t i = 0; i < s.layers; ++i) {
      const auto layer = "backbone.layers." + std::to_string(i) + ".", mixer = layer + "mixer.";
      put(layer + "norm.weight", {s.dim}, 1);
      put(mixer + "in_proj.weight", {2 * s.inner(), s.dim});
      put(mixer + "conv1d.weight", {s.inner(), 1, s.conv});
      put(mixer + "conv1d.bias", {s.inner()});
      put(mixer + "x_proj.weight", {s.rank + 2 * s.states, s.inner()});
      put(mixer + "dt_proj.weight", {s.inner(), s.rank});
      put(mixer + "dt_proj.bias", {s.inner()});
      put(mixer + "A_log", {s.inner(), s.states});
      put(mixer + "D", {s.inner()});
      put(mixer + "out_proj.weight", {s.dim, s.inner()});
    }
  }

  json configuration() const {
    return {{"architectures", {"MambaForCausalLM"}},
            {"model_type", "mamba"},
            {"hidden_size", sizes.dim},
            {"num_hidden_layers", sizes.layers},
            {"vocab_size", sizes.vocabulary},
            {"state_size", sizes.states},
            {"expand", sizes.expand},
            {"conv_kernel", sizes.conv},
            {"time_step_rank", sizes.rank},
            {"layer_norm_epsilon", 1e-5},
            {"tie_word_embeddings", !tensors.contains("lm_head.weight")}};
  }

  void write(const std::filesystem::path& directory) const {
    checkpoint::save_tensors(directory / "model.safetensors", tensors);
    std::ofstream(directory / "config.json") << configuration();
  }

  static Tensor normed(const Tensor& x, const Tensor& weight) {
    return x * torch::rsqrt(x.square().mean() + 1e-5) * weight;
  }

  /// What the mixer of a layer gives for tokens x [N, dim].
  Tensor mixed(const std::string& mixer, const Tensor& x) const {
    const auto w = [&](const std::string& name) { return tensors.at(mixer + name); };
    const auto& s = sizes;
    auto state = torch::zeros({s.inner(), s.states}, kWide);
    const auto rate = -torch::exp(w("A_log"));
    std::vector<Tensor> inputs, rows;
    for (int64_t t = 0; t < x.size(0); ++t) {
      const auto both = torch::mv(w("in_proj.weight"), x[t]);
      inputs.push_back(both.slice(0, 0, s.inner()));
      auto u = w("conv1d.bias").clone();
      for (int64_t lag = 0; lag < s.conv && lag <= t; ++lag)
        u += w("conv1d.weight").select(1, 0).select(1, s.conv - 1 - lag) * inputs[size_t(t - lag)];
      u = u * torch::sigmoid(u);
      const auto read = torch::mv(w("x_proj.weight"), u);
      const auto step =
          torch::log1p(torch::exp(torch::mv(w("dt_proj.weight"), read.slice(0, 0, s.rank)) + w("dt_proj.bias")));
      const auto b = read.slice(0, s.rank, s.rank + s.states), c = read.slice(0, s.rank + s.states);
      state = torch::exp(step.unsqueeze(1) * rate) * state + torch::outer(step * u, b);
      const auto z = both.slice(0, s.inner());
      rows.push_back(torch::mv(w("out_proj.weight"), (torch::mv(state, c) + w("D") * u) * z * torch::sigmoid(z)));
    }
    return torch::stack(rows);
  }

  /// tokens int64 [N] -> [N, vocabulary]
  Tensor logits(const Tensor& tokens) const {
    auto x = tensors.at("backbone.embeddings.weight").index_select(0, tokens);
    const auto by_row = [](const Tensor& rows, const Tensor& weight) {
      std::vector<Tensor> out;
      for (int64_t t = 0; t < rows.size(0); ++t) out.push_back(normed(rows[t], weight));
      return torch::stack(out);
    };
    for (int64_t i = 0; i < sizes.layers; ++i) {
      const auto layer = "backbone.layers." + std::to_string(i) + ".";
      x = x + mixed(layer + "mixer.", by_row(x, tensors.at(layer + "norm.weight")));
    }
    const bool tied = !tensors.contains("lm_head.weight");
    const auto& head = tensors.at(tied ? "backbone.embeddings.weight" : "lm_head.weight");
    return torch::matmul(by_row(x, tensors.at("backbone.norm_f.weight")), head.t());
  }
};

Tensor random_tokens(int64_t batch, int64_t n, int64_t vocabulary) {
  return torch::randint(vocabulary, {batch, n}, torch::kInt64);
}

TEST(MambaCheckpoint, GivesTheLogitsOfTheModelWrittenOut) {
  torch::manual_seed(1);
  torch::NoGradGuard no_grad;
  for (const bool tied : {true, false})
    for (const Sizes& sizes : {Sizes{}, Sizes{.states = 1, .expand = 1, .conv = 1, .rank = 1}}) {
      TemporaryDirectory folder;
      const TinyMamba tiny(sizes, tied);
      tiny.write(folder.path());
      const auto tokens = random_tokens(2, 41, sizes.vocabulary);
      auto model = checkpoint::load_decoder(folder.path(), torch::kFloat64);
      const auto expected = torch::stack({tiny.logits(tokens[0]), tiny.logits(tokens[1])});
      EXPECT_LT(relative_error(model->forward(tokens), expected), test::kDouble) << tied << sizes.conv;
      EXPECT_LT(relative_error(checkpoint::load_decoder(folder.path())->forward(tokens), expected),
                test::kForwardTolerance)
          << tied;
      auto state = model->make_state(2);
      std::vector<Tensor> parts;
      for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 9}, {9, 10}, {10, 41}})
        parts.push_back(model->forward(tokens.slice(1, begin, end), &state));
      EXPECT_LT(relative_error(torch::cat(parts, 1), expected), test::kDouble);
    }
}

TEST(MambaCheckpoint, ComesBackFromHeedsOwnFormat) {
  torch::manual_seed(2);
  torch::NoGradGuard no_grad;
  TemporaryDirectory folder, copy;
  TinyMamba(Sizes{}, false).write(folder.path());
  auto model = checkpoint::load_decoder(folder.path());
  checkpoint::save_decoder(copy.path(), model, torch::kFloat32);
  const auto tokens = random_tokens(2, 12, 37);
  EXPECT_TRUE(torch::equal(checkpoint::load_decoder(copy.path())->forward(tokens), model->forward(tokens)));
}

TEST(MambaCheckpoint, TheBareModelAndTheAuthorsNamesAreRead) {
  torch::manual_seed(3);
  torch::NoGradGuard no_grad;
  const TinyMamba tiny(Sizes{});
  const auto tokens = random_tokens(1, 9, 37);
  auto older = tiny, bare = tiny;
  older.tensors["backbone.embedding.weight"] = older.tensors.extract("backbone.embeddings.weight").mapped();
  older.tensors["lm_head.weight"] = older.tensors["backbone.embedding.weight"];
  bare.tensors.clear();
  for (const auto& [name, tensor] : tiny.tensors) bare.tensors[name.substr(std::string("backbone.").size())] = tensor;
  for (const auto& written : {older, bare}) {
    TemporaryDirectory folder;
    checkpoint::save_tensors(folder.path() / "model.safetensors", written.tensors);
    std::ofstream(folder.path() / "config.json") << tiny.configuration();
    auto model = checkpoint::load_decoder(folder.path(), torch::kFloat64);
    EXPECT_LT(relative_error(model->forward(tokens)[0], tiny.logits(tokens[0])), test::kDouble);
  }
}

TEST(MambaCheckpoint, NothingStandsBetweenTheMixers) {
  torch::manual_seed(4);
  TemporaryDirectory folder;
  const TinyMamba tiny(Sizes{});
  tiny.write(folder.path());
  auto model = checkpoint::load_decoder(folder.path());
  EXPECT_EQ(model->named_parameters().size(), tiny.tensors.size());
  model->forward(random_tokens(2, 12, 37)).square().mean().backward();
  for (const auto& entry : model->named_parameters()) {
    ASSERT_TRUE(entry.value().grad().defined()) << entry.key();
    EXPECT_GT(entry.value().grad().abs().max().item<double>(), 0) << entry.key();
  }
}

TEST(MambaCheckpoint, DamagedTensorsAreNamed) {
  torch::manual_seed(5);
  const TinyMamba tiny(Sizes{});
  for (const auto& [name, tensor] : tiny.tensors) {
    TemporaryDirectory folder;
    auto damaged = tiny;
    const auto message = [&] {
      damaged.write(folder.path());
      return error_of([&] { checkpoint::load_decoder(folder.path()); });
    };
    damaged.tensors.erase(name);
    // Without it the numbers would be too few, and that is noticed before names are.
    damaged.tensors["padding"] = torch::zeros({tensor.numel()});
    EXPECT_NE(message().find(name + " is missing"), std::string::npos);
    damaged.tensors.erase("padding");
    damaged.tensors[name] = torch::cat({tensor, tensor}, 0);
    EXPECT_NE(message().find(name), std::string::npos);
  }
  TemporaryDirectory folder;
  auto turned = tiny;
  auto& conv = turned.tensors["backbone.layers.0.mixer.conv1d.weight"];
  conv = conv.permute({2, 1, 0}).contiguous();
  turned.write(folder.path());
  EXPECT_NE(error_of([&] { checkpoint::load_decoder(folder.path()); }).find("[4, 1, 20]"), std::string::npos);
}

}  // namespace
}  // namespace heed::mamba_checkpoint_test
