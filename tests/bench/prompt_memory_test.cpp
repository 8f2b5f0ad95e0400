// What a long prompt holds at most: weights, cache, and what one chunk takes on its way through the model.
#include <gtest/gtest.h>

#include "bench/memory_meter.h"
#include "heed/assets.h"
#include "heed/cache/session.h"
#include "heed/checkpoint/language_model.h"

namespace heed::bench::prompt_memory_test {
namespace {

TEST(PromptMemory, StaysNearWeightsCacheAndOneChunk) {
  const auto lm = checkpoint::load_language_model(find_asset("tiny-lm"));
  const auto shape = cache::shape_of(lm.model->config());
  int64_t weights = 0;
  for (const auto& parameter : lm.model->parameters()) weights += int64_t(parameter.nbytes());
  const auto tokens = torch::arange(8192, torch::kInt64).remainder(251).unsqueeze(0);
  struct Held {
    int64_t peak, cache;
  };
  const auto prefill = [&](const char* name, const nlohmann::json& settings, int64_t length) {
    const MemoryMeter meter;
    cache::Session session(lm.model, cache::make_policy(name, settings, shape));
    session.prefill(tokens.narrow(1, 0, length));
    const int64_t held = session.cache_bytes();
    session.finish_prompt();
    return Held{meter.peak(), std::max(held, session.cache_bytes())};
  };
  const auto one = prefill("full", {}, 512);
  const int64_t chunk = one.peak - one.cache;
  const std::vector<std::pair<const char*, nlohmann::json>> policies{
      {"full", {}},
      {"streaming_llm", {}},
      {"minference", {{"columns", 512}, {"diagonals", 1536}}},
      {"h2o", {}},
      {"retrieval_attention", {{"samples", 64}}},
  };
  for (const auto& [name, settings] : policies) {
    const auto held = prefill(name, settings, tokens.size(1));
    EXPECT_LE(double(weights + held.peak), 1.3 * double(weights + held.cache + chunk)) << name;
  }
}

}  // namespace
}  // namespace heed::bench::prompt_memory_test
