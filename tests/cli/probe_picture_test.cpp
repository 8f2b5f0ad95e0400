// heed probe picture and heed probe features.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/heed_command.h"
#include "heed/formats/picture.h"

namespace heed::probe_picture_test {
namespace {

using nlohmann::json;

const std::string kFixtures = std::string(HEED_TEST_SOURCE_DIR);
const std::string kPhoto = kFixtures + "/formats/fixtures/halves.jpg";
const std::string kVit = kFixtures + "/checkpoint/fixtures/encoders/vit_classifier";

TEST(ProbePicture, ShowsWhereAModelLooks) {
  const TemporaryDirectory folder;
  const auto png = folder / "attention.png", html = folder / "attention.html";
  const auto result = test::heed("probe picture " + kPhoto + " --threads 1 --json --model " + kVit + " --out " +
                                 png.string() + " --html " + html.string());
  ASSERT_EQ(result.status, 0) << result.err;
  const auto report = json::parse(result.out);
  const auto rows = report["rollout"].size(), columns = report["rollout"][0].size();
  EXPECT_GT(rows, 1u);
  EXPECT_FALSE(report["classes"].empty());
  for (const auto& layer : report["heads"])
    for (const auto& head : layer) {
      EXPECT_EQ(head.size(), rows);
      EXPECT_EQ(head[0].size(), columns);
    }
  const auto picture = formats::read_picture(png);
  EXPECT_EQ(picture.height, 16);
  EXPECT_EQ(picture.width, 32);
  EXPECT_NE(slurp(html).find("data:image/png;base64,iVBORw0KGgo"), std::string::npos);
  const auto table = test::heed("probe picture " + kPhoto + " --threads 1 --layer 0 --head 1 --model " + kVit);
  ASSERT_EQ(table.status, 0) << table.err;
  EXPECT_NE(table.out.find("most weight on row"), std::string::npos) << table.out;
}

/// A model that `train --task` wrote, of images of one channel.
TEST(ProbePicture, ShowsModelsThatWereTrainedHere) {
  const TemporaryDirectory folder;
  const std::string train =
      "train --task digits --dim 16 --heads 2 --hidden 16 --layers 1 --steps 2 --threads 1 "
      "--test-samples 8 --json --out ";
  const auto vit = (folder / "vit").string(), pyramid = (folder / "pyramid").string();
  ASSERT_EQ(test::heed(train + vit).status, 0);
  const auto shown = test::heed("probe picture " + kPhoto + " --threads 1 --json --model " + vit);
  ASSERT_EQ(shown.status, 0) << shown.err;
  const auto report = json::parse(shown.out);
  EXPECT_EQ(report["rollout"].size(), 4u);  // 8 x 8 pixels in patches of 2
  EXPECT_EQ(report["heads"][0].size(), 2u);
  double sum = 0;
  for (const auto& row : report["heads"][0][0])
    for (const auto& weight : row) sum += weight.get<double>();
  EXPECT_NEAR(sum, 1, 1e-5);
  EXPECT_EQ(report["classes"].size(), 5u);
  ASSERT_EQ(test::heed(train + pyramid + " --backbone pyramid").status, 0);
  const auto other = test::heed("probe picture " + kPhoto + " --threads 1 --model " + pyramid);
  EXPECT_EQ(other.status, 2);
  EXPECT_NE(other.err.find("backbone pyramid"), std::string::npos) << other.err;
}

TEST(ProbePicture, BadInputIsOneClearLine) {
  for (const auto& [options, word] :
       {std::pair<std::string, std::string>{kVit + "/config.json --model " + kVit, "PNG and JPEG"},
        {"/nowhere.png --model " + kVit, "/nowhere.png"},
        {kPhoto + " --head 1 --model " + kVit, "--layer"},
        {kPhoto + " --layer 99 --model " + kVit, "--layer 99"},
        {kPhoto, "--model"}}) {
    const auto result = test::heed("probe picture " + options);
    EXPECT_EQ(result.status, 2) << options;
    EXPECT_NE(result.err.find(word), std::string::npos) << options << ": " << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

TEST(ProbeFeatures, ReadsClassesFromFrozenTokens) {
  const auto result = test::heed(
      "probe features --json --threads 1 --encoder-steps 20 --steps 60 --layers 1 --dim 16 --heads 2 --queries 4 "
      "--samples 200");
  ASSERT_EQ(result.status, 0) << result.err;
  const auto report = json::parse(result.out);
  ASSERT_EQ(report["probes"].size(), 3u);
  EXPECT_EQ(report["probes"][2]["probe"], "efficient");
  EXPECT_GT(report["probes"][2]["map_overlap"], 0);
  for (const auto& row : report["probes"]) EXPECT_GT(row["accuracy"], 0.2) << row.dump();  // a guess: 0.1
  const auto wrong = test::heed("probe features --task mqar");
  EXPECT_EQ(wrong.status, 2);
  EXPECT_NE(wrong.err.find("images"), std::string::npos) << wrong.err;
}

}  // namespace
}  // namespace heed::probe_picture_test
