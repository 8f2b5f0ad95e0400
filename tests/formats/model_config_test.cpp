#include "heed/formats/model_config.h"

#include "heed/formats/byte_tokenizer.h"
#include "heed/formats/json_file.h"
#include "support/test_files.h"

namespace heed::formats::model_config_test {
namespace {

using Json = nlohmann::json;

// Meta's Llama 3.1 8B as published.
constexpr std::string_view kLlama31 = R"({
  "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 128000,
  "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
  "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
  "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
  "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
  "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0,
  "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.42.3", "use_cache": true,
  "vocab_size": 128256})";

Json small() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"hidden_size", 64},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"intermediate_size", 128},
          {"vocab_size", 256}};
}

TEST(ModelConfig, ReadsLlama) {
  const auto config = parse_decoder_config(parse_json(kLlama31, "x"), "x");
  EXPECT_EQ(config.hidden_size, 4096);
  EXPECT_EQ(config.num_key_value_heads, 8);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.norm_eps, 1e-5);
  EXPECT_EQ(config.rope_theta, 500000);
  ASSERT_TRUE(config.rope_scaling.has_value());
  EXPECT_EQ(config.rope_scaling->kind, RopeScaling::Kind::llama3);
  EXPECT_EQ(config.rope_scaling->factor, 8);
  EXPECT_EQ(config.rope_scaling->original_max_position_embeddings, 8192);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int64_t>{128001, 128008, 128009}));
  EXPECT_EQ(config.torch_dtype, "bfloat16");
  EXPECT_TRUE(config.is_plain());
  EXPECT_EQ(config.extra.at("transformers_version"), "4.42.3");
  EXPECT_FALSE(config.extra.contains("hidden_size"));
}

TEST(ModelConfig, DefaultsAreThoseOfTransformers) {
  const auto config = parse_decoder_config(small(), "x");
  EXPECT_EQ(config.num_key_value_heads, 4);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.max_position_embeddings, 2048);
  EXPECT_EQ(config.norm_eps, 1e-6);
  EXPECT_EQ(config.rope_theta, 10000);
  EXPECT_FALSE(config.rope_scaling || config.tie_word_embeddings || config.attention.qkv_bias || config.bos_token_id);
}

TEST(ModelConfig, NewerFilesKeepTheRopeInOnePlace) {
  auto json = small();
  json["rope_parameters"] = {
      {"rope_type", "yarn"}, {"rope_theta", 12345.0}, {"factor", 4.0}, {"attention_factor", 1.5}};
  json["dtype"] = "float16";
  const auto config = parse_decoder_config(json, "x");
  EXPECT_EQ(config.rope_theta, 12345);
  EXPECT_EQ(config.rope_scaling->kind, RopeScaling::Kind::yarn);
  EXPECT_EQ(config.rope_scaling->attention_factor, 1.5);
  EXPECT_EQ(config.rope_scaling->beta_fast, 32);
  EXPECT_EQ(config.torch_dtype, "float16");
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 5.0}};
  EXPECT_FALSE(parse_decoder_config(json, "x").rope_scaling.has_value());
}

TEST(ModelConfig, RoundTrips) {
  const TemporaryDirectory folder;
  const auto same = [&](const Json& json) {
    const auto config = parse_decoder_config(json, "x");
    write_decoder_config(folder / "config.json", config);
    const auto again = read_decoder_config(folder / "config.json");
    EXPECT_EQ(decoder_config_json(again), decoder_config_json(config));
    return again;
  };
  const auto llama = same(parse_json(kLlama31, "x"));
  EXPECT_EQ(llama.extra.at("pretraining_tp"), 1);
  EXPECT_EQ(llama.rope_scaling->high_freq_factor, 4);
  for (const char* kind : {"linear", "dynamic", "yarn"}) {
    auto json = small();
    json["rope_scaling"] = {{"type", kind}, {"factor", 2.5}};
    EXPECT_EQ(name_of(same(json).rope_scaling->kind), kind);
  }
  auto json = small();
  json["architectures"] = {"HeedForCausalLM"};
  json["heed"] = {{"tokenizer", "bytes"},
                  {"layers", {{{"mixer", "gla"}, {"config", {{"gate", 16}}}}, {{"mixer", "softmax"}}}},
                  {"note", "kept"}};
  const auto heed = same(json);
  ASSERT_EQ(heed.layers.size(), 2u);
  EXPECT_EQ(heed.layers[0].mixer, "gla");
  EXPECT_EQ(heed.layers[0].config.at("gate"), 16);
  EXPECT_TRUE(heed.layers[1].config.is_object());
  EXPECT_EQ(heed.tokenizer, "bytes");
  EXPECT_EQ(heed.heed_extra.at("note"), "kept");
  EXPECT_EQ(decoder_config_json(heed).at("model_type"), "heed");
}

TEST(ModelConfig, RefusesBadValues) {
  const auto refused = [](const char* key, const Json& value, std::string_view expected) {
    auto json = small();
    json[key] = value;
    SCOPED_TRACE(json.dump());
    const auto message = error_of([&] { parse_decoder_config(json, "some/config.json"); });
    EXPECT_EQ(message.rfind("some/config.json: ", 0), 0u) << message;
    EXPECT_NE(message.find(expected), message.npos) << message << "\nexpected: " << expected;
  };
  refused("hidden_size", nullptr, "hidden_size is missing");
  refused("hidden_size", "64", "accepted: a whole number");
  refused("hidden_size", 64.5, "accepted: a whole number");
  refused("hidden_size", 18446744073709551615u, "accepted: a whole number");
  refused("hidden_size", 66, "a multiple of num_attention_heads");
  refused("hidden_size", 0, "hidden_size is 0");
  refused("hidden_size", int64_t{1} << 40, "accepted: 1 to");
  refused("num_attention_heads", 0, "num_attention_heads, 0");
  refused("num_attention_heads", -4, "");
  refused("num_hidden_layers", 1 << 20, "num_hidden_layers is 1048576");
  refused("num_key_value_heads", 3, "a divisor of num_attention_heads");
  refused("num_key_value_heads", 8, "num_key_value_heads is 8");
  refused("head_dim", 15, "an even number");
  refused("head_dim", int64_t{1} << 24, "num_attention_heads * head_dim");
  refused("vocab_size", 0, "vocab_size is 0");
  refused("max_position_embeddings", -1, "max_position_embeddings is -1");
  refused("rms_norm_eps", -1e-6, "norm_eps is -1e-06");
  refused("rms_norm_eps", "small", "accepted: a number");
  refused("rope_theta", 0, "rope_theta is 0");
  refused("tie_word_embeddings", 1, "true or false");
  refused("hidden_act", "relu6", "hidden_act is 'relu6', accepted:");
  refused("hidden_act", "mish", "accepted: silu");
  refused("torch_dtype", "int8", "accepted: float32");
  refused("architectures", Json::array({"BloomForCausalLM"}), "'BloomForCausalLM'");
  refused("architectures", "LlamaForCausalLM", "accepted: [");
  refused("architectures", Json::array({"HeedForCausalLM"}), "must have heed.layers");
  refused("eos_token_id", "end", "accepted: a whole number");
  refused("heed", 3, "heed is '3'");
  refused("heed", {{"tokenizer", "words"}}, "accepted: 'bytes'");
  refused("heed", {{"layers", {{{"mixer", "gla"}}}}}, "");
  refused("rope_scaling", "linear", "rope_scaling is");
  refused("rope_scaling", {{"type", "longrope"}, {"factor", 2.0}}, "needs original_max_position_embeddings");
  refused("rope_scaling", {{"type", "spiral"}, {"factor", 2.0}}, "'spiral'");
  refused("rope_scaling", {{"type", "linear"}}, "no factor");
  refused("rope_scaling", {{"type", "linear"}, {"factor", 0.5}}, "rope_scaling.factor is 0.5");
  refused("rope_scaling", {{"type", "linear"}, {"factor", 2.0}, {"surprise", 1}}, "'surprise'");
  refused("rope_scaling", {{"type", "llama3"}, {"factor", 2.0}}, "needs original_max_position_embeddings");
  refused("rope_scaling", {{"type", "yarn"}, {"factor", 2.0}, {"beta_fast", 1.0}}, "less than beta_fast");
}

TEST(ModelConfig, LayersMustMatchTheirNumber) {
  auto json = small();
  json["architectures"] = {"HeedForCausalLM"};
  json["heed"] = {{"layers", {{{"mixer", "gla"}}}}};
  const auto message = error_of([&] { parse_decoder_config(json, "x"); });
  EXPECT_NE(message.find("heed.layers has 1 entries, accepted: num_hidden_layers, 2"), message.npos) << message;
  json["heed"]["layers"].push_back({{"mixer", ""}});
  EXPECT_NE(error_of([&] { parse_decoder_config(json, "x"); }).find("a name and an object"), std::string::npos);
}

TEST(ModelConfig, IdsOutsideTheVocabularyMeanNone) {
  auto json = small();
  json["bos_token_id"] = -1;
  json["eos_token_id"] = {3, 256};
  const auto config = parse_decoder_config(json, "x");
  EXPECT_FALSE(config.bos_token_id.has_value());
  EXPECT_EQ(config.eos_token_ids, std::vector<int64_t>{3});
}

TEST(ByteTokenizer, EveryByteIsItself) {
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  const auto ids = ByteTokenizer::encode(all);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(ids[static_cast<size_t>(i)], i);
  EXPECT_EQ(ByteTokenizer::decode(ids), all);
  const std::array<int64_t, 1> bad{256};
  EXPECT_NE(error_of([&] { ByteTokenizer::decode(bad); }).find("256"), std::string::npos);
}

}  // namespace
}  // namespace heed::formats::model_config_test
