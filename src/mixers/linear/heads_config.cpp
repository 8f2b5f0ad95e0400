#include "mixers/linear/heads_config.h"

#include "heed/error.h"

namespace heed::linear {

HeadsConfig HeadsConfig::read(ConfigReader& reader, bool causal_by_default, double key_fraction) {
  HeadsConfig c;
  c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
  c.heads = reader.integer("heads", c.heads, 1, 1 << 16);
  c.head_dim = reader.integer("head_dim", 0, 0, 1 << 16);
  require(c.head_dim || c.dim % c.heads == 0, "{}: dim = {} is no multiple of heads = {}; give head_dim",
          reader.owner(), c.dim, c.heads);
  if (!c.head_dim) c.head_dim = c.dim / c.heads;
  c.key_dim = reader.integer("key_dim", 0, 0, 1 << 16);
  if (!c.key_dim) c.key_dim = std::max<int64_t>(1, static_cast<int64_t>(c.head_dim * key_fraction));
  c.causal = reader.get("causal", causal_by_default);
  return c;
}

void HeadsConfig::read_projections(ConfigReader& reader) {
  kv_heads = reader.integer("kv_heads", 0, 0, 1 << 16);
  require(kv_heads == 0 || heads % kv_heads == 0, "{}: heads = {} is no multiple of kv_heads = {}", reader.owner(),
          heads, kv_heads);
  qkv_bias = reader.get("qkv_bias", false);
  output_bias = reader.get("output_bias", false);
  positions = nn::PositionsConfig::from_json(reader.object("positions"), reader.owner());
  require(
      positions.kind != "alibi" && positions.kind != "t5",
      "{}: positions = {}, a term of scores, which are not formed here; none, rope, learned, sinusoidal are accepted",
      reader.owner(), positions.kind);
}

std::vector<Parameter> heads_parameters(std::vector<Parameter> own, bool causal_by_default) {
  std::vector<Parameter> all{{"dim", 64, "channels C of the tokens"},
                             {"heads", 4, "heads"},
                             {"head_dim", 0, "size of a head's values; 0: dim / heads"},
                             {"key_dim", 0, "size of a head's queries and keys; 0: as the mechanism has it"},
                             {"causal", causal_by_default, "token i sees tokens up to i"}};
  all.insert(all.end(), own.begin(), own.end());
  return all;
}

std::vector<Parameter> drop_in_parameters(std::vector<Parameter> own) {
  std::vector<Parameter> all{
      {"kv_heads", 0, "key and value heads; 0: as many as heads"},
      {"qkv_bias", false, "biases on the projections to q, k and v"},
      {"output_bias", false, "bias on the output projection"},
      {"positions", "none", "none, rope, learned, sinusoidal, or an object with kind and its options"}};
  all.insert(all.end(), own.begin(), own.end());
  return heads_parameters(std::move(all));
}

}  // namespace heed::linear
