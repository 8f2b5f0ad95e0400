// Time and memory against length and state.
#include <fmt/format.h>

#include "bench/units.h"
#include "heed/attention.h"
#include "heed/mixers/token_mixer.h"
#include "heed/nn/generator.h"
#include "heed/ops/linear_chunk.h"
#include "results/linear/experiments.h"
#include "results/timing.h"

namespace heed::results::linear {
namespace {

using torch::Tensor;

/// Linear attention that keeps every prefix sum, a state a token.
Tensor prefix_sums(const Tensor& q, const Tensor& k, const Tensor& v) {
  const auto states = (k.unsqueeze(4) * v.unsqueeze(3)).cumsum(2);
  return torch::matmul(q.unsqueeze(3), states).squeeze(3);
}

Tensor inputs(at::IntArrayRef sizes) { return torch::randn(sizes, nn::seeded_generator(1), torch::kFloat32); }

std::string rate_text(int64_t tokens, double seconds) { return fmt::format("{:.0f}k", double(tokens) / seconds / 1e3); }

double mixer_seconds(const std::string& name, const nlohmann::json& settings, const Tensor& x,
                     std::optional<Grid> grid = {}) {
  const auto mixer = make_mixer(name, settings);
  MixerInput in;
  in.x = x;
  in.grid = std::move(grid);
  return cost_of([&] { mixer->forward(in); }).seconds;
}

}  // namespace

Experiment constant_speed() {
  const auto run = [](const Report& report) {
    constexpr int64_t kHeads = 4, kSize = 64, kMostPrefixed = 8192;
    const std::vector<int64_t> lengths{1024, 2048, 4096, 8192, 16384, 32768};
    Finding finding;
    finding.setup = fmt::format(
        "Forward of {} heads of {} channels in float32, causal; tokens a second, and the most memory held beside the "
        "inputs. Prefix sums: a state of {} x {} a token, as a cumulative sum makes them (up to {} tokens).",
        kHeads, kSize, kSize, kSize, kMostPrefixed);
    Table table{"",
                {"tokens", "`lightning_attention`, tokens/s", "`flash`, tokens/s", "prefix sums, tokens/s",
                 "lightning, memory", "flash, memory", "prefix sums, memory"},
                {}};
    Figure chunked{"speed of lightning attention", {}}, exact{"speed of flash", {}};
    std::vector<int64_t> prefix_bytes;
    for (const auto length : lengths) {
      report(double(length) / double(2 * lengths.back()), fmt::format("{} tokens", length));
      const auto q = inputs({1, kHeads, length, kSize}), k = inputs({1, kHeads, length, kSize}) / 8,
                 v = inputs({1, kHeads, length, kSize});
      const auto decay = torch::full({kHeads}, -0.05);
      AttentionOptions causal;
      causal.mask = Causal{};
      const auto lightning = cost_of([&] { ops::linear_chunk(q, k, v, decay); });
      const auto flash = cost_of([&] { attention(q, k, v, causal); });
      chunked.values.push_back(double(length) / lightning.seconds);
      exact.values.push_back(double(length) / flash.seconds);
      std::vector<std::string> row{std::to_string(length),
                                   rate_text(length, lightning.seconds),
                                   rate_text(length, flash.seconds),
                                   "-",
                                   bench::bytes_text(lightning.bytes),
                                   bench::bytes_text(flash.bytes),
                                   "-"};
      if (length <= kMostPrefixed) {
        const auto prefixed = cost_of([&] { prefix_sums(q, k, v); });
        row[3] = rate_text(length, prefixed.seconds), row[6] = bench::bytes_text(prefixed.bytes);
        prefix_bytes.push_back(prefixed.bytes);
      }
      table.rows.push_back(row);
    }
    finding.tables.push_back(table);
    const double flat = chunked.values.back() / chunked.values.front(),
                 falling = exact.values.back() / exact.values.front();
    finding.claims = {
        holds("lightning attention is as fast at 32k tokens as at 1k, within 15 %", flat > 0.85,
              fmt::format("{:.2f}x", flat)),
        holds("flash is at least 10 times slower a token", falling < 0.1, fmt::format("{:.3f}x", falling)),
        holds("prefix sums need more than 20 times the memory of their inputs at 8k",
              double(prefix_bytes.back()) > 20 * 3.0 * kHeads * kMostPrefixed * kSize * 4,
              bench::bytes_text(prefix_bytes.back()))};
    return finding;
  };
  return {"constant_speed",
          "Speed that does not depend on length",
          {"lightning_attention"},
          "training and inference at a constant speed whatever the length (arXiv 2401.04658).",
          run};
}

Experiment state_size() {
  const auto run = [](const Report& report) {
    constexpr int64_t kTokens = 2048, kDim = 256;
    const std::vector<int64_t> sizes{16, 32, 64, 128};
    Finding finding;
    finding.setup = fmt::format(
        "Forward of a layer of {} channels over {} tokens, float32, by the size of the state of "
        "a channel.",
        kDim, kTokens);
    Table table{"", {"state", "`mamba`", "`mamba2`"}, {}};
    std::vector<double> scan, chunk;
    const auto x = inputs({1, kTokens, kDim});
    for (const auto size : sizes) {
      report(double(scan.size()) / double(sizes.size()), fmt::format("state of {}", size));
      scan.push_back(mixer_seconds("mamba", {{"dim", kDim}, {"state_dim", size}}, x));
      chunk.push_back(mixer_seconds("mamba2", {{"dim", kDim}, {"state_dim", size}}, x));
      table.rows.push_back({std::to_string(size), bench::time_text(scan.back()), bench::time_text(chunk.back())});
    }
    finding.tables.push_back(table);
    const double more = scan.back() / scan.front(), less = chunk.back() / chunk.front();
    finding.claims = {holds("the scan grows faster with the state than the chunks", more > less,
                            fmt::format("{:.1f}x and {:.1f}x from {} to {}", more, less, sizes.front(), sizes.back())),
                      holds("at the largest state chunks are faster", chunk.back() < scan.back(),
                            fmt::format("{:.1f}x", scan.back() / chunk.back()))};
    return finding;
  };
  return {"state_size",
          "Large states are cheap in chunks",
          {"mamba", "mamba2"},
          "a scan's time grows with the state, that of chunks of matrix products slowly (arXiv 2405.21060).",
          run};
}

Experiment agents() {
  const auto run = [](const Report& report) {
    constexpr int64_t kDim = 64;
    const std::vector<int64_t> sides{16, 32, 64}, agents{2, 4, 7};
    Finding finding;
    finding.setup = fmt::format("Forward of a layer of {} channels and 4 heads over images, float32.", kDim);
    Table table{"", {"cells", "`dense`"}, {}};
    for (const auto side : agents) table.columns.push_back(fmt::format("`agent_attention`, {} agents", side * side));
    std::vector<double> dense, few;
    for (const auto side : sides) {
      const int64_t cells = side * side;
      report(double(cells) / double(2 * sides.back() * sides.back()), fmt::format("{} cells", cells));
      const auto x = inputs({1, cells, kDim});
      const Grid grid{{side, side}};
      dense.push_back(mixer_seconds("dense", {{"dim", kDim}, {"heads", 4}, {"causal", false}}, x, grid));
      std::vector<std::string> row{std::to_string(cells), bench::time_text(dense.back())};
      for (const auto agent_side : agents) {
        const double seconds =
            mixer_seconds("agent_attention", {{"dim", kDim}, {"heads", 4}, {"agent_side", agent_side}}, x, grid);
        if (agent_side == agents.back()) few.push_back(seconds);
        row.push_back(bench::time_text(seconds));
      }
      table.rows.push_back(row);
    }
    finding.tables.push_back(table);
    const double grown = few.back() / few.front(), dense_grown = dense.back() / dense.front();
    finding.claims = {holds("time of 49 agents grows like cells, up to a factor of 1.5", grown < 1.5 * 16,
                            fmt::format("{:.1f}x for 16x the cells; dense {:.1f}x", grown, dense_grown)),
                      holds("at the largest image agents are faster than dense attention", few.back() < dense.back(),
                            fmt::format("{:.1f}x", dense.back() / few.back()))};
    return finding;
  };
  return {"agents",
          "Attention through a few agents",
          {"agent_attention"},
          "softmax attention to and from a few pooled queries is linear in the cells of an image (arXiv 2312.08874).",
          run};
}

Experiment receptive_fields() {
  const auto run = [](const Report& report) {
    constexpr int64_t kDim = 32, kSide = 16, kCells = kSide * kSide;
    constexpr double kLeast = 1e-6;
    const std::vector<int64_t> sides{32, 64, 128};
    const std::vector<std::pair<std::string, nlohmann::json>> kinds{
        {"ss2d", nlohmann::json::object()},
        {"multi_axis_attention", {{"axes", "block"}}},
        {"large_kernel_attention", {{"kernel", 9}, {"dilation", 2}}},
        {"context_mixing_conv", nlohmann::json::object()}};
    Finding finding;
    finding.setup = fmt::format(
        "An untrained layer of {} channels. Seen: cells of a {} x {} image on which the output in the middle depends, "
        "by a gradient of more than {:g} of the largest. Time: forward over images of so many cells, float32.",
        kDim, kSide, kSide, kLeast);
    Table table{"", {"mixer", "seen"}, {}};
    for (const auto side : sides) table.columns.push_back(fmt::format("{} cells", side * side));
    std::vector<double> seen, grown;
    for (const auto& [name, settings] : kinds) {
      report(double(seen.size()) / double(kinds.size()), name);
      auto config = settings;
      config.update({{"dim", kDim}});
      torch::manual_seed(0);
      MixerInput in;
      in.x = inputs({1, kCells, kDim}).requires_grad_();
      in.grid = Grid{{kSide, kSide}};
      make_mixer(name, config)->forward(in).select(1, kCells / 2 + kSide / 2).sum().backward();
      const auto reach = in.x.grad().abs().amax({0, 2});
      seen.push_back((reach > kLeast * reach.max()).to(torch::kFloat64).mean().item<double>());
      std::vector<std::string> row{"`" + name + "`", fmt::format("{:.0f} %", 100 * seen.back())};
      std::vector<double> seconds;
      for (const auto side : sides) {
        seconds.push_back(mixer_seconds(name, config, inputs({1, side * side, kDim}), Grid{{side, side}}));
        row.push_back(bench::time_text(seconds.back()));
      }
      grown.push_back(seconds.back() / seconds.front());
      table.rows.push_back(row);
    }
    finding.tables.push_back(table);
    const double more = double(sides.back() * sides.back()) / double(sides.front() * sides.front());
    const auto shares = [&](size_t other) {
      return fmt::format("{:.0f} and {:.0f} %", 100 * seen[0], 100 * seen[other]);
    };
    finding.claims = {holds("four scans see more than a block", seen[0] > seen[1], shares(1)),
                      holds("they see more than a large kernel", seen[0] > seen[2], shares(2)),
                      holds("they see more than kernels made from the whole image", seen[0] > seen[3], shares(3)),
                      holds("ss2d's time grows like cells, up to a factor of 1.5", grown[0] < 1.5 * more,
                            fmt::format("{:.1f}x for {:g}x the cells", grown[0], more))};
    return finding;
  };
  return {"receptive_fields",
          "What one cell sees",
          {"ss2d"},
          "scans in four directions give every cell the whole image at a cost that is linear in its cells (arXiv "
          "2401.10166).",
          run};
}

}  // namespace heed::results::linear
