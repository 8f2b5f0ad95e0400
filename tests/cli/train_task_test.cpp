// heed train --task and heed compare --mixers from the command line.
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "cli/heed_command.h"

namespace heed::train_task_test {
namespace {

using nlohmann::json;

const char* kSmall = " --dim 32 --heads 2 --hidden 48 --threads 1 --test-samples 16 --batch 8 ";

TEST(TrainTask, PrintsWhatIsLearned) {
  const auto result = test::heed("train --task mqar --mixer gla --task-set length=16 --task-set pairs=2 --steps 20" +
                                 std::string(kSmall) + "--eval-every 10 --beyond length=32,pairs=2");
  ASSERT_EQ(result.status, 0) << result.err;
  for (const char* word : {"mqar: chance", "step      10", "step      20", "tokens/s", "score", "length=32,pairs=2"})
    EXPECT_NE(result.out.find(word), std::string::npos) << word << "\n" << result.out;
}

TEST(TrainTask, WritesADecoderThatLoads) {
  const TemporaryDirectory folder;
  const auto out = (folder / "model").string();
  const auto result = test::heed(
      "train --json --task copy --task-set length=6 --mixer dense+sliding_window --set "
      "sliding_window.window=4 --steps 12 --layers 2 --seed 3 --out " +
      out + kSmall);
  ASSERT_EQ(result.status, 0) << result.err;
  const auto report = json::parse(result.out);
  EXPECT_EQ(report["task"], "copy");
  EXPECT_EQ(report["task_parameters"]["length"], 6);
  EXPECT_EQ(report["settings"]["sliding_window"]["window"], 4);
  EXPECT_EQ(report["metric"], "accuracy");
  EXPECT_EQ(report["losses"].size(), 12u);
  EXPECT_EQ(report["places"].size(), 6u);
  EXPECT_GT(report["parameters"], 0);
  const auto eval = test::heed("eval task copy --set length=6 --json --samples 3 --model " + out);
  ASSERT_EQ(eval.status, 0) << eval.err;
  const auto again = test::heed(
      "train --json --task copy --task-set length=6 --mixer dense+sliding_window --set "
      "sliding_window.window=4 --steps 12 --layers 2 --seed 3" +
      std::string(kSmall));
  EXPECT_EQ(json::parse(again.out)["losses"], report["losses"]);
}

/// Images and sequences: the folder is what was trained, and training goes on with it.
TEST(TrainTask, WritesModelsThatItGoesOnWith) {
  const TemporaryDirectory folder;
  for (const auto& [task, options, other] : std::vector<std::array<std::string, 3>>{
           {"digits", "--backbone pyramid --backbone-set 'stages=[{},{\"mixer\":\"spectral_gating\"}]'", "shapes"},
           {"algo", "--mixer dense", "digits"}}) {
    const auto out = (folder / task).string(), next = out + "-2";
    const auto first =
        test::heed("train --json --steps 12 --layers 1 --task " + task + " " + options + kSmall + "--out " + out);
    ASSERT_EQ(first.status, 0) << first.err;
    const std::string again = "train --json --threads 1 --test-samples 16 --steps 1 --lr 1e-30 --from " + out;
    const auto second = test::heed(again + " --task " + task + " --out " + next);
    ASSERT_EQ(second.status, 0) << second.err;
    const auto a = json::parse(first.out), b = json::parse(second.out);
    EXPECT_EQ(a["score"], b["score"]);
    EXPECT_EQ(a["parameters"], b["parameters"]);
    EXPECT_EQ(b["from"], out);
    EXPECT_FALSE(b.contains("mixer"));
    const auto config = json::parse(slurp(std::filesystem::path(out) / "config.json"));
    EXPECT_EQ(config["task"]["name"], task);
    EXPECT_EQ(json::parse(slurp(std::filesystem::path(next) / "config.json"))["heed"], config["heed"]);
    const auto wrong = test::heed(again + " --task " + other);
    EXPECT_EQ(wrong.status, 2);
    EXPECT_NE(wrong.err.find("does not fit " + other), std::string::npos) << wrong.err;
  }
}

TEST(TrainTask, SaysWhichKernelsRun) {
  ASSERT_EQ(setenv("HEED_VERBOSE", "dispatch", 1), 0);
  for (const auto& [mixer, kernel] : {std::pair{"dense", "attention q ["},
                                      {"tnl --block transnormer", "linear_chunk ["},
                                      {"deltanet", "delta_chunk ["},
                                      {"mamba", "selective_scan ["},
                                      {"aaren", "softmax_scan ["}}) {
    const auto result =
        test::heed("train --task copy --task-set length=6 --steps 1 --mixer " + std::string(mixer) + kSmall);
    EXPECT_EQ(result.status, 0) << result.err;
    EXPECT_NE(result.err.find(std::string("heed: ") + kernel), std::string::npos) << mixer << ": " << result.err;
  }
  unsetenv("HEED_VERBOSE");
}

TEST(TrainTask, MixersOfOneNameHaveSettingsOfTheirOwn) {
  const TemporaryDirectory folder;
  const auto out = (folder / "model").string();
  const std::string mixers = "sliding_window+dense+sliding_window";
  const std::string settings =
      " --set sliding_window.sinks=1 --set sliding_window.window=3 --set sliding_window#2.window=5";
  const auto result = test::heed("train --task copy --task-set length=6 --layers 4 --steps 2 --threads 1 --mixer " +
                                 mixers + settings + " --out " + out);
  ASSERT_EQ(result.status, 0) << result.err;
  const auto layers = json::parse(slurp(folder / "model/config.json"))["heed"]["layers"];
  EXPECT_EQ(layers[0]["config"], (json{{"sinks", 1}, {"window", 3}}));
  EXPECT_EQ(layers[2]["config"], (json{{"sinks", 1}, {"window", 5}}));
  EXPECT_EQ(layers[3]["config"], layers[0]["config"]);
  const auto compared = test::heed(
      "compare --task copy --task-set length=6 --train-steps 2 --test-samples 2 --threads 1 --json --mixers " + mixers +
      ",dense" + settings);
  EXPECT_EQ(compared.status, 0) << compared.err;
  EXPECT_EQ(test::heed("compare --task copy --mixers dense --set gla.heads=2").status, 2);
}

TEST(TrainTask, BadInputIsOneClearLine) {
  for (const auto& [options, word] :
       {std::pair<std::string, std::string>{"", "--task"},
        {"--mixer dense", "--task"},
        {"--task mqra", "mqar"},
        {"--task mqar --mixer dens", "dense"},
        {"--task mqar --mixer dense+dens", "dense"},
        {"--task mqar --task-set pair=3", "pairs"},
        {"--task mqar --beyond lenght=128", "length"},
        {"--task mqar --mixer dense --set windw=3", "windw"},
        {"--task mqar --mixer dense+gla --set window=3", "NAME.key=value"},
        {"--task mqar --mixer dense --set gla.heads=3", "dense#1"},
        {"--task mqar --mixer gla+gla --set gla#3.heads=3", "gla#2"},
        {"--task mqar --mixer gla+gla --set gla#2.hads=3", "hads"},
        {"--task digits --mixer aaren", "patches"},
        {"--task algo --mixer aaren", "past"},
        {"--task mqar --heads 3", "heads = 3"},
        {"--task mqar --mixer drama_world_model", "whole model"},
        {"--task mqar --mixer gla --set causal=maybe", "causal"},
        {"--task listops --mixer gla --set causal=maybe", "causal"},
        {"--task mqar --block transnormr", "did you mean transnormer"},
        {"--task digits --block gpt2", "channel_mixer"},
        {"--task digits --channel-mixer none --parameters 5000", "without channel mixers"},
        {"--task digits --from /nowhere", "/nowhere"},
        {"--task digits --from /nowhere --layers 3", "--layers"},
        {"--task digits --backbone pyramid --backbone-set 'stages=[{\"mixr\":\"dense\"}]'", "mixer"},
        {"--steps 5", "--task"}}) {
    const auto result = test::heed("train " + options);
    EXPECT_EQ(result.status, 2) << options;
    EXPECT_NE(result.err.find(word), std::string::npos) << options << ": " << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

TEST(CompareMixers, GivesTableAndJson) {
  const TemporaryDirectory folder;
  const auto file = folder / "figures.json";
  const auto result = test::heed(
      "compare --mixers dense,aaren,rala --task algo --task-set function=min --beyond scale=3 --train-steps 12 "
      "--model-dim 32 --model-heads 2 --batch 8 --test-samples 16 --seeds 2 --threads 1 --json=" +
      file.string());
  ASSERT_EQ(result.status, 0) << result.err;
  for (const char* word : {"scale=3", "skipped", "mean squared error", "2 seeds"})
    EXPECT_NE(result.out.find(word), std::string::npos) << word << "\n" << result.out;
  const auto report = json::parse(slurp(file));
  ASSERT_EQ(report["results"].size(), 3u);
  EXPECT_EQ(report["results"][2]["mixer"], "rala");
  EXPECT_EQ(report["results"][0]["seeds"].size(), 2u);
  EXPECT_EQ(report["results"][0]["beyond"][0]["parameters"]["scale"], 3);
}

}  // namespace
}  // namespace heed::train_task_test
