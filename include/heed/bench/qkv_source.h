// Where the queries, keys and values of a comparison come from: a model that reads a text, or a file.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

namespace heed::bench {

/// What the core of one layer gets: q [1|B, Hq, N, D], k and v [1|B, Hkv, N, D], after positions; dense.
struct LayerTensors {
  int64_t layer = 0;
  torch::Tensor q, k, v;
};

class QkvSource {
 public:
  virtual ~QkvSource() = default;
  /// The tensors of every chosen layer for the first `length` tokens. Throws heed::Error for a length it can't give.
  virtual std::vector<LayerTensors> tensors(int64_t length) = 0;
  /// Beyond it the tensors say nothing of the model: it was not trained there.
  virtual int64_t trained_length() const = 0;
  virtual std::vector<int64_t> default_lengths() const = 0;
  /// {"model" or "qkv", "text", "layers", ...}
  virtual nlohmann::ordered_json describe() const = 0;
};

/// A whole file; throws heed::Error when it can't be read or is empty.
std::string read_text(const std::filesystem::path& path);

struct ModelSourceOptions {
  std::filesystem::path model;                ///< folder of a checkpoint
  std::filesystem::path text;                 ///< empty: a text that the system has; shorter ones are repeated
  std::vector<int64_t> layers;                ///< empty: the first, the middle, the last
  torch::ScalarType dtype = torch::kFloat32;  ///< of the tensors given; the model runs in float32
};
std::unique_ptr<QkvSource> model_source(const ModelSourceOptions& options);

/// A safetensors file with q, k and v.
std::unique_ptr<QkvSource> file_source(const std::filesystem::path& file);

}  // namespace heed::bench
