// Taps: what they see is what the layer computes with, and what they change is what the model goes on with.
#include "heed/mixers/taps.h"

#include <gtest/gtest.h>

#include "heed/models/decoder_lm.h"

namespace heed::taps_test {
namespace {

DecoderConfig small_model() {
  DecoderConfig config;
  config.dim = 48;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 12;
  config.hidden = 64;
  config.positions.kind = "rope";
  config.layers.assign(3, {});
  return config;
}

torch::Tensor some_tokens(int64_t count) { return torch::randint(0, 256, {1, count}, torch::kInt64); }

/// Keeps everything that passes.
struct Recorder : Taps {
  std::vector<int64_t> layers;
  std::vector<CoreInput> inputs;
  std::vector<torch::Tensor> outputs;

  void core_input(const LayerContext& layer, CoreInput& core) override {
    layers.push_back(layer.index);
    inputs.push_back(core);
  }
  void core_output(const LayerContext&, torch::Tensor& heads) override { outputs.push_back(heads); }
};

struct TapsTest : ::testing::Test {
  TapsTest() { torch::manual_seed(11); }
  torch::NoGradGuard no_grad;
};

TEST_F(TapsTest, TheTappedTensorsReproduceTheLayersOutput) {
  DecoderLm model(small_model());
  model->eval();
  Recorder recorder;
  model->hidden(some_tokens(37), nullptr, 0, &recorder);
  ASSERT_EQ(recorder.layers, (std::vector<int64_t>{0, 1, 2}));
  for (size_t i = 0; i < recorder.inputs.size(); ++i) {
    const auto& core = recorder.inputs[i];
    EXPECT_EQ(core.q.sizes(), (torch::IntArrayRef{1, 4, 37, 12}));
    EXPECT_EQ(core.k.sizes(), (torch::IntArrayRef{1, 2, 37, 12}));
    // Softmax by hand in double: nothing of the library under test is used.
    const auto q = core.q.to(torch::kFloat64), k = core.k.to(torch::kFloat64).repeat_interleave(2, 1),
               v = core.v.to(torch::kFloat64).repeat_interleave(2, 1);
    auto logits = torch::matmul(q, k.transpose(2, 3)) / std::sqrt(12.0);
    logits.masked_fill_(torch::ones({37, 37}, torch::kBool).triu(1), -INFINITY);
    const auto heads = torch::matmul(torch::softmax(logits, -1), v);
    EXPECT_LT((recorder.outputs[i] - heads).norm().item<double>() / heads.norm().item<double>(), 2e-5);
  }
}

TEST_F(TapsTest, LookingChangesNothing) {
  DecoderLm model(small_model());
  const auto tokens = some_tokens(20);
  Recorder recorder;
  EXPECT_TRUE(torch::equal(model->hidden(tokens), model->hidden(tokens, nullptr, 0, &recorder)));
}

/// Norms may stand anywhere in a block.
TEST_F(TapsTest, TheResidualStreamGoesFromBlockToBlock) {
  struct Stream : Taps {
    void block_input(const LayerContext&, torch::Tensor& x) override { in.push_back(x); }
    void mlp_input(const LayerContext&, torch::Tensor& x) override { mlp_in.push_back(x); }
    void mlp_output(const LayerContext&, torch::Tensor& x) override { added.push_back(x); }
    void block_output(const LayerContext&, torch::Tensor& x) override { out.push_back(x); }
    std::vector<torch::Tensor> in, mlp_in, added, out;
  };
  for (const auto placement : {formats::NormPlacement::pre, formats::NormPlacement::post,
                               formats::NormPlacement::sandwich, formats::NormPlacement::parallel}) {
    auto config = small_model();
    config.block.placement = placement;
    DecoderLm model(config);
    for (auto& p : model->named_parameters())
      if (p.value().dim() == 2) p.value().normal_(0, 0.3);
    Stream stream;
    const auto tokens = some_tokens(12);
    model->hidden(tokens, nullptr, 0, &stream);
    ASSERT_EQ(stream.out.size(), 3);
    for (size_t l = 0; l < 3; ++l) {
      if (l > 0) {
        EXPECT_TRUE(torch::equal(stream.in[l], stream.out[l - 1]));
      }
      auto& block = model->blocks[l];
      auto added = block->mlp->stages(stream.mlp_in[l]).back().second;
      if (block->mlp_output_norm) added = block->mlp_output_norm(added);
      EXPECT_TRUE(torch::allclose(added, stream.added[l], 1e-5, 1e-6));
    }
    // A layer whose channel mixer adds nothing leaves what attention left.
    struct Drop : Taps {
      void mlp_output(const LayerContext&, torch::Tensor& x) override { x = torch::zeros_like(x); }
      void block_output(const LayerContext& layer, torch::Tensor& x) override {
        if (layer.index == 0) left = x;
      }
      torch::Tensor left;
    } drop;
    if (placement == formats::NormPlacement::post) continue;
    model->hidden(tokens, nullptr, 0, &drop);
    EXPECT_TRUE(torch::allclose(drop.left + stream.added[0], stream.out[0], 1e-5, 1e-6));
  }
}

TEST_F(TapsTest, AStepSeesTheWholeCache) {
  DecoderLm model(small_model());
  auto state = model->make_state(1);
  model->hidden(some_tokens(9), &state);
  Recorder recorder;
  model->hidden(some_tokens(1), &state, 0, &recorder);
  EXPECT_EQ(recorder.inputs.at(0).q.size(2), 1);
  EXPECT_EQ(recorder.inputs.at(0).k.size(2), 10);
}

TEST_F(TapsTest, AChangedTensorIsWhatTheModelGoesOnWith) {
  struct SilenceHead : Taps {
    void core_output(const LayerContext& layer, torch::Tensor& heads) override {
      if (layer.index == 1) {
        heads = heads.clone();
        heads.select(1, 2).zero_();
      }
    }
  } silence;
  DecoderLm model(small_model());
  const auto tokens = some_tokens(16);
  const auto changed = model->hidden(tokens, nullptr, 0, &silence);
  EXPECT_FALSE(torch::equal(changed, model->hidden(tokens)));
  // The same by weights: head 2 reads columns 24 to 35 of the output projection.
  for (auto& parameter : model->blocks[1]->mixer->named_parameters())
    if (parameter.key() == "o_proj.weight") parameter.value().slice(1, 24, 36).zero_();
  EXPECT_TRUE(torch::allclose(changed, model->hidden(tokens), 1e-5, 1e-6));
}

TEST_F(TapsTest, GradientsReachAReplacedTensor) {
  torch::AutoGradMode grad(true);
  struct Replace : Taps {
    torch::Tensor keys;
    void core_input(const LayerContext& layer, CoreInput& core) override {
      if (layer.index == 0) core.k = keys;
    }
  } replace;
  DecoderLm model(small_model());
  replace.keys = torch::randn({1, 2, 8, 12}).requires_grad_();
  model->hidden(some_tokens(8), nullptr, 0, &replace).sum().backward();
  ASSERT_TRUE(replace.keys.grad().defined());
  EXPECT_GT(replace.keys.grad().abs().sum().item<double>(), 0);
}

}  // namespace
}  // namespace heed::taps_test
