#include <algorithm>

#include "heed/error.h"
#include "heed/formats/json_file.h"
#include "heed/formats/safetensors.h"

namespace heed::formats {
namespace fs = std::filesystem;
namespace {

constexpr size_t kMaxIndexBytes = size_t{64} << 20;

const TensorInfo& find_tensor(const TensorTable& tensors, std::string_view name, const fs::path& path) {
  const auto found = tensors.find(name);
  require(found != tensors.end(), "{}: there is no tensor {} among its {}", path.string(), quote(name), tensors.size());
  return found->second;
}

// A shard lies beside its index. A name with a folder in it could point at any file of the reader's.
bool is_plain_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == name.npos && name.find('\0') == name.npos;
}

}  // namespace

std::map<std::string, std::string, std::less<>> parse_safetensors_index(const nlohmann::json& json,
                                                                        std::string_view source) {
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  require(json.is_object() && map != json.end() && map->is_object(),
          "{}: accepted: an object with 'weight_map', from tensor names to file names", source);
  std::map<std::string, std::string, std::less<>> shards;
  for (const auto& [name, value] : map->items()) {
    require(value.is_string() && is_plain_name(value.get_ref<const std::string&>()),
            "{}: tensor {} lies in {}, accepted: the name of a file beside the index", source, quote(name),
            quote_value(value));
    const auto& shard = value.get_ref<const std::string&>();
    require(!shard.ends_with(".json"), "{}: tensor {} lies in {}: an index in place of a shard is not followed", source,
            quote(name), quote(shard));
    shards.emplace(name, shard);
  }
  return shards;
}

SafetensorsFile SafetensorsFile::open(const fs::path& path) {
  MappedFile file(path);
  auto header = parse_safetensors_header(file.bytes(), path.string());
  return {path, std::move(file), std::move(header)};
}

const TensorInfo& SafetensorsFile::info(std::string_view name) const { return find_tensor(tensors(), name, path_); }

std::span<const std::byte> SafetensorsFile::bytes(std::string_view name) const {
  const TensorInfo& tensor = info(name);
  return file_.bytes().subspan(header_.data_start + tensor.begin, tensor.bytes());
}

SafetensorsCheckpoint SafetensorsCheckpoint::open(const fs::path& path) {
  SafetensorsCheckpoint checkpoint;
  checkpoint.path_ = path;
  fs::path file = path;
  if (std::error_code ignored; fs::is_directory(path, ignored)) {
    file = path / "model.safetensors";
    // A link that leads nowhere is there, and what opens it says what is wrong with it.
    const auto there = [&] { return fs::exists(fs::symlink_status(file, ignored)); };
    if (!there()) file = path / "model.safetensors.index.json";
    require(there(), "{}: holds neither model.safetensors nor model.safetensors.index.json", path.string());
  }
  if (file.extension() == ".json") {
    checkpoint.read_index(file);
  } else {
    checkpoint.files_.push_back(SafetensorsFile::open(file));
    checkpoint.tensors_ = checkpoint.files_[0].tensors();
    for (const auto& [name, info] : checkpoint.tensors_) checkpoint.file_of_.emplace(name, 0);
  }
  return checkpoint;
}

void SafetensorsCheckpoint::read_index(const fs::path& index) {
  std::map<std::string, size_t, std::less<>> opened;
  for (const auto& [name, shard] : parse_safetensors_index(read_json_file(index, kMaxIndexBytes), index.string())) {
    auto found = opened.find(shard);
    if (found == opened.end()) {
      files_.push_back(SafetensorsFile::open(index.parent_path() / shard));
      found = opened.emplace(shard, files_.size() - 1).first;
    }
    tensors_.emplace(name, files_[found->second].info(name));
    file_of_.emplace(name, found->second);
  }
}

const TensorInfo& SafetensorsCheckpoint::info(std::string_view name) const {
  return find_tensor(tensors_, name, path_);
}

std::span<const std::byte> SafetensorsCheckpoint::bytes(std::string_view name) const {
  (void)info(name);
  return files_[file_of_.find(name)->second].bytes(name);
}

}  // namespace heed::formats
