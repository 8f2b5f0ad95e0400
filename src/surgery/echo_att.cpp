#include "heed/surgery/echo_att.h"

#include <fmt/format.h>

#include <charconv>

#include "heed/error.h"

namespace heed::surgery {

using torch::Tensor;

std::vector<LayerBlock> parse_blocks(const std::string& text) {
  std::vector<LayerBlock> blocks;
  const char *at = text.data(), *end = at + text.size();
  const auto number = [&](int64_t& value) {
    const auto [next, error] = std::from_chars(at, end, value);
    require(error == std::errc() && value >= 0 && value < (1 << 20),
            "blocks {}: first and last layer of each, as 2-3,4-6, are accepted", text);
    at = next;
  };
  while (true) {
    LayerBlock block;
    number(block.begin);
    const bool range = at != end && *at == '-';
    require(range, "blocks {}: first and last layer of each, as 2-3,4-6, are accepted", text);
    ++at;
    number(block.end);
    ++block.end;
    blocks.push_back(block);
    if (at == end) return blocks;
    require(*at == ',', "blocks {}: first and last layer of each, as 2-3,4-6, are accepted", text);
    ++at;
  }
}

std::string to_string(const std::vector<LayerBlock>& blocks) {
  std::string text;
  for (const auto& block : blocks) text += fmt::format("{}{}-{}", text.empty() ? "" : ",", block.begin, block.end - 1);
  return text;
}

double mean_similarity(const Tensor& similarity, const LayerBlock& block) {
  double sum = 0;
  int64_t pairs = 0;
  for (int64_t a = block.begin; a < block.end; ++a)
    for (int64_t b = block.begin; b < a; ++b, ++pairs) sum += similarity[a][b].item<double>();
  return pairs ? sum / double(pairs) : 1;
}

std::vector<LayerBlock> similar_blocks(const Tensor& similarity, const BlockChoice& c) {
  require(c.first >= 0 && c.last >= 0 && c.size >= 1,
          "blocks: {} first and {} last layers alone, {} a block: 0, 0 and 1 or more are accepted", c.first, c.last,
          c.size);
  std::vector<LayerBlock> blocks;
  const int64_t end = similarity.size(0) - c.last;
  for (int64_t begin = c.first; begin < end; begin += c.size) {
    const LayerBlock block{begin, std::min(begin + c.size, end)};
    if (block.followers() > 0 && mean_similarity(similarity, block) >= c.least) blocks.push_back(block);
  }
  return blocks;
}

DecoderLm share_attention(DecoderLm& model, const std::vector<LayerBlock>& blocks) {
  auto config = model->config();
  const int64_t layers = int64_t(config.layers.size());
  std::vector<bool> taken(config.layers.size());
  for (const auto& block : blocks) {
    require(block.begin >= 0 && block.begin < block.end && block.end <= layers,
            "blocks: layers {} to {} of a model of {}: 0 to {} are accepted", block.begin, block.end - 1, layers,
            layers - 1);
    for (int64_t l = block.begin; l < block.end; ++l) {
      const auto at = size_t(l);
      require(!taken[at], "blocks: layer {} stands in two of them", l);
      require(config.layers[at].mixer == "dense", "blocks: layer {} is {}: plain dense attention is accepted", l,
              config.layers[at].mixer);
      taken[at] = true;
      if (block.followers() == 0) continue;
      auto plan = config.layers[at].config.is_null() ? nlohmann::json::object() : config.layers[at].config;
      plan["role"] = l == block.begin ? "leader" : "follower";
      config.layers[at] = {"shared_attention", plan};
    }
  }
  DecoderLm shared(config, model->parameters().front().scalar_type());
  const auto old = model->named_parameters();
  torch::NoGradGuard no_grad;
  for (auto& entry : shared->named_parameters()) entry.value().copy_(old[entry.key()]);
  shared->train(model->is_training());
  return shared;
}

}  // namespace heed::surgery
