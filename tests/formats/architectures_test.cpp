// config.json of each architecture: published files, defaults of absent keys, what is refused.
#include "heed/formats/json_file.h"
#include "heed/formats/model_config.h"
#include "support/test_files.h"

namespace heed::formats::architectures_test {
namespace {

using Json = nlohmann::json;

Json sizes(const char* architecture) {
  return {{"architectures", {architecture}}, {"hidden_size", 64},       {"num_hidden_layers", 4},
          {"num_attention_heads", 4},        {"intermediate_size", 96}, {"vocab_size", 300}};
}

Json mamba() {
  return {{"architectures", {"MambaForCausalLM"}}, {"hidden_size", 64}, {"num_hidden_layers", 4}, {"vocab_size", 300}};
}

Json gpt2() {
  return {{"architectures", {"GPT2LMHeadModel"}}, {"n_embd", 64}, {"n_layer", 4}, {"n_head", 4}, {"vocab_size", 300}};
}

DecoderModelConfig parsed(const Json& json) { return parse_decoder_config(json, "x"); }

// Mistral 7B v0.1 and Pythia 70m as published.
TEST(Architectures, PublishedFilesAreRead) {
  const auto mistral = parsed(parse_json(R"({"architectures": ["MistralForCausalLM"], "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.34.0.dev0", "use_cache": true,
    "vocab_size": 32000})",
                                         "x"));
  ASSERT_EQ(mistral.layers.size(), 32u);
  EXPECT_EQ(mistral.layers[31], (LayerConfig{"sliding_window", {{"window", 4096}, {"sinks", 0}}}));
  const auto pythia = parsed(parse_json(R"({"architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0,
    "eos_token_id": 0, "hidden_act": "gelu", "hidden_size": 512, "initializer_range": 0.02, "intermediate_size": 2048,
    "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 8,
    "num_hidden_layers": 6, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": false,
    "torch_dtype": "float16", "transformers_version": "4.24.0", "use_cache": true, "use_parallel_residual": true,
    "vocab_size": 50304})",
                                        "x"));
  EXPECT_EQ(pythia.rotary_dim, 16);
  // Mamba 130m, converted by its authors.
  const auto published = parsed(parse_json(R"({"architectures": ["MambaForCausalLM"], "bos_token_id": 0,
    "conv_kernel": 4, "d_inner": 1536, "d_model": 768, "eos_token_id": 0, "expand": 2, "fused_add_norm": true,
    "hidden_act": "silu", "hidden_size": 768, "initializer_range": 0.1, "intermediate_size": 1536,
    "layer_norm_epsilon": 1e-05, "model_type": "mamba", "n_layer": 24, "num_hidden_layers": 24, "pad_token_id": 0,
    "pad_vocab_size_multiple": 8, "rescale_prenorm_residual": false, "residual_in_fp32": true, "rms_norm": true,
    "ssm_cfg": {}, "state_size": 16, "time_step_floor": 0.0001, "time_step_init_scheme": "random",
    "time_step_max": 0.1, "time_step_min": 0.001, "time_step_rank": 48, "time_step_scale": 1.0,
    "torch_dtype": "float32", "transformers_version": "4.39.0.dev0", "use_bias": false, "use_cache": true,
    "use_conv_bias": true, "vocab_size": 50280})",
                                           "x"));
  ASSERT_EQ(published.layers.size(), 24u);
  EXPECT_EQ(published.layers[23],
            (LayerConfig{"mamba", {{"state_dim", 16}, {"expand", 2}, {"conv", 4}, {"step_rank", 48}}}));
  EXPECT_TRUE(published.tie_word_embeddings && !published.rotary);
  EXPECT_EQ(pythia.block, (BlockConfig{NormKind::layer, NormPlacement::parallel, "mlp", Activation::gelu, true}));
  EXPECT_TRUE(pythia.attention.qkv_bias && pythia.attention.output_bias);
}

TEST(Architectures, DefaultsAreThoseOfTransformers) {
  EXPECT_EQ(parsed(sizes("MistralForCausalLM")).layers.at(3).config.at("window"), 4096);
  const auto qwen2 = parsed(sizes("Qwen2ForCausalLM"));
  EXPECT_TRUE(qwen2.layers.empty() && qwen2.attention.qkv_bias && !qwen2.attention.output_bias);
  const auto qwen3 = parsed(sizes("Qwen3ForCausalLM"));
  EXPECT_EQ(qwen3.head_dim, 128);
  EXPECT_TRUE(qwen3.attention.qk_norm && !qwen3.attention.qkv_bias);
  const auto gemma = parsed(sizes("Gemma2ForCausalLM"));
  EXPECT_EQ(gemma.attention.softcap, 50);
  EXPECT_EQ(gemma.logit_softcap, 30);
  EXPECT_EQ(gemma.attention.scale, 1.0 / 16);
  EXPECT_EQ(gemma.embedding_scale, 8);
  EXPECT_EQ(gemma.head_dim, 256);
  EXPECT_EQ(gemma.layers.at(0).mixer, "sliding_window");
  EXPECT_EQ(gemma.layers.at(1).mixer, "dense");
  EXPECT_TRUE(gemma.tie_word_embeddings);
  EXPECT_TRUE(parsed(sizes("Phi3ForCausalLM")).is_plain());
  const auto gpt = parsed(gpt2());
  EXPECT_EQ(gpt.intermediate_size, 256);
  EXPECT_EQ(gpt.max_position_embeddings, 1024);
  EXPECT_TRUE(gpt.learned_positions && !gpt.rotary && gpt.tie_word_embeddings);
  EXPECT_EQ(parsed(sizes("GPTNeoXForCausalLM")).rotary_dim, 4);
  auto automatic = mamba();
  automatic["time_step_rank"] = "auto";
  for (const auto& json : {mamba(), automatic})
    EXPECT_EQ(parsed(json).layers.at(0), (LayerConfig{"mamba", {{"state_dim", 16}, {"expand", 2}, {"conv", 4}}}));
}

TEST(Architectures, WindowsFollowTheFile) {
  auto json = sizes("Qwen2ForCausalLM");
  json.update({{"use_sliding_window", true}, {"sliding_window", 7}, {"max_window_layers", 3}});
  auto layers = parsed(json).layers;
  EXPECT_EQ(layers.at(2).mixer, "dense");
  EXPECT_EQ(layers.at(3).config.at("window"), 7);
  json["layer_types"] = {"sliding_attention", "full_attention", "full_attention", "full_attention"};
  layers = parsed(json).layers;
  EXPECT_EQ(layers.at(0).mixer, "sliding_window");
  EXPECT_EQ(layers.at(3).mixer, "dense");
  json = sizes("MistralForCausalLM");
  json["sliding_window"] = nullptr;
  EXPECT_TRUE(parsed(json).is_plain());
}

TEST(Architectures, ALlamaOfAnyActivationIsRead) {
  auto json = sizes("LlamaForCausalLM");
  json["hidden_act"] = "gelu_pytorch_tanh";
  EXPECT_EQ(parsed(json).block.activation, Activation::gelu_tanh);
  EXPECT_FALSE(parsed(json).is_plain());
}

TEST(Architectures, EarlyPhi3FilesKeepTheTrainedLengthOutside) {
  auto json = sizes("Phi3ForCausalLM");
  json.update(
      {{"max_position_embeddings", 131072},
       {"original_max_position_embeddings", 4096},
       {"rope_scaling",
        {{"type", "su"}, {"short_factor", {1, 1, 1, 1, 1, 1, 1, 1}}, {"long_factor", {1, 2, 3, 4, 5, 6, 7, 8}}}}});
  const auto config = parsed(json);
  EXPECT_EQ(config.rope_scaling->kind, RopeScaling::Kind::longrope);
  EXPECT_EQ(config.rope_scaling->factor, 32);
  EXPECT_EQ(config.rope_scaling->original_max_position_embeddings, 4096);
  json["rope_scaling"]["long_factor"] = {1, 2};
  EXPECT_NE(error_of([&] { parsed(json); }).find("number of rope_scaling.long_factor is 2, accepted: 8 to 8"),
            std::string::npos);
}

/// Whatever was read, heed's own form says the same.
TEST(Architectures, AllSurviveInHeedsOwnForm) {
  std::vector<Json> files{gpt2(), mamba()};
  for (const char* name : {"MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM",
                           "Phi3ForCausalLM", "GPTNeoXForCausalLM"})
    files.push_back(sizes(name));
  for (const auto& file : files) {
    const auto config = parsed(file);
    const Json written = decoder_config_json(config);
    const auto again = parsed(written);
    EXPECT_EQ(written.at("architectures")[0], config.is_plain() ? "LlamaForCausalLM" : "HeedForCausalLM");
    EXPECT_EQ(Json(decoder_config_json(again)), written);
    EXPECT_EQ(again.block, config.block) << written;
    EXPECT_EQ(again.attention, config.attention) << written;
    EXPECT_EQ(again.rotary_dim, config.rotary_dim);
    EXPECT_EQ(again.embedding_scale, config.embedding_scale);
  }
}

TEST(Architectures, WhatWouldChangeTheNumbersIsRefused) {
  const auto refused = [](Json json, const char* key, const Json& value, std::string_view expected) {
    json[key] = value;
    SCOPED_TRACE(json.dump());
    const auto message = error_of([&] { parsed(json); });
    EXPECT_NE(message.find(expected), message.npos) << message << "\nexpected: " << expected;
  };
  const auto llama = sizes("LlamaForCausalLM"), mistral = sizes("MistralForCausalLM"), qwen = sizes("Qwen2ForCausalLM"),
             gemma = sizes("Gemma2ForCausalLM"), neox = sizes("GPTNeoXForCausalLM");
  refused(llama, "quantization_config", {{"bits", 4}}, "quantization_config is");
  refused(llama, "attn_logit_softcapping", 50, "a way that heed does not follow");
  refused(llama, "num_local_experts", 8, "num_local_experts is '8'");
  refused(llama, "heed", {{"embedding_scale", 2}}, "heed.embedding_scale is given");
  refused(mistral, "sliding_window", 0, "sliding_window is 0");
  refused(mistral, "sliding_window", "wide", "a whole number");
  refused(mistral, "layer_types", {"full_attention"}, "one entry a layer");
  refused(qwen, "layer_types", Json(std::vector<std::string>(4, "chunked_attention")), "sliding_attention or full");
  refused(gemma, "query_pre_attn_scalar", 0, "accepted: above 0");
  refused(gemma, "final_logit_softcapping", -1, "logit_softcap is -1");
  refused(gemma, "use_bidirectional_attention", true, "use_bidirectional_attention");
  refused(mamba(), "use_bias", true, "accepted: false");
  refused(mamba(), "use_conv_bias", false, "accepted: true");
  refused(mamba(), "hidden_act", "gelu", "accepted: silu");
  refused(mamba(), "intermediate_size", 100, "accepted: expand * hidden_size, 128");
  refused(mamba(), "expand", int64_t{1} << 60, "accepted: 1 to 64");
  refused(mamba(), "num_hidden_layers", int64_t{1} << 60, "num_hidden_layers is");
  refused(mamba(), "time_step_rank", "wide", "a whole number");
  refused(gpt2(), "scale_attn_by_inverse_layer_idx", true, "accepted: false");
  refused(gpt2(), "add_cross_attention", true, "add_cross_attention");
  refused(gpt2(), "n_head", 3, "a multiple of the number of heads");
  refused(gpt2(), "n_embd", int64_t{1} << 62, "n_embd is");
  refused(gpt2(), "n_positions", int64_t{1} << 40, "max_position_embeddings is");
  refused(neox, "rotary_pct", 0.2, "even number of rotated dimensions");
  refused(neox, "rotary_pct", 1.5, "accepted: above 0, at most 1");
  refused(neox, "num_hidden_layers", -3, "num_hidden_layers is -3");
}

TEST(Architectures, HeedsOwnKeysAreChecked) {
  auto json = sizes("HeedForCausalLM");
  json["heed"]["layers"] = std::vector<Json>(4, {{"mixer", "dense"}});
  const auto refused = [&](const char* key, const Json& value, std::string_view expected) {
    auto bad = json;
    bad["heed"][key] = value;
    const auto message = error_of([&] { parsed(bad); });
    EXPECT_NE(message.find(expected), message.npos) << message << "\nexpected: " << expected;
  };
  refused("block", {{"norm", "bach"}}, "accepted: rms, rms_plus_one, layer");
  refused("block", {{"norm", "batch"}}, "accepted of a decoder: rms, rms_plus_one, layer");
  refused("attention", {{"qk_norm", "batch"}}, "accepted of a decoder: rms, rms_plus_one, layer");
  refused("block", {{"layer_scale", -1}}, "layer_scale is -1");
  refused("block", {{"dropout", 0.5}}, "heed.block.'dropout'");
  refused("attention", {{"scale", -1}}, "attention scale is -1");
  refused("rotary_dim", 5, "an even number");
  refused("rotary_dim", 50, "rotary_dim is 50");
  refused("logit_softcap", "high", "a number");
}

TEST(Architectures, EncodersAreRead) {
  const auto bert = parse_encoder_config(sizes("BertForMaskedLM"), "x");
  EXPECT_EQ(bert.block, (BlockConfig{NormKind::layer, NormPlacement::post, "mlp", Activation::gelu, true}));
  EXPECT_TRUE(bert.mlm_head && !bert.position_padding_id && bert.tie_word_embeddings);
  EXPECT_EQ(bert.norm_eps, 1e-12);
  EXPECT_EQ(parse_encoder_config(sizes("RobertaModel"), "x").position_padding_id, 1);
  auto json = sizes("ViTForImageClassification");
  EXPECT_EQ(parse_vision_config(json, "x").num_labels, 2);
  json.update({{"image_size", {32, 48}}, {"patch_size", 8}, {"id2label", {{"0", "a"}, {"1", "b"}, {"2", "c"}}}});
  const auto vit = parse_vision_config(json, "x");
  EXPECT_EQ(vit.image_width, 48);
  EXPECT_EQ(vit.patch_height, 8);
  EXPECT_EQ(vit.num_labels, 3);
}

TEST(Architectures, EncodersRefuseWhatTheyDoNotFollow) {
  const auto refused = [](const char* architecture, const char* key, const Json& value, std::string_view expected) {
    auto json = sizes(architecture);
    json[key] = value;
    const bool vision = std::string_view(architecture).starts_with("ViT");
    const auto message = error_of([&] {
      if (vision)
        parse_vision_config(json, "x");
      else
        parse_encoder_config(json, "x");
    });
    EXPECT_NE(message.find(expected), message.npos) << message << "\nexpected: " << expected;
  };
  refused("BertModel", "position_embedding_type", "relative_key", "position_embedding_type is");
  refused("BertModel", "is_decoder", true, "accepted: false");
  refused("BertModel", "type_vocab_size", 0, "type_vocab_size is 0");
  refused("BertModel", "hidden_act", "quick_gelu", "accepted: silu");
  refused("RobertaModel", "pad_token_id", 511, "pad_token_id is 511");
  refused("ViTModel", "image_size", {1, 2, 3}, "height and width");
  refused("ViTModel", "image_size", 100, "a multiple of patch_size, 16");
  refused("ViTModel", "patch_size", 0, "patch_size is 0");
  refused("ViTModel", "pooler_output_size", 7, "pooler_output_size is '7'");
  refused("ViTForImageClassification", "id2label", 4, "one name a class");
}

}  // namespace
}  // namespace heed::formats::architectures_test
