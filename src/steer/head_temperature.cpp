// A temperature for each head: above 1 a head spreads its weights, below it sharpens them.
#include "cache/head_sets.h"
#include "heed/error.h"
#include "steer/altered_attention.h"
#include "steer/rows.h"
#include "steer/settings.h"

namespace heed::steer {
namespace {

using torch::Tensor;

class HeadTemperature : public AlteredAttention {
 public:
  /// One temperature for each of the heads.
  HeadTemperature(const std::vector<int64_t>& heads, const std::vector<double>& temperatures)
      : AlteredAttention(heads), temperature_(torch::tensor(temperatures, torch::kFloat32).view({1, -1, 1, 1})) {}

 protected:
  Tensor alter(const Chunk& chunk, const Tensor&, const Tensor&) override {
    auto options = head_options(chunk);
    options.temperature = temperature_;
    return attention(chosen(chunk.q), kv_.keys(), kv_.values(), options);
  }

 private:
  Tensor temperature_;
};

// Logits are divided in float32, which must not end in infinities.
constexpr double kLeast = 1e-3, kMost = 1e6;
bool is_temperature(double t) { return t >= kLeast && t <= kMost; }

cache::Policy make_tempered(ConfigReader& reader, const cache::ModelShape& shape) {
  auto heads = chosen_heads(reader, shape, 0, 0);
  const auto one = reader.get("temperature", 1.0);
  const auto file = reader.get<std::string>("temperatures", "");
  require(is_temperature(one), "{}: temperature = {}: {} to {} is accepted", reader.owner(), one, kLeast, kMost);
  std::vector<std::vector<double>> temperatures(heads.size());
  for (size_t l = 0; l < heads.size(); ++l) temperatures[l].assign(heads[l].size(), one);
  if (!file.empty()) {
    const auto table = cache::read_head_table(file, shape);
    for (size_t l = 0; l < heads.size(); ++l)
      for (size_t i = 0; i < heads[l].size(); ++i) {
        const double t = table.number(int64_t(l), heads[l][i] * table.heads() / shape.heads);
        require(is_temperature(t), "{}: {}: a temperature of {}: {} to {} is accepted", reader.owner(), file, t, kLeast,
                kMost);
        temperatures[l][i] = t;
      }
  }
  // At 1 a head is as it was, bit for bit.
  for (size_t l = 0; l < heads.size(); ++l)
    for (size_t i = heads[l].size(); i-- > 0;)
      if (temperatures[l][i] == 1) {
        heads[l].erase(heads[l].begin() + std::ptrdiff_t(i));
        temperatures[l].erase(temperatures[l].begin() + std::ptrdiff_t(i));
      }
  return [=](const LayerContext& layer) {
    return std::make_unique<HeadTemperature>(heads[size_t(layer.index)], temperatures[size_t(layer.index)]);
  };
}

}  // namespace

InterventionRow rows::head_temperature() {
  auto parameters = head_parameters(0, 0);
  parameters.insert(parameters.end(), {{"temperature", 1, "logits are divided by it"},
                                       {"temperatures", "", "a head table of one temperature for each head, instead"}});
  auto row = intervention_row("head_temperature", "", 0, "one pass more over N keys in chosen heads",
                              std::move(parameters), make_tempered);
  row.neutral = {{"temperature", 1}};
  row.strong = {{"temperature", 3}};
  return row;
}

}  // namespace heed::steer
