// One row a conversion. Adding one: its file, its test, its row here.
#include "heed/surgery/conversion_rows.h"

#include "heed/surgery/axformer.h"
#include "heed/surgery/echo_att.h"

namespace heed::surgery {
namespace {

RegistryRow echo_att() {
  const BlockChoice defaults;
  RegistryRow row;
  row.name = "echo_att";
  row.kind = heed::Kind::conversion;
  row.family = "kv_cache_and_long_context";
  row.paper = "EchoAtt: Attend, Copy, then Adjust for More Efficient Large Language Models (arXiv 2409.14595)";
  row.year = 2024;
  row.patterns.causal_self = true;
  row.step = true;
  row.cost = "O(N^2), followers without q and k";
  row.parameters = {{"first", defaults.first, "first layers that are left alone; heed surgery echo_att --first"},
                    {"last", defaults.last, "last layers that are left alone"},
                    {"size", defaults.size, "consecutive layers that share a map"},
                    {"least", defaults.least, "mean similarity of the maps from which they do"}};
  return row;
}

RegistryRow axformer_pruning() {
  const AxOptions defaults;
  RegistryRow row;
  row.name = "axformer_pruning";
  row.kind = heed::Kind::conversion;
  row.family = "sparse_and_vision";
  row.paper =
      "AxFormer: Accuracy-driven Approximation of Transformers for Faster, Smaller and more Accurate NLP Models (arXiv "
      "2010.03688)";
  row.year = 2020;
  row.patterns.noncausal_self = row.patterns.causal_self = true;
  row.training_free = true;
  row.cost = "elements x validations";
  row.parameters = {
      {"tolerance", defaults.tolerance, "loss that a removal may cost; heed surgery axformer --tolerance"},
      {"channel_groups", defaults.channel_groups, "that inner channels are cut into"},
      {"hard_attention", defaults.hard_attention, "tries layers with hard attention at the end"},
      {"share", defaults.share, "hard attention: of the keys that a query may see"},
      {"ratio", defaults.ratio, "above 0: in its place, of the row's largest weight"}};
  return row;
}

RegistryRow landmarks() {
  RegistryRow row;
  row.name = "landmarks";
  row.kind = heed::Kind::conversion;
  row.family = "sparse_and_vision";
  row.paper = "Landmark Attention: Random-Access Infinite Context Length for Transformers (arXiv 2305.16300)";
  row.year = 2023;
  row.patterns.causal_self = true;
  row.step = true;
  row.cost = "O(N^2); a step O(N / l + k l)";
  row.parameters = {{"block", 51, "tokens of a block, its landmark among them; heed surgery landmarks --block"},
                    {"retrieve", 0, "earlier blocks that a token reads when there is a state; 0: all"},
                    {"retrieve_by", "token", "token or head, as landmark_attention has it"},
                    {"stingy", false, "blocks before the last ones share the first place"}};
  return row;
}

RegistryRow shared_convolutions() {
  RegistryRow row;
  row.name = "shared_convolutions";
  row.kind = heed::Kind::conversion;
  row.family = "sparse_and_vision";
  row.paper =
      "ConvShareViT: Enhancing Vision Transformers with Convolutional Attention Mechanisms for Free-Space Optical "
      "Accelerators (arXiv 2504.11517)";
  row.year = 2025;
  row.patterns.noncausal_self = true;
  row.training_free = true;
  row.cost = "O(N^2)";
  row.parameters = {
      {"optical", false, "attention's maps are computed in the Fourier plane; surgery/shared_convolutions.h"}};
  return row;
}

}  // namespace

std::span<const RegistryRow> conversion_rows() {
  static const std::vector<RegistryRow> rows = {echo_att(), axformer_pruning(), landmarks(), shared_convolutions()};
  return rows;
}

}  // namespace heed::surgery
