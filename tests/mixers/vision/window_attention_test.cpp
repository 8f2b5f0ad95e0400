// The cards of attention inside groups of cells.
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <functional>

#include "heed/attention.h"
#include "heed/error.h"
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
  return linear("o_proj", join_heads(out));
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
                    parameter(*mixer, "block.o_proj.weight"), parameter(*mixer, "block.o_proj.bias"));
  EXPECT_LT(relative_error(mixer->forward(in)[0][2], expected), kDouble);
  EXPECT_TRUE(seen[1].item<bool>());
  EXPECT_FALSE(seen[2].item<bool>());
}

/// A window larger than the image is one of its size, with the biases of the offsets there are, at the cost of that.
TEST(MultiAxisAttention, LargerWindowsAreCutToTheImage) {
  test::seed_images(21);
  torch::NoGradGuard no_grad;
  for (const auto& [name, axes] : {std::pair<const char*, const char*>{"multi_axis_attention", "block"},
                                   {"multi_axis_attention", "grid"},
                                   {"double_window_attention", ""}}) {
    const auto make = [name = name, axes = axes](int64_t size) {
      json config{{"dim", 8}, {"heads", 2}, {"size", size}};
      if (*axes != 0) config["axes"] = axes;
      return test::drawn_image_mixer(name, config);
    };
    const auto exact = make(4), large = make(300);
    for (const auto& entry : large->named_parameters()) {
      auto target = parameter(*exact, entry.key());
      if (!entry.key().ends_with("bias.table")) {
        target.copy_(entry.value());
        continue;
      }
      const auto middle = entry.value().view({-1, 599, 599}).narrow(1, 296, 7).narrow(2, 296, 7);
      target.copy_(middle.flatten(1));
    }
    for (const auto& [height, width] : {std::pair<int64_t, int64_t>{4, 4}, {3, 4}, {4, 2}}) {
      auto in = image_input(height, width, 8, 2);
      EXPECT_LT(relative_error(large->forward(in), exact->forward(in)), kDouble) << name << axes << height << width;
      in.key_padding = torch::zeros({2, height * width}, torch::kBool);
      in.key_padding->select(0, 1).slice(0, 3).fill_(true);
      const auto shown = in.key_padding->logical_not().unsqueeze(2);
      EXPECT_LT(relative_error(large->forward(in) * shown, exact->forward(in) * shown), kDouble) << name << axes;
    }
  }
}

/// Attention of every cell to the cells of its group by the formula, q, k, v [H W, heads D]; `group` numbers a cell,
/// `bias` (head, rows and columns from a query to a key) is added to its logit.
using GroupOf = std::function<int64_t(int64_t row, int64_t column)>;
using BiasOf = std::function<double(int64_t head, int64_t rows, int64_t columns)>;
Tensor in_groups(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads, int64_t width, const GroupOf& group,
                 const BiasOf& bias, const Tensor& hidden = {}) {
  const int64_t cells = q.size(0), size = q.size(1) / heads;
  std::vector<Tensor> out;
  for (int64_t i = 0; i < cells; ++i)
    for (int64_t h = 0; h < heads; ++h) {
      const auto of_head = [&](const Tensor& t, int64_t cell) { return t[cell].narrow(0, h * size, size); };
      std::vector<Tensor> logits, values;
      for (int64_t j = 0; j < cells; ++j) {
        if (group(i / width, i % width) != group(j / width, j % width)) continue;
        if (hidden.defined() && hidden[j].item<bool>()) continue;
        logits.push_back((of_head(q, i) * of_head(k, j)).sum() / std::sqrt(double(size)) +
                         bias(h, j / width - i / width, j % width - i % width));
        values.push_back(of_head(v, j));
      }
      if (values.empty()) values.push_back(torch::zeros({size}, torch::kFloat64)), logits = {values[0].sum()};
      out.push_back(torch::matmul(torch::softmax(torch::stack(logits), 0), torch::stack(values)));
    }
  return torch::stack(out).view({cells, heads * size});
}

/// The entry of a table of a window of `rows` x `columns` cells for an offset from query to key.
BiasOf table_of(TokenMixer& mixer, const std::string& name, int64_t rows, int64_t columns) {
  const auto table = parameter(mixer, name);
  return [=](int64_t head, int64_t down, int64_t right) {
    return table[head][(rows - 1 - down) * (2 * columns - 1) + columns - 1 - right].item<double>();
  };
}

TEST(MultiAxisAttention, GroupsOfOddGridsAreWhatTheFormulaSays) {
  test::seed_images(13);
  torch::NoGradGuard no_grad;
  const int64_t height = 5, width = 7, size = 3;
  for (const std::string axes : {"block", "grid"}) {
    const auto mixer =
        test::drawn_image_mixer("multi_axis_attention", {{"dim", 8}, {"heads", 2}, {"size", size}, {"axes", axes}});
    auto in = image_input(height, width, 8);
    auto hidden = torch::zeros({height * width}, torch::kBool);
    for (const bool padded : {false, true}) {
      if (padded) hidden[0] = hidden[9] = hidden[34] = true, in.key_padding = hidden.unsqueeze(0);
      const auto shown = hidden.logical_not().unsqueeze(1);
      const auto qkv = test::linear_of(*mixer, axes + ".qkv", in.x[0]).chunk(3, 1);
      // A grid's cells stand as far apart as the padded image has room for; its bias is by steps of that.
      const int64_t down = axes == "grid" ? 2 : 1, right = axes == "grid" ? 3 : 1;
      const auto group = [&](int64_t row, int64_t column) {
        return axes == "grid" ? row % down * 100 + column % right : row / size * 100 + column / size;
      };
      const auto bias = table_of(*mixer, axes + ".core.bias.table", size, size);
      const auto heads = in_groups(
          qkv[0], qkv[1], qkv[2], 2, width, group,
          [&](int64_t h, int64_t rows, int64_t columns) { return bias(h, rows / down, columns / right); }, hidden);
      const auto expected = test::linear_of(*mixer, axes + ".o_proj", heads);
      EXPECT_LT(relative_error(mixer->forward(in)[0] * shown, expected * shown), kDouble) << axes << " " << padded;
    }
  }
}

TEST(MultiAxisAttention, TheSecondSeesWhatTheFirstLeft) {
  test::seed_images(12);
  torch::NoGradGuard no_grad;
  const int64_t width = 6, size = 2;
  const auto in = image_input(4, width, 8);
  for (const bool grid_first : {false, true}) {
    const auto mixer = test::drawn_image_mixer(
        "multi_axis_attention",
        {{"dim", 8}, {"heads", 2}, {"size", size}, {"axes", grid_first ? "grid_first" : "both"}});
    const auto attend = [&](const std::string& name, const Tensor& x) {
      const bool grid = name == "grid";
      const auto qkv = test::linear_of(*mixer, name + ".qkv", x).chunk(3, 1);
      const auto bias = table_of(*mixer, name + ".core.bias.table", size, size);
      const GroupOf group = [&](int64_t row, int64_t column) {
        return grid ? row % 2 * 10 + column % 3 : row / 2 * 10 + column / 2;
      };
      return test::linear_of(
          *mixer, name + ".o_proj",
          in_groups(qkv[0], qkv[1], qkv[2], 2, width, group, [&](int64_t h, int64_t rows, int64_t columns) {
            return grid ? bias(h, rows / 2, columns / 3) : bias(h, rows, columns);
          }));
    };
    const auto first = attend(grid_first ? "grid" : "block", in.x[0]);
    const auto normed =
        torch::layer_norm(in.x[0] + first, {8}, parameter(*mixer, "norm.weight"), parameter(*mixer, "norm.bias"));
    const auto second = attend(grid_first ? "block" : "grid", normed);
    EXPECT_LT(relative_error(mixer->forward(in)[0], first + second), kDouble) << grid_first;
  }
}

/// Rows i H / G + r become r G + i, and columns likewise: the cells of a grid lie side by side.
TEST(MultiAxisAttention, GridsAreBlocksOfTheTransposedImage) {
  test::seed_images(14);
  torch::NoGradGuard no_grad;
  const auto make = [](const char* axes) {
    return test::drawn_image_mixer("multi_axis_attention", {{"dim", 8}, {"heads", 2}, {"size", 3}, {"axes", axes}});
  };
  const auto grid = make("grid"), block = make("block");
  for (const auto& entry : grid->named_parameters())
    parameter(*block, "block" + entry.key().substr(4)).copy_(entry.value());
  const auto in = image_input(6, 9, 8, 2);
  const auto turned = [](const Tensor& x) {  // [2, 6, 9, 8], i and r of both axes exchanged
    return x.view({2, 3, 2, 3, 3, 8}).permute({0, 2, 1, 4, 3, 5}).reshape({2, 54, 8});
  };
  auto blocks = in;
  blocks.x = turned(in.x);
  EXPECT_LT(relative_error(block->forward(blocks), turned(grid->forward(in))), kDouble);
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

/// Layers until the far corner hears of cell 0: both sorts of windows in one layer take as many as the better order of
/// windows in turn, and one less than the other order.
TEST(DoubleWindowAttention, ReachesTheCornerAsSoonAsTheBetterOrderOfWindows) {
  test::seed_images(20);
  torch::NoGradGuard no_grad;
  const int64_t side = 16;
  const auto layers_needed = [&](int64_t silenced) {  // the half of odd layers that nobody hears, or -1
    const auto in = image_input(side, side, 8);
    auto before = in.x, after = in.x.clone();
    after.select(1, 0).add_(1);
    for (int64_t layer = 0;; ++layer) {
      const auto mixer = test::drawn_image_mixer("double_window_attention", {{"dim", 8}, {"heads", 2}, {"size", 4}});
      if (silenced >= 0) parameter(*mixer, "o_proj.weight").narrow(1, 4 * ((layer + silenced + 1) % 2), 4).zero_();
      for (auto* x : {&before, &after}) *x = *x + mixer->forward({.x = *x, .grid = in.grid});
      if ((after - before).select(1, side * side - 1).abs().max().item<double>() > 0) return layer + 1;
    }
  };
  // The first still window reaches cell 3 of an axis, every shifted or still one behind it two cells more: to 15.
  const int64_t still_first = layers_needed(0), shifted_first = layers_needed(1);
  EXPECT_EQ(still_first, 7);
  EXPECT_EQ(shifted_first, 8);
  EXPECT_EQ(layers_needed(-1), 7);
}

TEST(DoubleWindowAttention, AlternatingLayersHaveOneSortOfWindows) {
  test::seed_images(21);
  auto in = image_input(8, 8, 8);
  const auto mixer = test::drawn_image_mixer("double_window_attention",
                                             {{"dim", 8}, {"heads", 2}, {"size", 4}, {"shift", "alternate"}});
  for (const int64_t layer : {0, 1, 2, 3}) {
    in.layer.index = layer;
    auto expected = torch::zeros({8, 8}, torch::kBool);
    const int64_t first = layer % 2 == 1 ? 2 : 0;  // of the window of cell (3, 3)
    expected.narrow(0, first, 4).narrow(1, first, 4).fill_(true);
    EXPECT_TRUE(torch::equal(reached(*mixer, in, 3 * 8 + 3).view({8, 8}), expected)) << layer;
  }
}

TEST(DoubleWindowAttention, AnImageOfOneWindowIsDense) {
  torch::manual_seed(5);
  const auto in = image_input(4, 4, 8, 2);
  const auto mixer = image_mixer("double_window_attention", {{"dim", 8}, {"heads", 2}, {"size", 4}});
  for (const char* table : {"still.bias.table", "shifted.bias.table"}) parameter(*mixer, table).data().zero_();
  EXPECT_LT(relative_error(mixer->forward(in), dense(*mixer, "", in.x, 2)), kDouble);
}

/// Both halves of the heads, each with its own table, over windows that lie `shift` cells apart; what wraps around the
/// image and what lies outside is in no window of the image's cells.
TEST(DoubleWindowAttention, HalvesAreWhatTheFormulaSays) {
  test::seed_images(15);
  torch::NoGradGuard no_grad;
  const int64_t size = 4;
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{8, 8}, {5, 7}, {4, 9}, {3, 2}}) {
    const auto mixer = test::drawn_image_mixer("double_window_attention", {{"dim", 16}, {"heads", 4}, {"size", size}});
    auto in = image_input(height, width, 16);
    auto hidden = torch::zeros({height * width}, torch::kBool);
    for (const bool padded : {false, true}) {
      if (padded) hidden[1] = hidden[5] = true, in.key_padding = hidden.unsqueeze(0);
      const auto shown = hidden.logical_not().unsqueeze(1);
      const auto qkv = test::linear_of(*mixer, "qkv", in.x[0]).chunk(3, 1);
      std::vector<Tensor> halves;
      for (const int64_t shifted : {0, 1}) {
        const auto window = [=](int64_t at, int64_t cells) {
          const int64_t shift = shifted == 1 && cells > size ? size / 2 : 0;  // one window is not shifted
          return (at + size - shift) / size;
        };
        const auto group = [=, height = height, width = width](int64_t row, int64_t column) {
          return window(row, height) * 100 + window(column, width);
        };
        const auto half = [&](size_t i) { return qkv[i].narrow(1, 8 * shifted, 8); };
        const std::string name = shifted == 1 ? "shifted.bias.table" : "still.bias.table";
        halves.push_back(
            in_groups(half(0), half(1), half(2), 2, width, group, table_of(*mixer, name, size, size), hidden));
      }
      const auto expected = test::linear_of(*mixer, "o_proj", torch::cat(halves, 1));
      EXPECT_LT(relative_error(mixer->forward(in)[0] * shown, expected * shown), kDouble)
          << height << " " << width << " " << padded;
    }
  }
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

/// As the paper runs it: what lies outside is a key and a value of zeros, with the bias of its place. Padding is none.
TEST(HaloAttention, WithoutTheMaskZerosAreKeys) {
  test::seed_images(16);
  torch::NoGradGuard no_grad;
  const int64_t height = 5, width = 4, block = 2, halo = 2, side = block + 2 * halo;
  auto in = image_input(height, width, 4);
  const auto mixer = test::drawn_image_mixer(
      "halo_attention", {{"dim", 4}, {"heads", 1}, {"block", block}, {"halo", halo}, {"mask_border", false}});
  auto hidden = torch::zeros({height * width}, torch::kBool);
  for (const bool padded : {false, true}) {
    if (padded) hidden[2] = hidden[9] = true, in.key_padding = hidden.unsqueeze(0);
    const auto q = test::linear_of(*mixer, "q_proj", in.x[0]);
    const auto kv = test::linear_of(*mixer, "kv_proj", in.x[0]).chunk(2, 1);
    const auto zeros = torch::zeros({4}, torch::kFloat64);
    std::vector<Tensor> out;
    for (int64_t i = 0; i < height * width; ++i) {
      const int64_t row = i / width, column = i % width, top = row / block * block - halo,
                    left = column / block * block - halo;
      std::vector<Tensor> logits, values;
      for (int64_t r = top; r < top + side; ++r)
        for (int64_t c = left; c < left + side; ++c) {
          const bool inside = r >= 0 && r < height && c >= 0 && c < width;
          const int64_t key = inside ? r * width + c : 0;
          if (inside && hidden[key].item<bool>()) continue;
          const auto offsets = parameter(*mixer, "row_offsets")[r - row + side - 1] +
                               parameter(*mixer, "column_offsets")[c - column + side - 1];
          logits.push_back((q[i] * ((inside ? kv[0][key] : zeros) + offsets)).sum() / 2);
          values.push_back(inside ? kv[1][key] : zeros);
        }
      out.push_back(torch::matmul(torch::softmax(torch::stack(logits), 0), torch::stack(values)));
    }
    const auto shown = hidden.logical_not().unsqueeze(1);
    const auto expected = test::linear_of(*mixer, "o_proj", torch::stack(out));
    EXPECT_LT(relative_error(mixer->forward(in)[0] * shown, expected * shown), kDouble) << padded;
  }
}

/// Downsampling: the outputs of every second or third cell, whatever block they are of, and of no other.
TEST(HaloAttention, AStrideGivesSomeOfTheCells) {
  test::seed_images(18);
  torch::NoGradGuard no_grad;
  for (const auto& [height, width, block, halo, stride] :
       {std::array<int64_t, 5>{5, 7, 2, 1, 2}, {8, 8, 4, 3, 2}, {9, 10, 6, 2, 3}, {3, 1, 4, 0, 4}})
    for (const bool mask : {true, false}) {
      nlohmann::json config{{"dim", 8}, {"heads", 2}, {"block", block}, {"halo", halo}, {"mask_border", mask}};
      const auto all = test::drawn_image_mixer("halo_attention", config);
      config["stride"] = stride;
      const auto some = image_mixer("halo_attention", config);
      for (const auto& entry : all->named_parameters()) parameter(*some, entry.key()).copy_(entry.value());
      auto in = image_input(height, width, 8, 2);
      in.key_padding = torch::zeros({2, height * width}, torch::kBool);
      in.key_padding->select(1, height * width / 2).fill_(height * width > 4);
      const auto cells = all->forward(in).unflatten(1, {height, width});
      const auto wanted = cells.slice(1, 0, height, stride).slice(2, 0, width, stride).flatten(1, 2);
      const auto out = some->forward(in);
      ASSERT_EQ(out.sizes(), wanted.sizes());
      EXPECT_LT(relative_error(out, wanted), kDouble) << height << " " << width << " " << stride << " " << mask;
    }
  EXPECT_THROW(make_mixer("halo_attention", {{"block", 8}, {"stride", 3}}), Error);
  EXPECT_THROW(make_mixer("halo_attention", {{"block", 8}, {"stride", 0}}), Error);
}

TEST(HaloAttention, MovesByBlocksWithTheImage) {
  test::seed_images(17);
  torch::NoGradGuard no_grad;
  const int64_t block = 3, halo = 2;
  const auto mixer =
      test::drawn_image_mixer("halo_attention", {{"dim", 8}, {"heads", 2}, {"block", block}, {"halo", halo}});
  const auto wide = image_input(12, 15, 8);
  const auto part = [](const Tensor& x, int64_t width, int64_t top, int64_t left, int64_t rows, int64_t columns) {
    return x.unflatten(1, {-1, width}).narrow(1, top, rows).narrow(2, left, columns).flatten(1, 2);
  };
  // The same cells, a block further up and left: blocks of the inside see the same.
  auto moved = image_input(9, 12, 8);
  moved.x = part(wide.x, 15, block, block, 9, 12);
  EXPECT_LT(relative_error(part(mixer->forward(moved), 12, block, block, 3, 6),
                           part(mixer->forward(wide), 15, 2 * block, 2 * block, 3, 6)),
            kDouble);
  // A cell is seen by the blocks whose surroundings hold it.
  const auto in = image_input(9, 9, 8);
  const auto seen = reached(*mixer, in, 4 * 9 + 1).view({9, 9});
  auto expected = torch::zeros({9, 9}, torch::kBool);
  expected.narrow(1, 0, 6).fill_(true);  // columns 0..2 and 3 - 2..; rows 0..2 + 2, 3..5, 6 - 2..
  EXPECT_TRUE(torch::equal(seen, expected));
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

TEST(DualAttention, BothPartsAreWhatTheFormulasSay) {
  test::seed_images(18);
  torch::NoGradGuard no_grad;
  const int64_t height = 5, width = 4, dim = 8, heads = 2, size = 3;
  const auto in = image_input(height, width, dim);
  const auto mixer = test::drawn_image_mixer("dual_attention", {{"dim", dim}, {"heads", heads}, {"size", size}});
  const auto normed = [&](const std::string& name, const Tensor& x) {
    return torch::layer_norm(x, {dim}, parameter(*mixer, name + ".weight"), parameter(*mixer, name + ".bias"));
  };
  const auto convolved = [&](const std::string& name, const Tensor& x) {
    const auto image = x.t().reshape({1, dim, height, width});
    return torch::conv2d(image, parameter(*mixer, name + ".weight"), parameter(*mixer, name + ".bias"), 1, 1, 1, dim)
        .view({dim, -1})
        .t();
  };
  auto x = in.x[0];
  x = x + convolved("spatial_conv", x);
  auto qkv = test::linear_of(*mixer, "spatial.qkv", normed("spatial_norm", x)).chunk(3, 1);
  const auto window = [&](int64_t row, int64_t column) { return row / size * 10 + column / size; };
  x = x + test::linear_of(
              *mixer, "spatial.o_proj",
              in_groups(qkv[0], qkv[1], qkv[2], heads, width, window, [](int64_t, int64_t, int64_t) { return 0.0; }));
  x = x + convolved("channel_conv", x);
  qkv = test::linear_of(*mixer, "channel.qkv", normed("channel_norm", x)).chunk(3, 1);
  std::vector<Tensor> groups;
  for (int64_t g = 0; g < heads; ++g) {
    const auto of = [&](size_t i) { return qkv[i].narrow(1, 4 * g, 4); };
    const auto map = torch::softmax(torch::matmul(of(1).t(), of(2)) / 2, 1);  // c^-1/2 of 4 channels
    groups.push_back(torch::matmul(map, of(0).t()).t());
  }
  x = x + test::linear_of(*mixer, "channel.o_proj", torch::cat(groups, 1));
  EXPECT_LT(relative_error(mixer->forward(in)[0], x - in.x[0]), kDouble);
}

/// DaViT-T: 28,360,168 parameters. Its mixers are heed's; what stands around them is counted by its published sizes.
TEST(DualAttention, HasThePublishedSize) {
  int64_t count = 3 * 49 * 96 + 96 + 2 * 96;  // a convolution of 7 x 7 pixels and its norm
  const std::vector<int64_t> dims{96, 192, 384, 768}, depths{1, 1, 3, 1};
  for (size_t stage = 0; stage < 4; ++stage) {
    const int64_t dim = dims[stage];
    if (stage > 0) count += dims[stage - 1] * 4 * dim + dim + 2 * dims[stage - 1];  // a norm and 2 x 2 cells to one
    const auto mixer = make_mixer("dual_attention", {{"dim", dim}, {"heads", dim / 32}, {"size", 7}});
    int64_t mixed = 0;
    for (const auto& p : mixer->parameters()) mixed += p.numel();
    // Behind either attention: another convolution of 3 x 3 cells, a norm, and a perceptron of four times the width.
    count += depths[stage] * (mixed + 2 * (10 * dim + 2 * dim + 8 * dim * dim + 5 * dim));
  }
  EXPECT_EQ(count + 2 * 768 + 768 * 1000 + 1000, 28360168);
}

/// The logits of channels are sums over cells: twice the image, repeated, doubles them.
TEST(DualAttention, LargerImagesSharpenChannels) {
  test::seed_images(19);
  torch::NoGradGuard no_grad;
  const auto in = image_input(4, 4, 8);
  auto twice = image_input(4, 8, 8);
  twice.x = in.x.view({1, 4, 4, 8}).repeat({1, 1, 2, 1}).flatten(1, 2);
  const auto mixer = image_mixer("dual_attention", {{"dim", 8}, {"heads", 2}, {"parts", "channel"}});
  parameter(*mixer, "channel_conv.weight").zero_();
  const auto cut = mixer->forward(twice).view({1, 4, 8, 8}).narrow(2, 0, 4).flatten(1, 2);
  // The same as with keys of twice the length.
  parameter(*mixer, "channel.qkv.weight").narrow(0, 8, 8).mul_(2);
  parameter(*mixer, "channel.qkv.bias").narrow(0, 8, 8).mul_(2);
  EXPECT_LT(relative_error(cut, mixer->forward(in)), kDouble);
}

/// Multiplications of matrix products, and numbers that other operators read, in one forward.
int64_t work_of(TokenMixer& mixer, const MixerInput& in) {
  static int64_t work;
  work = 0;
  const auto callback = at::RecordFunctionCallback([](const at::RecordFunction& call) {
                          std::vector<Tensor> read;
                          for (const auto& input : call.inputs())
                            if (input.isTensor() && input.toTensor().defined()) read.push_back(input.toTensor());
                          const std::string name = call.name();
                          if (name == "aten::bmm" || name == "aten::mm")
                            work += read[0].numel() * read[1].size(-1);
                          else if (name == "aten::addmm")
                            work += read[1].numel() * read[2].size(-1);
                          else
                            for (const auto& t : read) work += t.numel();
                          return std::unique_ptr<at::ObserverContext>();
                        })
                            .needsInputs(true)
                            .scopes({at::RecordScope::FUNCTION});
  const auto handle = at::addThreadLocalCallback(callback);
  mixer.forward(in);
  at::removeCallback(handle);
  return work;
}

/// Cost is a N + b: as many cells more cost as much more. Of softmax over all cells that does not hold.
TEST(DualAttention, CostGrowsWithTheCells) {
  test::seed_images(20);
  torch::NoGradGuard no_grad;
  for (const char* part : {"channel", "spatial", "both"}) {
    const auto mixer = image_mixer("dual_attention", {{"dim", 12}, {"heads", 3}, {"size", 7}, {"parts", part}});
    const auto cost = [&](int64_t rows) { return work_of(*mixer, image_input(rows, 14, 12)); };
    const int64_t few = cost(14), twice = cost(28), more = cost(56);
    EXPECT_GT(twice, few) << part;
    EXPECT_EQ(more - twice, 2 * (twice - few)) << part;
    EXPECT_NEAR(double(twice) / double(few), 2, 0.2) << part;
  }
  const auto quadratic = image_mixer("kolmogorov_arnold_attention", {{"dim", 12}, {"heads", 3}, {"max_length", 784}});
  const auto cost = [&](int64_t rows) { return work_of(*quadratic, image_input(rows, 14, 12)); };
  EXPECT_GT(cost(56) - cost(28), 3 * (cost(28) - cost(14)));
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
      torch::linear(q, parameter(*mixer, "channel.o_proj.weight"), parameter(*mixer, "channel.o_proj.bias"));
  EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble);
}

}  // namespace
}  // namespace heed::window_attention_test
