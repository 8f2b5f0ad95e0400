#include "heed/bench/qkv_source.h"

#include <fstream>
#include <sstream>

#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/checkpoint/tensor_file.h"
#include "heed/error.h"
#include "heed/formats/model_config.h"
#include "heed/formats/tokenizer.h"
#include "heed/mixers/taps.h"
#include "heed/tasks/corpus.h"

namespace heed::bench {
namespace {

using torch::Tensor;

const std::vector<int64_t> kDefaultLengths{256, 512, 1024, 2048, 4096};

std::string name_of(torch::ScalarType type) {
  switch (type) {
    case torch::kFloat32:
      return "float32";
    case torch::kFloat16:
      return "float16";
    case torch::kBFloat16:
      return "bfloat16";
    default:
      return "float64";
  }
}

class ModelSource final : public QkvSource {
 public:
  explicit ModelSource(const ModelSourceOptions& o)
      : options_(o), model_(checkpoint::load_decoder(o.model)), layers_(o.layers) {
    if (options_.text.empty()) options_.text = tasks::default_text();
    tokens_ = formats::Tokenizer::open(o.model).encode(read_text(options_.text), false);
    const auto count = static_cast<int64_t>(model_->config().layers.size());
    if (layers_.empty()) layers_ = {0, count / 2, count - 1};
    std::sort(layers_.begin(), layers_.end());
    layers_.erase(std::unique(layers_.begin(), layers_.end()), layers_.end());
    for (const auto layer : layers_)
      require(layer >= 0 && layer < count, "--layers {}: 0 to {} is accepted", layer, count - 1);
    model_->eval();
  }

  std::vector<LayerTensors> tensors(int64_t length) override {
    torch::NoGradGuard no_grad;
    auto ids = torch::empty({1, length}, torch::kInt64);
    auto* to = ids.data_ptr<int64_t>();
    for (int64_t i = 0; i < length; ++i) to[i] = tokens_[static_cast<size_t>(i) % tokens_.size()];

    struct Collector final : Taps {
      const std::vector<int64_t>& wanted;
      torch::ScalarType dtype;
      double scale;
      std::vector<LayerTensors> found;
      Collector(const std::vector<int64_t>& wanted, torch::ScalarType dtype, double scale)
          : wanted(wanted), dtype(dtype), scale(scale) {}
      void core_input(const LayerContext& layer, CoreInput& core) override {
        if (std::find(wanted.begin(), wanted.end(), layer.index) == wanted.end()) return;
        const auto copy = [this](const Tensor& x) { return x.to(dtype).clone(torch::MemoryFormat::Contiguous); };
        // Mechanisms are compared at 1 / sqrt(D): a scale of the model's own goes into the queries.
        const auto q = scale > 0 ? core.q * (scale * std::sqrt(double(core.q.size(3)))) : core.q;
        found.push_back({layer.index, copy(q), copy(core.k), copy(core.v)});
      }
    } collector(layers_, options_.dtype, model_->config().attention.scale);
    model_->hidden(ids, nullptr, 0, &collector);
    require(collector.found.size() == layers_.size(),
            "{}: {} of the {} chosen layers have no core of queries, keys and values", options_.model.string(),
            layers_.size() - collector.found.size(), layers_.size());
    return collector.found;
  }

  int64_t trained_length() const override { return model_->config().max_length; }
  std::vector<int64_t> default_lengths() const override { return kDefaultLengths; }

  nlohmann::ordered_json describe() const override {
    const auto& c = model_->config();
    return {{"model", options_.model.string()},
            {"text", options_.text.string()},
            {"text_tokens", tokens_.size()},
            {"layers", layers_},
            {"heads", c.heads},
            {"kv_heads", c.kv_heads},
            {"head_dim", c.head_dim},
            {"trained_length", c.max_length},
            {"dtype", name_of(options_.dtype)}};
  }

 private:
  ModelSourceOptions options_;
  DecoderLm model_;
  std::vector<int64_t> layers_;
  std::vector<int64_t> tokens_;
};

class FileSource final : public QkvSource {
 public:
  explicit FileSource(const std::filesystem::path& path) : path_(path) {
    const auto file = formats::SafetensorsFile::open(path);
    whole_ = {0, checkpoint::read_tensor(file, "q"), checkpoint::read_tensor(file, "k"),
              checkpoint::read_tensor(file, "v")};
    for (const auto& [name, x] : {std::pair{"q", &whole_.q}, {"k", &whole_.k}, {"v", &whole_.v}}) {
      require(x->dim() == 4, "{}: {} has {} dimensions: [batch, heads, tokens, head size] is accepted", path.string(),
              name, x->dim());
      require(x->is_floating_point(), "{}: {} has type {}: a floating-point type is accepted", path.string(), name,
              toString(x->scalar_type()));
    }
    const auto &q = whole_.q, &k = whole_.k, &v = whole_.v;
    require(q.size(2) == k.size(2) && k.size(2) == v.size(2),
            "{}: q, k and v have {}, {} and {} tokens: equal numbers are accepted", path.string(), q.size(2), k.size(2),
            v.size(2));
    require(q.size(3) == k.size(3), "{}: q has head size {}, k has {}: equal head sizes are accepted", path.string(),
            q.size(3), k.size(3));
    require(k.size(1) == v.size(1) && k.size(1) > 0 && q.size(1) % k.size(1) == 0,
            "{}: q, k and v have {}, {} and {} heads: as many of k as of v, and a multiple of them of q, are accepted",
            path.string(), q.size(1), k.size(1), v.size(1));
  }

  std::vector<LayerTensors> tensors(int64_t length) override {
    require(length <= whole_.q.size(2), "--lengths {}: {} holds {} tokens", length, path_.string(), whole_.q.size(2));
    const auto first = [length](const Tensor& x) { return x.narrow(2, 0, length).contiguous(); };
    return {{0, first(whole_.q), first(whole_.k), first(whole_.v)}};
  }

  int64_t trained_length() const override { return std::numeric_limits<int64_t>::max(); }

  /// Those of the usual lengths that the file holds, and its own.
  std::vector<int64_t> default_lengths() const override {
    std::vector<int64_t> lengths;
    for (const auto length : kDefaultLengths)
      if (length < whole_.q.size(2)) lengths.push_back(length);
    lengths.push_back(whole_.q.size(2));
    return lengths;
  }

  nlohmann::ordered_json describe() const override {
    return {{"qkv", path_.string()},
            {"heads", whole_.q.size(1)},
            {"kv_heads", whole_.k.size(1)},
            {"head_dim", whole_.q.size(3)},
            {"dtype", name_of(whole_.q.scalar_type())}};
  }

 private:
  std::filesystem::path path_;
  LayerTensors whole_;
};

}  // namespace

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  require(file && std::filesystem::is_regular_file(path), "{}: can't be read as a text", path.string());
  text << file.rdbuf();
  require(!text.str().empty(), "{}: is empty", path.string());
  return text.str();
}

std::unique_ptr<QkvSource> model_source(const ModelSourceOptions& options) {
  return std::make_unique<ModelSource>(options);
}
std::unique_ptr<QkvSource> file_source(const std::filesystem::path& file) { return std::make_unique<FileSource>(file); }

}  // namespace heed::bench
