#include "heed/models/orion_msp.h"

#include <cmath>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/nn/gelu.h"
#include "heed/nn/generator.h"
#include "heed/nn/positions.h"
#include "heed/nn/row_attention.h"

namespace heed {

using torch::Tensor;

namespace {

constexpr int64_t kClassTokens = 4, kSpecial = 6;  // class tokens and global ones

torch::nn::LayerNorm layer_norm(int64_t dim) { return torch::nn::LayerNorm(torch::nn::LayerNormOptions({dim})); }

}  // namespace

SetBlockImpl::SetBlockImpl(int64_t dim, int64_t heads, double rope) : heads_(heads), rope_(rope) {
  require(dim % heads == 0, "orion_msp: {} channels in {} heads: a multiple is accepted", dim, heads);
  norm_ = register_module("norm", layer_norm(dim));
  mlp_norm_ = register_module("mlp_norm", layer_norm(dim));
  q_ = register_module("q_proj", torch::nn::Linear(dim, dim));
  kv_ = register_module("kv_proj", torch::nn::Linear(dim, 2 * dim));
  o_ = register_module("o_proj", torch::nn::Linear(dim, dim));
  up_ = register_module("up_proj", torch::nn::Linear(dim, 2 * dim));
  down_ = register_module("down_proj", torch::nn::Linear(2 * dim, dim));
}

Tensor SetBlockImpl::forward(const Tensor& x, const Tensor& source, const Tensor& visible) {
  const auto heads = [&](const Tensor& t) { return t.unflatten(2, {heads_, -1}).transpose(1, 2); };
  auto q = heads(q_(norm_(x)));
  const auto kv = kv_(norm_(source)).chunk(2, 2);
  auto k = heads(kv[0]);
  const auto v = heads(kv[1]);
  if (rope_ > 0) {
    nn::RopeConfig rope;
    rope.theta = rope_;
    q = nn::apply_rope(q, torch::arange(q.size(2)), rope);
    k = nn::apply_rope(k, torch::arange(k.size(2)), rope);
  }
  Tensor mixed;
  if (visible.defined()) {
    const auto choice = [visible](int64_t first, int64_t rows) {
      return visible.narrow(0, first, rows).unsqueeze(0).unsqueeze(0);
    };
    mixed = nn::row_attention(q, k, v, {}, choice);
  } else {
    mixed = attention(q, k, v);
  }
  const auto y = x + o_(mixed.transpose(1, 2).flatten(2));
  return y + down_(nn::gelu(up_(mlp_norm_(y))));
}

Tensor orion_row_mask(int64_t tokens, const OrionConfig& c) {
  const auto i = torch::arange(tokens).unsqueeze(1), j = torch::arange(tokens);
  auto visible = (i < kSpecial) | (j < kSpecial) | ((i - j).abs() <= c.window);
  if (c.random_links == 0) return visible;
  const auto order = torch::rand({tokens, tokens}, nn::seeded_generator(c.seed));
  // Of what a row does not see yet, the first of a random order.
  return visible | nn::largest(order, visible.logical_not(), c.random_links);
}

OrionMspImpl::OrionMspImpl(OrionConfig config) : config_(std::move(config)) {
  const auto& c = config_;
  require(!c.scales.empty(), "orion_msp: no scale: one or more are accepted");
  for (const int64_t s : c.scales) require(s >= 1, "orion_msp: a scale of {}: 1 or more is accepted", s);
  require(
      c.window >= 0 && c.random_links >= 0 && c.latents >= 0 && c.classes >= 2 && c.temperature > 0,
      "orion_msp: window = {}, random_links = {}, latents = {}, classes = {}, temperature = {}: 0, 0, 0, 2 or more, "
      "and above 0 are accepted",
      c.window, c.random_links, c.latents, c.classes, c.temperature);
  const int64_t wide = kClassTokens * c.dim;
  const auto blocks = [&](const std::string& name, int64_t count, int64_t dim, int64_t heads, double rope = 0) {
    std::vector<SetBlock> list;
    for (int64_t b = 0; b < count; ++b)
      list.push_back(register_module(name + "_" + std::to_string(b), SetBlock(dim, heads, rope)));
    return list;
  };
  const auto drawn = [&](const char* name, std::vector<int64_t> sizes) {
    return register_parameter(name, torch::randn(sizes).clamp(-2, 2) * 0.02);
  };
  cell_in_ = register_module("cell_in", torch::nn::Linear(1, c.dim));
  cell_out_ = register_module("cell_out", torch::nn::Linear(c.dim, 2 * c.dim));
  inducing_ = drawn("inducing", {c.column_blocks, c.inducing, c.dim});
  column_points_ = blocks("column_points", c.column_blocks, c.dim, c.column_heads);
  column_cells_ = blocks("column_cells", c.column_blocks, c.dim, c.column_heads);
  special_ = drawn("special_tokens", {1, kSpecial, c.dim});
  const auto scales = int64_t(c.scales.size());
  for (int64_t s = 0; s < scales; ++s)
    row_blocks_.push_back(
        blocks("row_" + std::to_string(s), (c.row_blocks + scales - 1) / scales, c.dim, c.row_heads, 1e5));
  row_norm_ = register_module("row_norm", layer_norm(wide));
  if (c.latents > 0) {
    latents_ = drawn("latents", {1, c.latents, wide});
    write_ = blocks("write", c.memory_blocks, wide, c.icl_heads);
    read_ = blocks("read", c.memory_blocks, wide, c.icl_heads);
  }
  labels_ = register_module("labels", torch::nn::Embedding(c.classes, wide));
  icl_ = blocks("icl", c.icl_blocks, wide, c.icl_heads);
  head_in_ = register_module("head_in", torch::nn::Linear(wide, 2 * wide));
  head_out_ = register_module("head_out", torch::nn::Linear(2 * wide, c.classes));
}

Tensor OrionMspImpl::columns(const Tensor& table, int64_t train) {
  const int64_t batch = table.size(0), height = table.size(1), width = table.size(2);
  const auto values = table.transpose(1, 2).flatten(0, 1).unsqueeze(2);  // [B m, T, 1]: a set a column
  auto x = cell_in_(values);
  for (size_t b = 0; b < column_cells_.size(); ++b) {
    const auto points = inducing_[int64_t(b)].unsqueeze(0).expand({batch * width, -1, -1});
    x = column_cells_[b]->forward(x, column_points_[b]->forward(points, x.narrow(1, 0, train)));
  }
  const auto maps = cell_out_(x).chunk(2, 2);
  return (values * maps[0] + maps[1]).view({batch, width, height, config_.dim}).transpose(1, 2);
}

Tensor OrionMspImpl::scaled_rows(const Tensor& cells, size_t scale) {
  const int64_t size = config_.scales[scale], features = cells.size(1), groups = (features + size - 1) / size;
  // The last group may be short: a mean over what there is.
  const auto filled = torch::constant_pad_nd(cells, {0, 0, 0, groups * size - features}).unflatten(1, {groups, size});
  const auto counts = (torch::arange(groups) * size).neg().add(features).clamp_max(size).to(cells.scalar_type());
  auto x = torch::cat({special_.expand({cells.size(0), -1, -1}), filled.sum(2) / counts.unsqueeze(1)}, 1);
  const auto visible = orion_row_mask(x.size(1), config_);
  for (auto& block : row_blocks_[scale]) x = block->forward(x, x, visible);
  return x.narrow(1, 0, kClassTokens).flatten(1);
}

Tensor OrionMspImpl::rows(const Tensor& cells) {
  const auto each = cells.flatten(0, 1);  // [B T, m, E]
  Tensor sum;
  for (size_t s = 0; s < config_.scales.size(); ++s) {
    const auto found = scaled_rows(each, s);
    sum = sum.defined() ? sum + found : found;
  }
  return row_norm_(sum / double(config_.scales.size())).view({cells.size(0), cells.size(1), -1});
}

Tensor OrionMspImpl::memory(const Tensor& rows, int64_t train) {
  if (config_.latents == 0) return {};
  auto held = latents_.expand({rows.size(0), -1, -1});
  for (auto& block : write_) held = block->forward(held, rows.narrow(1, 0, train));
  return held;
}

Tensor OrionMspImpl::forward(const Tensor& table, const Tensor& labels) {
  require(table.dim() == 3 && labels.dim() == 2 && labels.size(0) == table.size(0) && labels.size(1) >= 1 &&
              labels.size(1) <= table.size(1) && table.size(2) >= 1 && labels.scalar_type() == torch::kInt64,
          "orion_msp: a table of shape {} and labels of shape {}: [B, T, m] and int64 [B, 1 to T] are accepted",
          c10::str(table.sizes()), c10::str(labels.sizes()));
  const auto [low, high] = torch::aminmax(labels);
  require(low.item<int64_t>() >= 0 && high.item<int64_t>() < config_.classes,
          "orion_msp: labels from {} to {}: 0 to {} are accepted", low.item<int64_t>(), high.item<int64_t>(),
          config_.classes - 1);
  const int64_t train = labels.size(1);
  auto x = rows(columns(table, train));
  if (const auto held = memory(x, train); held.defined())
    for (auto& block : read_) x = block->forward(x, held);
  x = torch::cat({x.narrow(1, 0, train) + labels_(labels), x.slice(1, train)}, 1);
  for (auto& block : icl_) x = block->forward(x, x.narrow(1, 0, train));
  return head_out_(nn::gelu(head_in_(x.slice(1, train))));
}

Tensor OrionMspImpl::probabilities(const Tensor& table, const Tensor& labels, int64_t classes, int64_t draws,
                                   uint64_t seed) {
  require(classes >= 2 && classes <= config_.classes && draws >= 1,
          "orion_msp: {} classes, {} draws: 2 to {}, and 1 or more, are accepted", classes, draws, config_.classes);
  torch::NoGradGuard no_grad;
  auto generator = nn::seeded_generator(seed);
  Tensor sum;
  for (int64_t draw = 0; draw < draws; ++draw) {
    const auto features = torch::randperm(table.size(2), generator, torch::kInt64),
               names = torch::randperm(classes, generator, torch::kInt64);
    const auto renamed = names.index_select(0, labels.flatten()).view_as(labels);
    const auto logits = forward(table.index_select(2, features), renamed).narrow(2, 0, classes);
    const auto p = torch::softmax(logits / config_.temperature, 2).index_select(2, names);
    sum = sum.defined() ? sum + p : p;
  }
  return sum / double(draws);
}

}  // namespace heed
