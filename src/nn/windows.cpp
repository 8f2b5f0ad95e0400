#include "heed/nn/windows.h"

#include <algorithm>

#include "heed/error.h"

namespace heed::nn {

using torch::Tensor;

namespace {

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

/// Zeros around the cells of [B, H, W, C].
Tensor pad(const Tensor& image, int64_t above, int64_t below, int64_t left, int64_t right) {
  if (above + below + left + right == 0) return image;
  return torch::constant_pad_nd(image, {0, 0, left, right, above, below});
}

}  // namespace

Windows::Windows(Kind kind, int64_t height, int64_t width, int64_t rows, int64_t columns, int64_t shift)
    : kind_(kind), height_(height), width_(width), rows_(std::min(rows, height)), columns_(std::min(columns, width)) {
  require(height > 0 && width > 0, "an image of {} x {} cells has no windows", height, width);
  require(rows > 0 && columns > 0, "windows of {} x {} cells; 1 or more are accepted", rows, columns);
  require(shift >= 0 && (shift == 0 || (kind == Kind::block && shift < std::min(rows, columns))),
          "a shift of {} cells; less than a window of {} x {} is accepted, of blocks", shift, rows, columns);
  padded_height_ = round_up(height, rows_), padded_width_ = round_up(width, columns_);
  down_ = padded_height_ > rows_ ? shift : 0, right_ = padded_width_ > columns_ ? shift : 0;
}

Tensor Windows::split(const Tensor& image) const {
  auto x = pad(image, 0, padded_height_ - height_, 0, padded_width_ - width_);
  if (down_ + right_ > 0) x = x.roll({-down_, -right_}, {1, 2});
  const int64_t down = padded_height_ / rows_, across = padded_width_ / columns_;
  if (kind_ == Kind::block) {
    x = x.unflatten(1, {down, rows_}).unflatten(3, {across, columns_}).permute({0, 1, 3, 2, 4, 5});
  } else {
    x = x.unflatten(1, {rows_, down}).unflatten(3, {columns_, across}).permute({0, 2, 4, 1, 3, 5});
  }
  return x.reshape({-1, rows_ * columns_, image.size(3)});
}

Tensor Windows::join(const Tensor& windows) const {
  const int64_t down = padded_height_ / rows_, across = padded_width_ / columns_;
  auto x = windows.reshape({-1, down, across, rows_, columns_, windows.size(2)});
  x = kind_ == Kind::block ? x.permute({0, 1, 3, 2, 4, 5}) : x.permute({0, 3, 1, 4, 2, 5});
  x = x.reshape({-1, padded_height_, padded_width_, windows.size(2)});
  if (down_ + right_ > 0) x = x.roll({down_, right_}, {1, 2});
  return x.narrow(1, 0, height_).narrow(2, 0, width_);
}

Tensor Windows::documents(const Tensor& hidden) const {
  const bool padded = padded_height_ > height_ || padded_width_ > width_;
  if (!hidden.defined() && !padded && down_ + right_ == 0) return {};
  const int64_t batch = hidden.defined() ? hidden.size(0) : 1;
  // 1 for a cell of the image, so that what split pads with is no cell.
  auto shown = torch::ones({batch, height_, width_, 1}, torch::kInt32);
  if (hidden.defined()) shown = shown.masked_fill(hidden.unsqueeze(3), 0);
  auto documents = split(shown).squeeze(2) - 1;
  if (down_ + right_ > 0) {
    // Which of the two ends of the padded image a cell of a shifted window comes from.
    auto ends = torch::zeros({1, padded_height_, padded_width_, 1}, torch::kInt32);
    ends.narrow(1, 0, down_).add_(1);
    ends.narrow(2, 0, right_).add_(2);
    auto whole = *this;
    whole.height_ = padded_height_, whole.width_ = padded_width_;
    const auto region = whole.split(ends).squeeze(2).repeat({batch, 1});
    documents = torch::where(documents < 0, documents, region);
  }
  return documents;
}

Halos::Halos(int64_t height, int64_t width, int64_t block, int64_t halo)
    : height_(height),
      width_(width),
      block_(block),
      halo_(halo),
      rows_(round_up(height, block) / block),
      columns_(round_up(width, block) / block),
      blocks_(Windows::Kind::block, rows_ * block, columns_ * block, block, block) {
  require(halo >= 0, "a halo of {} cells; 0 or more is accepted", halo);
}

Tensor Halos::queries(const Tensor& image) const {
  return blocks_.split(pad(image, 0, rows_ * block_ - height_, 0, columns_ * block_ - width_));
}

Tensor Halos::join(const Tensor& queries) const {
  return blocks_.join(queries).narrow(1, 0, height_).narrow(2, 0, width_);
}

Tensor Halos::keys(const Tensor& image) const {
  const auto around = pad(image, halo_, rows_ * block_ - height_ + halo_, halo_, columns_ * block_ - width_ + halo_);
  const auto cut = around.unfold(1, side(), block_).unfold(2, side(), block_);  // [B, rows, columns, C, side, side]
  return cut.permute({0, 1, 2, 4, 5, 3}).reshape({-1, side() * side(), image.size(3)});
}

Tensor Halos::key_documents(int64_t batch, const Tensor& hidden) const {
  auto shown = torch::ones({batch, height_, width_, 1}, torch::kInt32);
  if (hidden.defined()) shown = shown.masked_fill(hidden.unsqueeze(3), 0);
  return keys(shown).squeeze(2) - 1;
}

}  // namespace heed::nn
