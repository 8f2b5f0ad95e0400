// How the tensors of a checkpoint become the parameters of a model: names, transposed and fused matrices.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "heed/formats/gguf.h"

namespace heed::checkpoint {

/// Named tensors wherever they lie.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual std::vector<std::string> names() const = 0;
  /// Null where there is no such tensor.
  virtual const std::vector<int64_t>* shape(const std::string& name) const = 0;
  /// The values; they may lie in the file's memory and are valid while this object lives.
  virtual torch::Tensor read(const std::string& name) const = 0;
  /// What errors begin with.
  virtual std::string place() const = 0;
};

/// One module of heed and where a checkpoint keeps its parameters.
struct ModuleName {
  std::string heed, file;        ///< without ".weight" and ".bias"
  bool transposed = false;       ///< matrices are stored [in, out]
  std::vector<int64_t> parts{};  ///< fused modules: rows of each, in their order
  size_t part = 0;               ///< which of them this is
  int64_t heads = 0;             ///< fused modules whose rows alternate head by head: number of heads
  int64_t pair_heads = 0;        ///< rows of a head stored as rotated pairs (2j, 2j + 1): number of heads
  bool squeezed = false;         ///< axes of size 1 count for nothing, here and there
};

/// Names of one architecture. Modules that are not listed keep heed's names.
struct Layout {
  std::string layers;                  ///< "model.layers.": a layer's modules follow its number and a dot
  std::vector<ModuleName> layer;       ///< inside a layer
  std::vector<ModuleName> model;       ///< outside
  std::string base;                    ///< prefix that files of the bare model do not have
  std::vector<std::string> ignored{};  ///< ends of the names of tensors that hold nothing to be loaded
  /// Ends of names, and how older files end them.
  std::vector<std::pair<std::string, std::string>> older{};
};

/// Modules whose rows lie one after the other under one name.
std::vector<ModuleName> fused(const std::string& file, const std::vector<std::pair<std::string, int64_t>>& modules);

/// Name of a parameter of heed in a checkpoint.
std::string file_name(const Layout& layout, const std::string& parameter);

/// Copies every parameter of `model` from `source`, and the buffers that it has. Throws heed::Error for a tensor that is missing, left over or of
/// another shape than the model's.
void fill(torch::nn::Module& model, const Layout& layout, const TensorSource& source);

/// How many numbers the tensors hold.
double held_numbers(const TensorSource& source);
/// Throws heed::Error when a model of at least `parameters` numbers cannot come from `source`: asked before it is
/// allocated.
void expect_parameters(double parameters, const TensorSource& source);

/// config.json of `directory`; throws heed::Error where that is no directory.
std::filesystem::path config_path(const std::filesystem::path& directory);
/// The tensors of a GGUF file, dequantised; `file` must outlive it.
std::unique_ptr<TensorSource> gguf_source(const formats::GgufFile& file);
/// The safetensors of a directory; throws heed::Error for one that cannot be read.
std::unique_ptr<TensorSource> open_safetensors(const std::filesystem::path& directory);

}  // namespace heed::checkpoint
