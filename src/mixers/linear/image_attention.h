// Linear attention between the cells of an image.
#pragma once

#include "heed/nn/grid.h"
#include "mixers/linear/linear_attention.h"

namespace heed::linear {

/// What the tokens of a call are: cells of a grid, behind `lead` others, and how many of an item are no padding.
struct Cells {
  int64_t height, width;
  torch::Tensor count;   ///< [B or 1, 1, 1, 1], float32 (of a float64 x float64)
  torch::Tensor hidden;  ///< bool [B, 1, N, 1]; undefined without padding
  int64_t lead = 0;
  uint64_t seed = 0;  ///< of what the call draws

  /// Tokens [B, N, C] without those in front of the grid, and cells behind as many zeros.
  torch::Tensor of_grid(const torch::Tensor& tokens) const { return tokens.slice(1, lead); }
  torch::Tensor behind_zeros(const torch::Tensor& cells) const {
    return lead > 0 ? torch::constant_pad_nd(cells, {0, 0, lead, 0}) : cells;
  }
  /// `t` [B, H, N, D] with 0 for padding, its sum and its mean over the cells, [B, H, 1, D].
  torch::Tensor shown(const torch::Tensor& t) const { return hidden.defined() ? t.masked_fill(hidden, 0) : t; }
  torch::Tensor sum(const torch::Tensor& t) const { return shown(t).sum(2, true); }
  torch::Tensor mean(const torch::Tensor& t) const { return sum(t) / count; }
};

class ImageAttention : public LinearAttention {
 protected:
  /// `class_token`: the first token is no cell.
  ImageAttention(std::string name, const HeadsConfig& config, bool class_token = false);

  int64_t leading_tokens() const override { return class_token_ ? 1 : 0; }

  torch::Tensor attend(RecurrentCall& call, const Heads& heads) final;
  /// [B, H, N, head_dim], of any type of numbers
  virtual torch::Tensor attend_cells(const Cells& cells, const Heads& heads) = 0;

  /// Of a call; throws heed::Error without a grid of two sizes.
  Cells cells_of(const RecurrentCall& call) const;

  /// s = c phi(q) . phi(k) has this c, so that sums of s do not grow with the cells.
  torch::Tensor score_scale(const Cells& cells) const;

 private:
  bool class_token_;
};

/// A row of a mixer over images.
RegistryRow image_row(RegistryRow row);

}  // namespace heed::linear
