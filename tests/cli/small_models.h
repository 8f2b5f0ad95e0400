// Checkpoints of a test's own: the shipped model under another configuration, and a GPT-2 of few positions.
#pragma once

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "heed/assets.h"
#include "heed/formats/safetensors.h"
#include "support/temporary_directory.h"

namespace heed::test {

/// The shipped model with some keys of its configuration changed.
class ChangedModel {
 public:
  explicit ChangedModel(const nlohmann::json& changes) {
    const auto shipped = find_asset("tiny-lm");
    auto config = nlohmann::json::parse(slurp(shipped / "config.json"));
    config.update(changes);
    spill(folder_ / "config.json", config.dump());
    std::filesystem::create_symlink(shipped / "model.safetensors", folder_ / "model.safetensors");
  }
  std::string path() const { return folder_.path().string(); }

  /// Puts NaN into the final norm, and so into every logit.
  void spoil() {
    const auto file = folder_ / "model.safetensors";
    auto bytes = slurp(file);
    uint64_t end = 0;
    const auto tensors = formats::SafetensorsFile::open(file).tensors();
    for (const auto& [name, info] : tensors) end = std::max(end, info.end);
    const auto& norm = tensors.at("model.norm.weight");
    std::memset(bytes.data() + (bytes.size() - end + norm.begin), 0xff, norm.bytes());  // NaN in every float type
    std::filesystem::remove(file);
    spill(file, bytes);
  }

 private:
  TemporaryDirectory folder_;
};

/// A GPT-2 of bytes with random weights and a table of `positions`.
class SmallGpt2 {
 public:
  explicit SmallGpt2(int64_t positions) {
    const nlohmann::json config{{"architectures", {"GPT2LMHeadModel"}},
                                {"model_type", "gpt2"},
                                {"n_embd", 8},
                                {"n_head", 2},
                                {"n_layer", 1},
                                {"n_positions", positions},
                                {"vocab_size", 256},
                                {"layer_norm_epsilon", 1e-5},
                                {"activation_function", "gelu_new"},
                                {"bos_token_id", 0},
                                {"eos_token_id", 0},
                                {"heed", {{"tokenizer", "bytes"}}}};
    spill(folder_ / "config.json", config.dump());
    add("wte.weight", {256, 8});
    add("wpe.weight", {positions, 8});
    for (const char* norm : {"ln_f", "h.0.ln_1", "h.0.ln_2"}) {
      add(std::string(norm) + ".weight", {8});
      add(std::string(norm) + ".bias", {8});
    }
    linear("h.0.attn.c_attn", 8, 24);
    linear("h.0.attn.c_proj", 8, 8);
    linear("h.0.mlp.c_fc", 8, 32);
    linear("h.0.mlp.c_proj", 32, 8);
    std::vector<formats::TensorToWrite> tensors;
    for (const auto& [name, shape, values] : values_)
      tensors.push_back({name, formats::TensorType::f32, shape, std::as_bytes(std::span(values))});
    formats::write_safetensors(folder_ / "model.safetensors", std::move(tensors));
  }
  std::string path() const { return folder_.path().string(); }

 private:
  struct Values {
    std::string name;
    std::vector<int64_t> shape;
    std::vector<float> values;
  };
  void add(const std::string& name, const std::vector<int64_t>& shape) {
    size_t count = 1;
    for (const auto n : shape) count *= static_cast<size_t>(n);
    std::vector<float> values(count);
    for (auto& value : values) value = std::normal_distribution<float>()(random_);
    values_.push_back({"transformer." + name, shape, std::move(values)});
  }
  void linear(const std::string& name, int64_t in, int64_t out) {
    add(name + ".weight", {in, out});
    add(name + ".bias", {out});
  }

  TemporaryDirectory folder_;
  std::mt19937 random_{5};
  std::vector<Values> values_;
};

}  // namespace heed::test
