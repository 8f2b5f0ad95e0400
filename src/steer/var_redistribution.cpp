// VAR (See What You Are Told, arXiv 2503.03321): in heads that look at the image, what sinks draw goes to the tokens of
// the image that are none. The image may be any marked span of a text.
#include <cmath>

#include "heed/error.h"
#include "heed/formats/json_file.h"
#include "steer/altered_attention.h"
#include "steer/rows.h"
#include "steer/settings.h"

namespace heed::steer {
namespace {

using torch::Tensor;

struct Span {
  int64_t begin = 0, end = 0;
};

struct Settings {
  std::vector<Span> spans;
  std::vector<int64_t> channels;
  double tau = 20, least_mass = 0.2, most_sinks = 0.5, kept = 0.6;
};

class VarRedistribution : public AlteredAttention {
 public:
  VarRedistribution(const std::vector<int64_t>& heads, const Settings& settings)
      : AlteredAttention(heads), s_(settings) {
    for (const auto& span : s_.spans) image_end_ = std::max(image_end_, span.end);
  }
  int64_t policy_bytes() const override { return sinks_.defined() ? int64_t(sinks_.nbytes()) : 0; }

 protected:
  Tensor alter(const Chunk& chunk, const Tensor& plain, const Tensor& lse) override {
    mark_sinks(chunk);
    const int64_t seen = chunk.first + chunk.size();
    if (seen <= image_end_ || !sinks_.any().item<bool>()) return plain;
    auto image = torch::zeros({1, seen}, torch::kBool);
    for (const auto& span : s_.spans) image.slice(1, span.begin, span.end) = true;
    const auto part = [&](const Tensor& keys) { return attend_among(chunk, lse, keys.view({-1, 1, 1, seen})); };
    const auto image_sinks = part(image & sinks_), others = part(image & ~sinks_);
    const auto text_sinks = part(~image & sinks_), rest = part(~image & ~sinks_);

    const auto mass = image_sinks.mass + others.mass;
    const auto after = (torch::arange(chunk.first, seen) >= image_end_).view({1, 1, -1, 1});
    const auto changes = after & (mass >= s_.least_mass) & (image_sinks.mass <= s_.most_sinks * mass) &
                         (others.mass > 0) & sinks_.any(1).view({-1, 1, 1, 1});
    const auto removed = (1 - s_.kept) * (image_sinks.mass + text_sinks.mass);
    const auto out = s_.kept * (image_sinks.mass * image_sinks.out + text_sinks.mass * text_sinks.out) +
                     (others.mass + removed) * others.out + rest.mass * rest.out;
    return torch::where(changes, out, plain.to(torch::kFloat32));
  }

 private:
  /// Tokens of the prompt with a massive activation in a channel of sinks; later ones are none.
  void mark_sinks(const Chunk& chunk) {
    auto found = torch::zeros({chunk.q.size(0), chunk.size()}, torch::kBool);
    if (in_prompt()) {
      require(chunk.call.residual.defined(), "var_redistribution: sinks are found by the residual stream of a block");
      const auto x = chunk.call.residual.to(torch::kFloat32);
      const auto largest = x.index_select(2, torch::tensor(s_.channels)).abs().amax(2);
      found = largest > s_.tau * x.square().mean(2).sqrt();
    }
    sinks_ = sinks_.defined() ? torch::cat({sinks_, found}, 1) : found;
  }

  Settings s_;
  int64_t image_end_ = 0;
  Tensor sinks_;  // bool [B, M]
};

cache::Policy make_redistributed(ConfigReader& reader, const cache::ModelShape& shape) {
  const auto heads = chosen_heads(reader, shape, 2, 1);
  Settings s;
  const auto spans = reader.get<nlohmann::json>("spans", nlohmann::json::array());
  const auto channels = reader.get<nlohmann::json>("channels", nlohmann::json::array());
  const auto whole = [](const nlohmann::json& x) { return x.is_number_integer() && x >= 0 && x <= (1 << 30); };
  require(spans.is_array(), "{}: spans = {}: [[begin, end], ...] is accepted", reader.owner(),
          formats::quote(spans.dump()));
  for (const auto& span : spans) {
    require(span.is_array() && span.size() == 2 && whole(span[0]) && whole(span[1]) && span[0] < span[1],
            "{}: spans: {} is no [begin, end] with begin below end", reader.owner(), formats::quote(span.dump()));
    s.spans.push_back({span[0].get<int64_t>(), span[1].get<int64_t>()});
  }
  require(!s.spans.empty(), "{}: spans = [[begin, end], ...]: the tokens of the image are needed", reader.owner());
  require(channels.is_array() && !channels.empty(), "{}: channels = [c, ...]: the channels of sinks are needed",
          reader.owner());
  for (const auto& channel : channels) {
    require(whole(channel) && (shape.dim == 0 || channel < shape.dim), "{}: channels: {}: 0 to {} is accepted",
            reader.owner(), formats::quote(channel.dump()), shape.dim - 1);
    s.channels.push_back(channel.get<int64_t>());
  }
  const auto number = [&](const char* key, double fallback, double most) {
    const auto value = reader.get(key, fallback);
    require(value >= 0 && value <= most, "{}: {} = {}: 0 to {} is accepted", reader.owner(), key, value, most);
    return value;
  };
  s.tau = number("tau", s.tau, 1e6);
  s.least_mass = number("least_mass", s.least_mass, 1);
  s.most_sinks = number("most_sinks", s.most_sinks, 1);
  s.kept = number("kept", s.kept, 1);
  return [=](const LayerContext& layer) { return std::make_unique<VarRedistribution>(heads[size_t(layer.index)], s); };
}

}  // namespace

InterventionRow rows::var_redistribution() {
  auto parameters = head_parameters(2, 1);
  parameters.insert(
      parameters.end(),
      {{"spans", nlohmann::json::array(), "tokens of the image, [[begin, end], ...]; needed"},
       {"channels", nlohmann::json::array(), "of the residual stream in which sinks stand out; needed"},
       {"tau", 20, "a sink's largest of these, over the root mean square of all, is above it"},
       {"least_mass", 0.2, "weight that a query gives to the image at least, for a head that looks at it"},
       {"most_sinks", 0.5, "share of that weight that may lie on sinks"},
       {"kept", 0.6, "share of its weight that a sink keeps"}});
  auto row =
      intervention_row("var_redistribution", "arXiv 2503.03321", 2025, "four passes more over N keys in chosen heads",
                       std::move(parameters), make_redistributed);
  const nlohmann::json base{{"first_layer", 0},      {"last_layers", 0},  {"spans", {{1, 40}}},
                            {"channels", {0, 1, 2}}, {"least_mass", 0.1}, {"tau", 1.5}};
  row.neutral = row.strong = base;
  row.neutral["kept"] = 1;
  row.strong["kept"] = 0.2;
  return row;
}

}  // namespace heed::steer
