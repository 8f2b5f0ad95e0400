// The cards of attention inside groups of cells.
#include <gtest/gtest.h>

#include "heed/attention.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/windows.h"
#include "support/image_support.h"

namespace heed::window_attention_test {
namespace {

using nlohmann::json;
using test::image_input;
using test::image_mixer;
using test::kDouble;
using test::parameter;
using test::reached;
using test::relative_error;
using torch::Tensor;

/// Attention of all cells with the weights of a mixer's one window, bias included.
Tensor dense(torch::nn::Module& mixer, const std::string& prefix, const Tensor& x, int64_t heads) {
  const auto linear = [&](const std::string& name, const Tensor& t) {
    return torch::linear(t, parameter(mixer, prefix + name + ".weight"), parameter(mixer, prefix + name + ".bias"));
  };
  const auto parts = linear("qkv", x).chunk(3, 2);
  const auto out = attention(split_heads(parts[0], heads), split_heads(parts[1], heads), split_heads(parts[2], heads));
  return linear("out", join_heads(out));
}

TEST(MultiAxisAttention, OneWindowIsDense) {
  torch::manual_seed(1);
  const auto in = image_input(4, 4, 24, 2);
  for (const char* axes : {"block", "grid"}) {
    const auto mixer = image_mixer("multi_axis_attention", {{"dim", 24}, {"heads", 3}, {"size", 4}, {"axes", axes}});
    parameter(*mixer, std::string(axes) + ".core.bias.table").data().zero_();
    EXPECT_LT(relative_error(mixer->forward(in), dense(*mixer, std::string(axes) + ".", in.x, 3)), kDouble) << axes;
  }
}

TEST(MultiAxisAttention, ABiasForEveryOffset) {
  torch::manual_seed(2);
  const auto in = image_input(2, 3, 8);
  const auto mixer = image_mixer("multi_axis_attention", {{"dim", 8}, {"heads", 1}, {"size", 3}, {"axes", "block"}});
  // A bias that only the offset (1, -1) has: cell 1 (0, 1) sees cell 3 (1, 0) alone, and so does cell 2 (0, 2) cell 4.
  auto table = parameter(*mixer, "block.core.bias.table").data();
  table.zero_();
  table[0][(-1 + 2) * 5 + (1 + 2)] = 1e4;
  const auto seen = reached(*mixer, in, 3);
  const auto value = parameter(*mixer, "block.qkv.weight").narrow(0, 16, 8);
  const auto expected =
      torch::linear(torch::linear(in.x[0][4], value, parameter(*mixer, "block.qkv.bias").narrow(0, 16, 8)),
                    parameter(*mixer, "block.out.weight"), parameter(*mixer, "block.out.bias"));
  EXPECT_LT(relative_error(mixer->forward(in)[0][2], expected), kDouble);
  EXPECT_TRUE(seen[1].item<bool>());
  EXPECT_FALSE(seen[2].item<bool>());
}

TEST(MultiAxisAttention, TwoStepsReachEveryCell) {
  torch::manual_seed(3);
  const auto in = image_input(6, 6, 12);
  const auto reach = [&](const char* axes, int64_t size) {
    const auto mixer = image_mixer("multi_axis_attention", {{"dim", 12}, {"heads", 2}, {"size", size}, {"axes", axes}});
    return reached(*mixer, in, 7).sum().item<int64_t>();
  };
  EXPECT_EQ(reach("block", 3), 9);
  EXPECT_EQ(reach("grid", 3), 9);
  EXPECT_EQ(reach("both", 3), 36);  // blocks of 3 are as large as the distance 6 / 3 of a grid's cells
  EXPECT_LT(reach("both", 2), 36);  // grids of 2 x 2 are 3 cells apart, blocks are of 2
}

TEST(DoubleWindowAttention, OneLayerSeesBothWindows) {
  torch::manual_seed(4);
  const auto in = image_input(8, 8, 8);
  const auto mixer = image_mixer("double_window_attention", {{"dim", 8}, {"heads", 2}, {"size", 4}});
  // Cell (3, 3): the window of rows and columns 0..3, and the shifted one of 2..5.
  auto expected = torch::zeros({8, 8}, torch::kBool);
  expected.narrow(0, 0, 4).narrow(1, 0, 4).fill_(true);
  expected.narrow(0, 2, 4).narrow(1, 2, 4).fill_(true);
  EXPECT_TRUE(torch::equal(reached(*mixer, in, 3 * 8 + 3).view({8, 8}), expected));
  // Cell (0, 0) stays with its own corner: what wraps around is kept apart.
  auto corner = torch::zeros({8, 8}, torch::kBool);
  corner.narrow(0, 0, 4).narrow(1, 0, 4).fill_(true);
  EXPECT_TRUE(torch::equal(reached(*mixer, in, 0).view({8, 8}), corner));
}

TEST(DoubleWindowAttention, AnImageOfOneWindowIsDense) {
  torch::manual_seed(5);
  const auto in = image_input(4, 4, 8, 2);
  const auto mixer = image_mixer("double_window_attention", {{"dim", 8}, {"heads", 2}, {"size", 4}});
  for (const char* table : {"still.bias.table", "shifted.bias.table"}) parameter(*mixer, table).data().zero_();
  EXPECT_LT(relative_error(mixer->forward(in), dense(*mixer, "", in.x, 2)), kDouble);
}

TEST(HaloAttention, IsAttentionToWhatLiesAround) {
  torch::manual_seed(6);
  const int64_t height = 5, width = 7, dim = 8, heads = 2;
  const auto in = image_input(height, width, dim, 2);
  for (const auto& [block, halo] : {std::pair<int64_t, int64_t>{1, 1}, {2, 1}, {3, 0}, {2, 7}}) {
    const auto mixer =
        image_mixer("halo_attention", {{"dim", dim}, {"heads", heads}, {"block", block}, {"halo", halo}});
    const auto weight = [&](const char* name) { return parameter(*mixer, name); };
    const auto q = split_heads(torch::linear(in.x, weight("q_proj.weight")), heads);
    const auto kv = torch::linear(in.x, weight("kv_proj.weight")).chunk(2, 2);
    const auto k = split_heads(kv[0], heads), v = split_heads(kv[1], heads);
    // Every pair of cells by the formula.
    const int64_t side = block + 2 * halo, cells = height * width;
    auto logits = torch::full({2, heads, cells, cells}, -std::numeric_limits<double>::infinity(), torch::kFloat64);
    for (int64_t i = 0; i < cells; ++i) {
      const int64_t row = i / width, column = i % width;
      for (int64_t j = 0; j < cells; ++j) {
        const int64_t key_row = j / width, key_column = j % width;
        const auto near = [&](int64_t key, int64_t query) {
          const int64_t begin = query / block * block - halo;
          return key >= begin && key < begin + side;
        };
        if (!near(key_row, row) || !near(key_column, column)) continue;
        const auto offsets =
            weight("row_offsets")[key_row - row + side - 1] + weight("column_offsets")[key_column - column + side - 1];
        logits.select(2, i).select(2, j) =
            (q.select(2, i) * (k.select(2, j) + offsets)).sum(-1) / std::sqrt(double(dim / heads));
      }
    }
    const auto expected = torch::linear(join_heads(torch::matmul(torch::softmax(logits, 3), v)),
                                        weight("o_proj.weight"), weight("o_proj.bias"));
    EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble) << block << " " << halo;
  }
}

TEST(DualAttention, ChannelsAttendToAllCells) {
  torch::manual_seed(7);
  const auto in = image_input(4, 6, 12);
  const auto channel = image_mixer("dual_attention", {{"dim", 12}, {"heads", 3}, {"size", 2}, {"parts", "channel"}});
  parameter(*channel, "channel_conv.weight").data().zero_();
  EXPECT_EQ(reached(*channel, in, 5).sum().item<int64_t>(), 24);
  // Without convolutions the order of cells means nothing.
  const auto order = torch::randperm(24);
  auto shuffled = in;
  shuffled.x = in.x.index_select(1, order);
  EXPECT_LT(relative_error(channel->forward(shuffled), channel->forward(in).index_select(1, order)), kDouble);
  const auto spatial = image_mixer("dual_attention", {{"dim", 12}, {"heads", 3}, {"size", 2}, {"parts", "spatial"}});
  parameter(*spatial, "spatial_conv.weight").data().zero_();
  EXPECT_EQ(reached(*spatial, in, 5).sum().item<int64_t>(), 4);
}

TEST(DualAttention, GroupsOfOneChannelPassTheirQueries) {
  torch::manual_seed(8);
  const auto in = image_input(3, 3, 4);
  const auto mixer = image_mixer("dual_attention", {{"dim", 4}, {"heads", 4}, {"parts", "channel"}});
  parameter(*mixer, "channel_conv.weight").data().zero_();
  const auto normed = torch::layer_norm(in.x, {4});
  const auto q = torch::linear(normed, parameter(*mixer, "channel.qkv.weight").narrow(0, 0, 4),
                               parameter(*mixer, "channel.qkv.bias").narrow(0, 0, 4));
  const auto expected =
      torch::linear(q, parameter(*mixer, "channel.out.weight"), parameter(*mixer, "channel.out.bias"));
  EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble);
}

}  // namespace
}  // namespace heed::window_attention_test
