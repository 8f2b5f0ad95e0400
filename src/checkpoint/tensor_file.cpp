#include "heed/checkpoint/tensor_file.h"

#include <cstring>

#include "heed/error.h"

namespace heed::checkpoint {
namespace {

using formats::TensorType;

constexpr std::pair<TensorType, torch::ScalarType> kTypes[] = {
    {TensorType::boolean, torch::kBool}, {TensorType::u8, torch::kUInt8},    {TensorType::i8, torch::kInt8},
    {TensorType::i16, torch::kInt16},    {TensorType::f16, torch::kFloat16}, {TensorType::bf16, torch::kBFloat16},
    {TensorType::i32, torch::kInt32},    {TensorType::f32, torch::kFloat32}, {TensorType::f64, torch::kFloat64},
    {TensorType::i64, torch::kInt64}};

torch::ScalarType torch_type(TensorType type) {
  for (const auto& [file_type, scalar_type] : kTypes)
    if (file_type == type) return scalar_type;
  fail("unknown tensor type");
}

TensorType file_type(const std::string& name, const torch::Tensor& tensor) {
  for (const auto& [file_type, scalar_type] : kTypes)
    if (scalar_type == tensor.scalar_type()) return file_type;
  fail("tensor {} of type {} can't be written to a safetensors file", name, toString(tensor.scalar_type()));
}

}  // namespace

template <class File>
torch::Tensor read_tensor(const File& file, std::string_view name) {
  const auto& info = file.info(name);
  auto tensor = torch::empty(info.shape, torch_type(info.dtype));
  const auto bytes = file.bytes(name);
  if (!bytes.empty()) std::memcpy(tensor.data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

template torch::Tensor read_tensor(const formats::SafetensorsFile&, std::string_view);
template torch::Tensor read_tensor(const formats::SafetensorsCheckpoint&, std::string_view);

template <class File>
torch::Tensor view_tensor(const File& file, std::string_view name) {
  const auto& info = file.info(name);
  const auto bytes = file.bytes(name);
  const bool aligned = reinterpret_cast<uintptr_t>(bytes.data()) % size_of(info.dtype) == 0;
  if (bytes.empty() || !aligned) return read_tensor(file, name);
  // torch has no tensors of const memory; the pages are mapped read-only.
  return torch::from_blob(const_cast<std::byte*>(bytes.data()), info.shape, torch_type(info.dtype));
}

template torch::Tensor view_tensor(const formats::SafetensorsFile&, std::string_view);
template torch::Tensor view_tensor(const formats::SafetensorsCheckpoint&, std::string_view);

TensorMap load_tensors(const std::filesystem::path& path) {
  const auto file = formats::SafetensorsFile::open(path);
  TensorMap result;
  for (const auto& [name, info] : file.tensors()) result[name] = read_tensor(file, name);
  return result;
}

void save_tensors(const std::filesystem::path& path, const TensorMap& tensors,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<torch::Tensor> dense;
  std::vector<formats::TensorToWrite> writes;
  for (const auto& [name, tensor] : tensors) {
    dense.push_back(tensor.detach().contiguous().cpu());
    const auto& t = dense.back();
    writes.push_back(
        {name, file_type(name, t), t.sizes().vec(), {static_cast<const std::byte*>(t.data_ptr()), size_t(t.nbytes())}});
  }
  formats::write_safetensors(path, std::move(writes), metadata);
}

}  // namespace heed::checkpoint
