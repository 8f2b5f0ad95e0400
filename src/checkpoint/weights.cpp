#include "checkpoint/weights.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <set>

#include "heed/checkpoint/tensor_file.h"
#include "heed/error.h"

namespace heed::checkpoint {
namespace {

using torch::Tensor;

class SafetensorsSource final : public TensorSource {
 public:
  explicit SafetensorsSource(const std::filesystem::path& directory)
      : directory_(directory), file_(formats::SafetensorsCheckpoint::open(directory)) {}

  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const auto& [name, info] : file_.tensors()) names.push_back(name);
    return names;
  }
  const std::vector<int64_t>* shape(const std::string& name) const override {
    const auto found = file_.tensors().find(name);
    return found == file_.tensors().end() ? nullptr : &found->second.shape;
  }
  Tensor read(const std::string& name) const override { return view_tensor(file_, name); }
  std::string place() const override { return directory_.string(); }

 private:
  std::filesystem::path directory_;
  formats::SafetensorsCheckpoint file_;
};

struct Resolved {
  std::string name;
  const ModuleName* module = nullptr;  // null: heed's own name
};

Resolved resolve(const Layout& layout, const std::string& parameter) {
  std::string prefix, rest = parameter;
  const auto* modules = &layout.model;
  if (parameter.starts_with("layers_")) {
    const auto dot = parameter.find('.');
    prefix = layout.layers + parameter.substr(7, dot - 7) + ".";
    rest = parameter.substr(dot + 1);
    modules = &layout.layer;
  }
  for (const auto& module : *modules)
    if (rest.starts_with(module.heed) && (rest.size() == module.heed.size() || rest[module.heed.size()] == '.'))
      return {prefix + module.file + rest.substr(module.heed.size()), &module};
  return {prefix + rest, nullptr};
}

std::vector<int64_t> without_ones(std::vector<int64_t> shape) {
  std::erase(shape, 1);
  return shape;
}

/// The shape in which a checkpoint holds a parameter of shape `target`.
std::vector<int64_t> stored_shape(const ModuleName* module, std::vector<int64_t> target) {
  if (!module) return target;
  if (!module->parts.empty()) target[0] = std::accumulate(module->parts.begin(), module->parts.end(), int64_t{0});
  if (module->transposed) std::reverse(target.begin(), target.end());
  return target;
}

/// The part of the stored tensor that belongs to the module.
Tensor part_of(const ModuleName* module, Tensor stored) {
  if (!module) return stored;
  if (module->squeezed) stored = stored.squeeze();
  if (module->transposed && stored.dim() == 2) stored = stored.t();
  const auto& parts = module->parts;
  if (module->heads) {
    const auto size = parts[module->part] / module->heads;
    return stored.unflatten(0, {module->heads, int64_t(parts.size()), size})
        .select(1, int64_t(module->part))
        .flatten(0, 1);
  }
  if (!parts.empty()) {
    const auto begin = std::accumulate(parts.begin(), parts.begin() + long(module->part), int64_t{0});
    stored = stored.narrow(0, begin, parts[module->part]);
  }
  if (module->pair_heads) {
    const auto half = stored.size(0) / module->pair_heads / 2;
    stored = stored.unflatten(0, {module->pair_heads, half, 2}).transpose(1, 2).flatten(0, 2);
  }
  return stored;
}

}  // namespace

std::vector<ModuleName> fused(const std::string& file, const std::vector<std::pair<std::string, int64_t>>& modules) {
  std::vector<int64_t> parts;
  for (const auto& [heed, rows] : modules) parts.push_back(rows);
  std::vector<ModuleName> result;
  for (size_t i = 0; i < modules.size(); ++i)
    result.push_back({.heed = modules[i].first, .file = file, .parts = parts, .part = i});
  return result;
}

std::string file_name(const Layout& layout, const std::string& parameter) { return resolve(layout, parameter).name; }

void fill(torch::nn::Module& model, const Layout& layout, const TensorSource& source) {
  torch::NoGradGuard no_grad;
  const auto names = source.names();
  const bool bare = std::none_of(names.begin(), names.end(), [&](const auto& n) { return n.starts_with(layout.base); });
  std::set<std::string> used;
  const auto take = [&](const std::string& name, const ModuleName* module, Tensor& target) {
    const auto* shape = source.shape(name);
    require(shape, "{}: tensor {} is missing: the model that the configuration describes has it", source.place(), name);
    const auto expected = stored_shape(module, target.sizes().vec());
    const bool squeezed = module && module->squeezed;
    const bool fits = squeezed ? without_ones(*shape) == without_ones(expected) : *shape == expected;
    require(fits, "{}: tensor {} has shape [{}]: [{}] fits the configuration", source.place(), name,
            fmt::join(*shape, ", "), fmt::join(expected, ", "));
    const auto part = part_of(module, source.read(name));
    target.copy_(squeezed ? part.reshape(target.sizes()) : part);
    used.insert(name);
  };
  for (auto& entry : model.named_parameters()) {
    auto [name, module] = resolve(layout, entry.key());
    if (bare && name.starts_with(layout.base)) name = name.substr(layout.base.size());
    for (const auto& [end, older] : layout.older) {
      if (!name.ends_with(end) || source.shape(name)) continue;
      const auto before = name.substr(0, name.size() - end.size()) + older;
      if (source.shape(before)) name = before;
    }
    take(name, module, entry.value());
  }
  for (auto& entry : model.named_buffers()) {
    const auto [name, module] = resolve(layout, entry.key());
    if (source.shape(name)) take(name, module, entry.value());
  }
  for (const auto& name : names) {
    const bool ignored =
        std::any_of(layout.ignored.begin(), layout.ignored.end(), [&](const auto& end) { return name.ends_with(end); });
    require(ignored || used.contains(name),
            "{}: tensor {} belongs to no part of the model that the configuration describes", source.place(), name);
  }
}

double held_numbers(const TensorSource& source) {
  double held = 0;
  for (const auto& name : source.names()) {
    double size = 1;
    for (const auto n : *source.shape(name)) size *= double(n);
    held += size;
  }
  return held;
}

void expect_parameters(double parameters, const TensorSource& source) {
  const double held = held_numbers(source);
  require(parameters <= held, "{}: the configuration describes {:.0f} parameters or more, the tensors hold {:.0f}",
          source.place(), parameters, held);
}

std::filesystem::path config_path(const std::filesystem::path& directory) {
  require(std::filesystem::is_directory(directory),
          "{}: a directory with config.json and model.safetensors, or a GGUF file, is accepted", directory.string());
  return directory / "config.json";
}

std::unique_ptr<TensorSource> open_safetensors(const std::filesystem::path& directory) {
  return std::make_unique<SafetensorsSource>(directory);
}

}  // namespace heed::checkpoint
