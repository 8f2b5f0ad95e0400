// The tensors of a GGUF file as float32.
#include "checkpoint/weights.h"
#include "heed/formats/gguf.h"

namespace heed::checkpoint {
namespace {

class GgufSource final : public TensorSource {
 public:
  explicit GgufSource(const formats::GgufFile& file) : file_(file) {}

  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : file_.tensors()) names.push_back(name);
    return names;
  }
  const std::vector<int64_t>* shape(const std::string& name) const override {
    const auto found = file_.tensors().find(name);
    return found == file_.tensors().end() ? nullptr : &found->second.shape;
  }
  torch::Tensor read(const std::string& name) const override {
    auto tensor = torch::empty(file_.info(name).shape, torch::kFloat32);
    file_.dequantize(name, {tensor.data_ptr<float>(), size_t(tensor.numel())});
    return tensor;
  }
  std::string place() const override { return file_.path().string(); }

 private:
  const formats::GgufFile& file_;
};

}  // namespace

std::unique_ptr<TensorSource> gguf_source(const formats::GgufFile& file) { return std::make_unique<GgufSource>(file); }

}  // namespace heed::checkpoint
