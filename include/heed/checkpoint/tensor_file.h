// torch tensors in and out of safetensors files.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <map>
#include <string>

#include "heed/formats/safetensors.h"

namespace heed::checkpoint {

using TensorMap = std::map<std::string, torch::Tensor>;

/// A copy of one tensor of a file.
template <class File>
torch::Tensor read_tensor(const File& file, std::string_view name);
/// One tensor of a file in the file's own memory, valid while `file` lives and not to be written to; a copy where it
/// is not aligned to its type.
template <class File>
torch::Tensor view_tensor(const File& file, std::string_view name);
/// Copies of all tensors of a file.
TensorMap load_tensors(const std::filesystem::path& path);
/// Written beside and renamed. Throws for a dtype safetensors has no name for.
void save_tensors(const std::filesystem::path& path, const TensorMap& tensors,
                  const std::map<std::string, std::string>& metadata = {});

}  // namespace heed::checkpoint
