// Reading config.json key by key: what an architecture's file asks for, and the pieces that several of them share.
#pragma once

#include <fmt/ranges.h>

#include <functional>
#include <initializer_list>
#include <set>

#include "heed/error.h"
#include "heed/formats/json_file.h"
#include "heed/formats/model_config.h"

namespace heed::formats {

/// One JSON object; what nobody asked for is left over. Null counts as absent, as in transformers.
class ConfigFields {
 public:
  ConfigFields(const nlohmann::json& json, std::string_view source, std::string prefix = "");

  /// The key stands in the file, be it as null.
  bool mentions(std::string_view key) const { return json_.contains(std::string(key)); }
  /// The value of `key`, or null where it is absent.
  const nlohmann::json* find(std::string_view key);

  void whole(std::string_view key, int64_t& value);
  void whole(std::string_view key, std::optional<int64_t>& value);
  /// Throws where the key is absent.
  void needed(std::string_view key, int64_t& value);
  void real(std::string_view key, double& value);
  void real(std::string_view key, std::optional<double>& value);
  void reals(std::string_view key, std::vector<double>& value);
  void flag(std::string_view key, bool& value);
  void text(std::string_view key, std::string& value);
  /// One of `names`, by its place in them.
  template <class Names, class Enum>
  void choice(std::string_view key, const Names& names, Enum& value) {
    if (const auto* json = find(key)) {
      for (size_t i = 0; i < names.size(); ++i)
        if (json->is_string() && json->template get_ref<const std::string&>() == names[i])
          return void(value = static_cast<Enum>(i));
      wrong(key, *json, fmt::format("{}", fmt::join(names, ", ")));
    }
  }
  /// Refuses every value but those: the key changes the numbers, and heed follows only these.
  void only(std::string_view key, std::initializer_list<nlohmann::json> accepted);

  int64_t as_whole(std::string_view key, const nlohmann::json& json) const;
  [[noreturn]] void wrong(std::string_view key, const nlohmann::json& json, std::string_view accepted) const;

  /// What was not asked for.
  nlohmann::json rest() const;
  std::string_view source() const { return source_; }
  const std::string& prefix() const { return prefix_; }

 private:
  const nlohmann::json& json_;
  std::string_view source_;
  std::string prefix_;
  std::set<std::string, std::less<>> asked_;
};

/// hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size under their
/// usual names.
void read_sizes(ConfigFields& fields, ModelConfig& config);
/// num_key_value_heads and head_dim, from the file or from what they are when absent.
void read_heads(ConfigFields& fields, ModelConfig& config);
/// As many key and value heads as query heads, which share hidden_size among them: older architectures.
void read_even_heads(ConfigFields& fields, ModelConfig& config);
/// The sizes of such a model under their usual names.
void read_even_sizes(ConfigFields& fields, ModelConfig& config);
/// torch_dtype, initializer_range.
void read_storage(ConfigFields& fields, ModelConfig& config);
/// bos_token_id, eos_token_id, tie_word_embeddings.
void read_vocabulary(ConfigFields& fields, DecoderModelConfig& config);
/// hidden_act under `key`.
void read_activation(ConfigFields& fields, std::string_view key, ModelConfig& config);
/// rope_theta, rope_scaling, rope_parameters, partial_rotary_factor; `theta_key` and `share_key` where they go by other
/// names.
void read_rope(ConfigFields& fields, DecoderModelConfig& config, std::string_view theta_key = "rope_theta",
               std::string_view share_key = "partial_rotary_factor");
/// sliding_window (`window` where the file does not mention it) and layer_types: windowed layers see that many keys,
/// the own one included. Where layer_types is absent, `windowed` says which they are.
void read_windows(ConfigFields& fields, ModelConfig& config, std::optional<int64_t> window,
                  const std::function<bool(int64_t)>& windowed);
/// Leaves the rest in `extra`, unless one of its keys is known to change what some architecture computes.
void finish(const ConfigFields& fields, ModelConfig& config);

/// Throws for a key that was not asked for.
void refuse_rest(const ConfigFields& fields);

/// Ranges that all kinds of models share.
void check_common(const ModelConfig& config, std::string_view source);
void check_whole(std::string_view source, const char* name, int64_t value, int64_t low, int64_t high);
void check_real(std::string_view source, const char* name, double value, double low, double high);
// Far above every model there is; below what overflows when four of them are multiplied into a count of bytes.
inline constexpr int64_t kMaxSize = int64_t{1} << 24;
inline constexpr int64_t kMaxLayers = int64_t{1} << 14;
inline constexpr int64_t kMaxPositions = int64_t{1} << 40;

}  // namespace heed::formats
