#include "mixers/vision/image_mixer.h"

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/nn/start.h"

namespace heed::vision {

using torch::Tensor;

Tensor ImageMixer::run(RecurrentCall& call) {
  const auto& grid = call.input.grid;
  require(grid && grid->sizes.size() == 2, "{}: a grid of height and width is needed, as grid=16x24", mixer_name());
  require(!call.input.cu_seqlens, "{}: cu_seqlens is not accepted: the tokens are one grid", mixer_name());
  const int64_t height = grid->sizes[0], width = grid->sizes[1];
  require(height > 0 && width > 0, "{}: a grid of {} x {} cells; 1 x 1 or more is accepted", mixer_name(), height,
          width);
  Image image{call.without_padding(call.x).unflatten(1, {height, width}), {}, call.input.layer.index};
  if (call.input.key_padding) image.hidden = call.input.key_padding->unflatten(1, {height, width});
  return mix_image(image).flatten(1, 2);
}

Tensor channels_first(const Tensor& cells) { return cells.permute({0, 3, 1, 2}).contiguous(); }

Tensor channels_last(const Tensor& image) { return image.permute({0, 2, 3, 1}).contiguous(); }

Tensor convolve(nn::GridConv& conv, const Tensor& cells) {
  const int64_t height = cells.size(1), width = cells.size(2);
  return conv(cells.flatten(1, 2), height, width).unflatten(1, {height, width});
}

Regions pool(const Image& image, const Tensor& cells, int64_t rows, int64_t columns) {
  const auto mean_of = [&](const Tensor& t) {
    return torch::adaptive_avg_pool2d(channels_first(t), {rows, columns}).flatten(2).transpose(1, 2);
  };
  Regions regions{mean_of(cells), {}};
  if (!image.hidden.defined()) return regions;
  const auto share = mean_of(image.hidden.logical_not().to(cells.scalar_type()).unsqueeze(3));
  regions.hidden = share.squeeze(2) == 0;
  regions.cells = regions.cells / share.masked_fill(regions.hidden.unsqueeze(2), 1);
  return regions;
}

WindowHeads WindowHeads::read(ConfigReader& reader) {
  WindowHeads c;
  c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
  c.heads = reader.integer("heads", c.heads, 1, 1 << 16);
  require(c.dim % c.heads == 0, "{}: dim = {} is no multiple of heads = {}", reader.owner(), c.dim, c.heads);
  require(!reader.get("causal", false), "{}: causal = true is not accepted: cells have no order", reader.owner());
  return c;
}

std::vector<Parameter> window_parameters(std::vector<Parameter> own) {
  std::vector<Parameter> all{{"dim", 64, "channels C of the tokens"},
                             {"heads", 4, "heads, which divide dim"},
                             {"causal", false, "only false is accepted"}};
  all.insert(all.end(), own.begin(), own.end());
  return all;
}

WindowCoreImpl::WindowCoreImpl(int64_t heads, int64_t rows, int64_t columns, bool offset_bias) : heads_(heads) {
  if (offset_bias) bias_ = register_module("bias", nn::OffsetBias(heads, rows, columns));
}

Tensor WindowCoreImpl::forward(const nn::Windows& windows, const Image& image, const Tensor& q, const Tensor& k,
                               const Tensor& v) {
  AttentionOptions options;
  if (bias_) options.bias = bias_->forward(windows.rows(), windows.columns());
  if (auto documents = windows.documents(image.hidden); documents.defined()) {
    if (!image.hidden.defined()) documents = documents.repeat({image.batch(), 1});
    options.q_documents = options.k_documents = documents;
  }
  const auto heads_of = [&](const Tensor& t) { return split_heads(windows.split(t), heads_); };
  return windows.join(join_heads(attention(heads_of(q), heads_of(k), heads_of(v), options)));
}

WindowAttentionImpl::WindowAttentionImpl(WindowHeads heads, int64_t rows, int64_t columns, bool offset_bias) {
  qkv_ = register_module("qkv", nn::started_linear(heads.dim, 3 * heads.dim));
  out_ = register_module("o_proj", nn::started_linear(heads.dim, heads.dim));
  core_ = register_module("core", WindowCore(heads.heads, rows, columns, offset_bias));
}

Tensor WindowAttentionImpl::forward(const nn::Windows& windows, const Image& image) {
  const auto parts = qkv_(image.cells).chunk(3, 3);
  return out_(core_(windows, image, parts[0], parts[1], parts[2]));
}

RegistryRow image_row(RegistryRow row) {
  row.family = "sparse_and_vision";
  row.patterns = {true, false, false, false};
  row.grid = true;
  return row;
}

}  // namespace heed::vision
