#include "mixers/linear/image_attention.h"

#include <cmath>

#include "heed/error.h"

namespace heed::linear {

using torch::Tensor;

ImageAttention::ImageAttention(std::string name, const HeadsConfig& config, bool class_token)
    : LinearAttention(std::move(name), config), class_token_(class_token) {
  require(!config.causal, "{}: causal = true is not accepted: every cell sees all others", mixer_name());
}

Cells ImageAttention::cells_of(const RecurrentCall& call) const {
  const auto& grid = call.input.grid;
  require(grid && grid->sizes.size() == 2, "{}: a grid of height and width is needed", mixer_name());
  require(!call.input.cu_seqlens, "{}: cu_seqlens is not accepted", mixer_name());
  // 16 bits do not count beyond a few hundred cells.
  const auto type = call.x.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
  Cells cells{grid->sizes[0],   grid->sizes[1], torch::full({1, 1, 1, 1}, double(call.tokens()), type), {},
              leading_tokens(), call.input.seed};
  if (call.input.key_padding) {
    cells.hidden = call.input.key_padding->view({-1, 1, call.tokens(), 1});
    cells.count = cells.hidden.logical_not().sum(2, true).clamp_min(1).to(type);
  }
  return cells;
}

Tensor ImageAttention::attend(RecurrentCall& call, const Heads& heads) {
  return attend_cells(cells_of(call), heads).to(heads.v.scalar_type());
}

Tensor ImageAttention::score_scale(const Cells& cells) const {
  return 1 / (std::sqrt(static_cast<double>(config_.key_dim)) * cells.count);
}

RegistryRow image_row(RegistryRow row) {
  row.family = "linear_and_recurrent";
  row.patterns = {true, false, false, false};
  row.grid = true;
  row.core = true;
  return row;
}

}  // namespace heed::linear
