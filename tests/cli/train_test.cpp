// Training from the command line: a model learns, is written as a Llama, goes on after a kill as if nothing had
// happened.
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/heed_command.h"
#include "cli/small_models.h"
#include "heed/formats/safetensors.h"

namespace heed::train_test {
namespace {

const char* kSmall =
    " --layers 2 --dim 32 --heads 2 --kv-heads 1 --head-dim 16 --hidden 48 --context 64 --batch 4 --threads 1 "
    "--eval-every 10";

void write_text(const std::filesystem::path& path) {
  std::ofstream file(path);
  for (int i = 0; i < 600; ++i) file << "line " << i % 17 << " of a text that repeats itself, as texts do.\n";
}

std::string weights(const std::filesystem::path& folder) { return slurp(folder / "model.safetensors"); }

TEST(Train, LearnsAndWritesALlama) {
  const TemporaryDirectory folder;
  write_text(folder / "text");
  const auto out = folder / "model";
  const auto result = test::heed("train lm --text " + (folder / "text").string() + " --out " + out.string() +
                                 " --steps 60 --lr 5e-3 --warmup 5" + kSmall);
  ASSERT_EQ(result.status, 0) << result.err;
  const auto config = nlohmann::json::parse(slurp(out / "config.json"));
  EXPECT_EQ(config["architectures"][0], "LlamaForCausalLM");
  EXPECT_EQ(config["num_key_value_heads"], 1);
  const auto file = formats::SafetensorsFile::open(out / "model.safetensors");
  EXPECT_EQ(file.info("model.layers.1.mlp.down_proj.weight").dtype, formats::TensorType::bf16);

  const auto eval = test::heed("eval text --json --model " + out.string() + " --text " + (folder / "text").string());
  ASSERT_EQ(eval.status, 0) << eval.err;
  EXPECT_LT(nlohmann::json::parse(eval.out)["bits_per_byte"], 5.0);  // 8 at the start
  const auto task = test::heed("eval task niah_single --json --samples 3 --context 128 --model " + out.string());
  ASSERT_EQ(task.status, 0) << task.err;
  EXPECT_EQ(nlohmann::json::parse(task.out)["samples"], 3);
}

TEST(Train, ResumedIsTheSameAsUninterrupted) {
  const TemporaryDirectory folder;
  write_text(folder / "text");
  const std::string base = "train lm --text " + (folder / "text").string() +
                           " --steps 24 --save-every 6 --mix text=0.6,niah_single=0.2,repeat=0.2 --context 128" +
                           std::string(kSmall).replace(std::string(kSmall).find(" --context 64"), 13, "");
  ASSERT_EQ(test::heed(base + " --out " + (folder / "whole").string()).status, 0);

  // Killed without warning, twice, at whatever it was doing.
  const auto parts = (folder / "parts").string();
  for (int kill = 0; kill < 2; ++kill) {
    const bool started = std::filesystem::exists(folder / "parts/training.safetensors");
    const std::string command = std::string("timeout -s KILL 4 ") + HEED_BINARY + " " + base + " --out " + parts +
                                (started ? " --resume" : "") + " >/dev/null 2>&1";
    (void)!std::system(command.c_str());
  }
  const bool started = std::filesystem::exists(folder / "parts/training.safetensors");
  const auto last = test::heed(base + " --out " + parts + (started ? " --resume" : ""));
  ASSERT_EQ(last.status, 0) << last.err;
  EXPECT_EQ(weights(folder / "parts"), weights(folder / "whole"));
}

TEST(Train, FineTunesWithAnotherMixer) {
  const TemporaryDirectory folder;
  write_text(folder / "text");
  const std::string base = "train lm --text " + (folder / "text").string() + " --steps 5";
  ASSERT_EQ(test::heed(base + " --out " + (folder / "a").string() + kSmall).status, 0);
  const auto tuned = test::heed(base + " --context 64 --batch 2 --threads 1 --from " + (folder / "a").string() +
                                " --out " + (folder / "b").string() + " --mixer '1=sliding_window:{\"window\":16}'");
  ASSERT_EQ(tuned.status, 0) << tuned.err;
  const auto config = nlohmann::json::parse(slurp(folder / "b/config.json"));
  EXPECT_EQ(config["architectures"][0], "HeedForCausalLM");
  EXPECT_EQ(config["heed"]["layers"][1]["mixer"], "sliding_window");
  EXPECT_EQ(test::heed("eval text --model " + (folder / "b").string() + " --text " + (folder / "text").string()).status,
            0);
}

TEST(Train, SaysWhatAnotherMixerCannotTakeOver) {
  const TemporaryDirectory folder;
  write_text(folder / "text");
  const std::string base = "train lm --text " + (folder / "text").string() + " --steps 1";
  ASSERT_EQ(test::heed(base + " --out " + (folder / "a").string() + kSmall).status, 0);
  const auto from = [&](const std::string& model, const std::string& mixer) {
    const auto out = (folder / "b").string();
    std::filesystem::remove_all(out);
    auto tuned = test::heed(base + " --context 64 --batch 2 --threads 1 --from " + model + " --out " + out +
                            " --mixer " + mixer);
    EXPECT_EQ(tuned.status, 0) << tuned.err;
    EXPECT_EQ(test::heed("generate --max-tokens 2 --prompt line --model " + out).status, 0) << mixer;
    return tuned.out;
  };
  const auto gla = from((folder / "a").string(), "gla");
  EXPECT_NE(gla.find("self_attn.q_proj.weight of [16, 32] for [32, 32]"), std::string::npos) << gla;
  EXPECT_NE(gla.find("without rope positions: gla in layers 0-1"), std::string::npos) << gla;
  // These take everything: shared heads and positions of a Llama, biases of a GPT-2.
  for (const char* mixer : {"performer", "combiner"})
    EXPECT_EQ(from((folder / "a").string(), mixer).find("begin anew"), std::string::npos) << mixer;
  const test::SmallGpt2 gpt2(64);
  EXPECT_EQ(from(gpt2.path(), "performer").find("begin anew"), std::string::npos);
}

TEST(Train, ReversibleLayersAreWrittenAndGenerate) {
  const TemporaryDirectory folder;
  write_text(folder / "text");
  const auto out = (folder / "model").string();
  const auto result = test::heed("train lm --reversible --mixer reformer --text " + (folder / "text").string() +
                                 " --out " + out + " --steps 4 --warmup 1" + kSmall);
  ASSERT_EQ(result.status, 0) << result.err;
  const auto config = nlohmann::json::parse(slurp(std::filesystem::path(out) / "config.json"));
  EXPECT_EQ(config["architectures"][0], "HeedForCausalLM");
  EXPECT_EQ(config["heed"]["block"]["placement"], "reversible");
  const auto text = test::heed("generate --max-tokens 4 --prompt line --json --model " + out);
  ASSERT_EQ(text.status, 0) << text.err;
  EXPECT_EQ(nlohmann::json::parse(text.out)["new_tokens"], 4);
}

TEST(Train, RulerTinyLearnsFromAnswersAlone) {
  const TemporaryDirectory folder;
  const auto out = (folder / "ruler").string();
  const auto trained = test::heed("train ruler_tiny --curriculum 64,128 --batch 2 --steps 4 --threads 1 --out " + out);
  ASSERT_EQ(trained.status, 0) << trained.err;
  const auto config = nlohmann::json::parse(slurp(folder / "ruler/config.json"));
  EXPECT_EQ(config["num_hidden_layers"], 4);
  EXPECT_EQ(config["hidden_size"], 128);
  EXPECT_EQ(config["num_attention_heads"], 8);
  EXPECT_EQ(config["num_key_value_heads"], 2);
  EXPECT_EQ(config["max_position_embeddings"], 128);
  EXPECT_EQ(test::heed("eval task niah_single_1 --context 128 --samples 1 --model " + out).status, 0);
  EXPECT_EQ(test::heed("train ruler_tiny --curriculum 33,x --out " + out).status, 2);
}

TEST(Train, BadInputIsOneClearLine) {
  const TemporaryDirectory folder;
  write_text(folder / "text");
  const auto refused = [&](const std::string& arguments, const std::string& word) {
    const auto out = folder / "refused";
    const auto result = test::heed("train lm --steps 2 --out " + out.string() + " " + arguments + kSmall);
    EXPECT_EQ(result.status, 2) << arguments;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_NE(result.err.find(word), std::string::npos) << result.err;
    EXPECT_FALSE(std::filesystem::exists(out)) << arguments;
  };
  const auto text = "--text " + (folder / "text").string();
  refused("--text " + (folder / "missing").string(), "missing");
  refused(text + " --mixer dens", "dense");
  refused(text + " --mix text=0.5,niah_sngle=0.5", "niah_single");
  refused(text + " --from " + folder.path().string(), "config.json");
  refused(text + " --resume", "resume");
  refused(text + " --dtype int4", "int4");
}

}  // namespace
}  // namespace heed::train_test
