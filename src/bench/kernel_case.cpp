#include "heed/bench/kernel_case.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <random>
#include <sstream>

#include "heed/error.h"
#include "heed/kernels/mask_text.h"

namespace heed::bench {

using kernels::DType;
using Call = KernelCase::Call;

std::string KernelCase::kernel() const {
  if (call == Call::decode) return "decode";
  if (call == Call::scores) return "slot_scores";
  if (call == Call::bounds) return "page_bounds";
  if (is_chunk()) return call < Call::delta_chunk ? "linear_chunk" : "delta_chunk";
  if (is_scan()) return is_selective_scan() ? "selective_scan" : "softmax_scan";
  if (around) return "neighborhood";
  return pattern.empty() ? "flash" : "block_sparse";
}

std::string KernelCase::id() const {
  return fmt::format("{} {} {} Hq={} Hkv={} N={} M={} D={}", kernel(), name, name_of(dtype), q_heads, kv_heads, queries,
                     keys, d);
}

bool KernelCase::matches(const std::string& filter) const {
  const std::string text = fmt::format(" {} ", id());
  std::istringstream words(filter);
  for (std::string word; words >> word;) {
    // A number must end where the word does: N=4096 is not N=40960, D=64 is not D=640.
    const bool number = word.find('=') != std::string::npos;
    if (text.find(number ? fmt::format(" {} ", word) : word) == std::string::npos) return false;
  }
  return true;
}

int64_t KernelCase::pairs() const {
  if (around) return batch * q_heads * kernels::visible_pairs(*around);
  kernels::FlashParams p;
  p.q.size = {batch, q_heads, queries, d};
  p.k.size = p.v.size = {batch, kv_heads, keys, d};
  p.mask = kernels::parse_mask(mask);
  if (pattern.empty()) return kernels::visible_pairs(p);
  const OwnedBlockList owned(pattern, queries, keys, block);
  p.blocks = &owned.list;
  return kernels::visible_pairs(p);
}

double KernelCase::useful_in_tiles(bool whole) const {
  if (!around) return 1;
  const auto tiling = kernels::neighborhood_tiling(*around);
  return static_cast<double>(kernels::visible_pairs(*around)) /
         static_cast<double>(whole ? tiling.tile_pairs : tiling.part_pairs);
}

namespace {

/// Useful operations a token of a head: `pair` products with tokens not after it, of which `strict` leave out itself,
/// and `state` products of the size of the state.
double chunk_flops(double chunk, double d, double pair, double strict, double state) {
  return 2 * d * ((pair - strict) * (chunk + 1) / 2 + strict * (chunk - 1) / 2) + 2 * d * d * state;
}

}  // namespace

double KernelCase::flops() const {
  if (is_chunk()) {
    // The last chunk may be shorter, which changes little; a single token is a step, which has no pairs but its own.
    const auto chunk = static_cast<double>(std::min<int64_t>(queries, decay == "channel" ? 16 : 64));
    const auto of = [&](double pair, double strict, double state) {
      return chunk_flops(chunk, static_cast<double>(d), pair, strict, state) *
             static_cast<double>(batch * q_heads * queries);
    };
    if (call == Call::linear_chunk) return of(2, 0, 2);
    if (call == Call::linear_chunk_backward) return of(5, 0, 5);
    return call == Call::delta_chunk ? of(4, 2, 3) : of(11, 6, 8);
  }
  if (is_scan()) {
    const double each = is_selective_scan() ? 1 : call == Call::softmax_scan ? 4 : 8;
    return each * static_cast<double>(batch * q_heads * queries) * static_cast<double>(d);
  }
  const double products = call == Call::backward ? 5
                          : call == Call::scores ? 1
                          : call == Call::bounds ? 2.0 / static_cast<double>(block)
                                                 : 2;
  return products * 2 * static_cast<double>(d) * static_cast<double>(pairs());
}

double KernelCase::kv_bytes() const {
  if (is_scan()) return static_cast<double>(batch * q_heads * keys * d) * static_cast<double>(size_of(dtype));
  const double rows = call == Call::scores ? 1 : call == Call::bounds ? 2.0 / static_cast<double>(block) : 2;
  return rows * static_cast<double>(batch * kv_heads * keys * d) * static_cast<double>(size_of(dtype));
}

OwnedBlockList::OwnedBlockList(const std::string& pattern, int64_t queries, int64_t keys, int64_t block) {
  const bool dense = pattern.starts_with("random ");
  require(pattern == "butterfly" || pattern == "random" || dense,
          "block pattern {}: butterfly, random or a density as in 'random 0.05' is accepted", pattern);
  const double density = dense ? std::stod(pattern.substr(7)) : 0;
  require(density >= 0 && density <= 1, "block pattern {}: a density of 0 to 1 is accepted", pattern);
  const int64_t query_blocks = (queries + block - 1) / block, key_blocks = (keys + block - 1) / block;
  std::mt19937_64 random(20220527);
  offsets.push_back(0);
  for (int64_t row = 0; row < query_blocks; ++row) {
    std::vector<int32_t> seen{static_cast<int32_t>(row)};
    if (pattern == "butterfly") {
      for (int64_t bit = 1; bit < static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(key_blocks))); bit *= 2)
        seen.push_back(static_cast<int32_t>(row ^ bit));
    } else if (dense) {
      const auto count = static_cast<size_t>(std::lround(density * static_cast<double>(key_blocks)));
      std::vector<int32_t> all(key_blocks);
      std::iota(all.begin(), all.end(), 0);
      std::swap(all[0], all[std::min(row, key_blocks - 1)]);  // the own block
      for (size_t taken = 1; taken < count; ++taken)
        std::swap(all[taken], all[taken + random() % (all.size() - taken)]);
      seen.assign(all.begin(), all.begin() + static_cast<int64_t>(std::max<size_t>(count, 1)));
    } else {
      for (int other = 0; other < 8; ++other)
        seen.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(key_blocks)));
    }
    std::erase_if(seen, [&](int32_t j) { return j >= key_blocks; });
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    columns.insert(columns.end(), seen.begin(), seen.end());
    offsets.push_back(static_cast<int64_t>(columns.size()));
  }
  list = {offsets.data(), columns.data(), 1, 1, query_blocks, key_blocks, block, block};
}

namespace {

KernelCase flash(Call call, const char* name, DType dtype, int64_t d, int64_t length, const char* mask = "",
                 const char* pattern = "") {
  KernelCase c{.call = call, .name = name, .dtype = dtype, .d = d, .mask = mask};
  c.queries = c.keys = length;
  c.pattern = pattern;
  return c;
}

KernelCase decode(DType dtype, int64_t kv_heads, int64_t group, int64_t keys, int64_t d) {
  KernelCase c{.call = Call::decode, .name = "forward", .dtype = dtype, .d = d, .mask = "causal"};
  c.kv_heads = kv_heads;
  c.q_heads = kv_heads * group;
  c.queries = 1;
  c.keys = keys;
  return c;
}

/// The scores of the same keys, or the bounds of their pages of 16.
KernelCase selection(Call call, DType dtype, int64_t kv_heads, int64_t group, int64_t keys, int64_t d) {
  KernelCase c = decode(dtype, kv_heads, group, keys, d);
  c.call = call;
  c.mask = "";
  if (call == Call::bounds) c.block = 16;
  return c;
}

KernelCase beside(KernelCase c, KernelCase::Compared compared, const KernelCase& partner) {
  c.compared = compared;
  c.partner = partner.id();
  return c;
}

KernelCase scan(Call call, const char* name, int64_t channels, int64_t width, int64_t tokens) {
  KernelCase c{.call = call, .name = name, .d = width};
  c.q_heads = channels;
  c.kv_heads = call == Call::softmax_scan || call == Call::softmax_scan_backward ? channels : 1;
  c.queries = c.keys = tokens;
  return c;
}

/// Both scans at a length of reference and, by time a token, at others; their backward passes; a step.
std::vector<KernelCase> scan_cases(int64_t channels, int64_t states, const std::vector<int64_t>& lengths) {
  using Compared = KernelCase::Compared;
  std::vector<KernelCase> cases;
  const auto selective = scan(Call::selective_scan, "forward", channels, states, lengths[0]);
  const auto softmax = scan(Call::softmax_scan, "forward", 8, 64, lengths[0]);
  cases.push_back(selective);
  cases.push_back(beside(scan(Call::selective_scan_backward, "backward", channels, states, lengths[0]),
                         Compared::by_time, selective));
  cases.push_back(scan(Call::selective_scan, "step forward", channels, states, 1));
  cases.push_back(softmax);
  cases.push_back(beside(scan(Call::softmax_scan_backward, "backward", 8, 64, lengths[0]), Compared::by_time, softmax));
  cases.push_back(scan(Call::softmax_scan, "step forward", 8, 64, 1));
  // A quarter of the channels, so that the longest fits any machine's memory.
  const auto from = scan(Call::selective_scan, "forward", channels / 4, states, lengths[1]),
             softmax_from = scan(Call::softmax_scan, "forward", 8, 64, lengths[1]);
  cases.push_back(from), cases.push_back(softmax_from);
  for (size_t i = 2; i < lengths.size(); ++i) {
    cases.push_back(
        beside(scan(Call::selective_scan, "forward", channels / 4, states, lengths[i]), Compared::by_work, from));
    cases.push_back(beside(scan(Call::softmax_scan, "forward", 8, 64, lengths[i]), Compared::by_work, softmax_from));
  }
  return cases;
}

KernelCase chunk(Call call, const std::string& decay, int64_t d, int64_t tokens) {
  const bool backward = call == Call::linear_chunk_backward || call == Call::delta_chunk_backward;
  KernelCase c{.call = call, .d = d};
  c.name = fmt::format("{}{}{}", tokens == 1 ? "step " : "",
                       decay.empty()                        ? ""
                       : decay == KernelCase::kCoefficients ? decay + " "
                                                            : decay + " decay ",
                       backward ? "backward" : "forward");
  c.queries = c.keys = tokens;
  c.decay = decay;
  return c;
}

/// Every kind of decay; steps; time a token at other lengths; linear attention beside exact attention, whose case is
/// given.
std::vector<KernelCase> chunk_cases(const std::vector<int64_t>& sizes, int64_t tokens,
                                    const std::vector<int64_t>& lengths, const KernelCase& exact) {
  using Compared = KernelCase::Compared;
  std::vector<KernelCase> cases;
  for (const int64_t d : sizes) {
    cases.push_back(chunk(Call::linear_chunk, "scalar", d, tokens));
    cases.push_back(chunk(Call::linear_chunk_backward, "scalar", d, tokens));
    cases.push_back(chunk(Call::linear_chunk, "channel", d, tokens));
    cases.push_back(chunk(Call::linear_chunk_backward, "channel", d, tokens));
    cases.push_back(chunk(Call::delta_chunk, "", d, tokens));
    cases.push_back(chunk(Call::delta_chunk_backward, "", d, tokens));
    cases.push_back(chunk(Call::delta_chunk, "scalar", d, tokens));
  }
  cases.push_back(chunk(Call::linear_chunk, "constant", sizes[0], tokens));
  cases.push_back(chunk(Call::linear_chunk, KernelCase::kCoefficients, sizes[0], tokens));
  cases.push_back(chunk(Call::linear_chunk_backward, KernelCase::kCoefficients, sizes[0], tokens));
  cases.push_back(chunk(Call::linear_chunk, "scalar", sizes[0], 1));
  cases.push_back(chunk(Call::delta_chunk, "scalar", sizes[0], 1));
  cases.push_back(beside(chunk(Call::linear_chunk, "", sizes[0], exact.queries), Compared::by_time, exact));
  const std::pair<Call, const char*> kinds[] = {
      {Call::linear_chunk, "scalar"}, {Call::linear_chunk, "channel"}, {Call::delta_chunk, "scalar"}};
  for (const auto& [call, decay] : kinds) {
    const auto from = chunk(call, decay, sizes[0], lengths[0]);
    cases.push_back(from);
    for (size_t i = 1; i < lengths.size(); ++i)
      cases.push_back(beside(chunk(call, decay, sizes[0], lengths[i]), Compared::by_work, from));
  }
  return cases;
}

/// `sizes` and `window` an axis: "13x13 near 256x256 forward".
KernelCase near(Call call, DType dtype, const std::vector<int64_t>& sizes, const std::vector<int64_t>& window,
                const std::vector<int64_t>& stride = {}) {
  kernels::Neighborhood around;
  around.rank = static_cast<int>(sizes.size());
  for (size_t a = 0; a < sizes.size(); ++a) around.axes[a] = {sizes[a], window[a], stride.empty() ? 1 : stride[a]};
  KernelCase c{.call = call, .dtype = dtype};
  const std::string strides = stride.empty() ? "" : fmt::format(" by {}", fmt::join(stride, "x"));
  c.name = fmt::format("{} near {}{} {}", fmt::join(window, "x"), fmt::join(sizes, "x"), strides,
                       call == Call::backward ? "backward" : "forward");
  c.queries = c.keys = around.tokens();
  c.around = around;
  return c;
}

/// Lists of blocks at rising densities beside dense attention of one head, the first of them.
std::vector<KernelCase> density_cases(int64_t tokens, const std::vector<const char*>& densities) {
  const auto one_head = [&](const std::string& name, const std::string& pattern) {
    auto c = flash(Call::forward, name.c_str(), DType::f32, 64, tokens, "", pattern.c_str());
    c.q_heads = c.kv_heads = 1;
    return c;
  };
  std::vector<KernelCase> cases{one_head("forward", "")};
  for (const char* density : densities)
    cases.push_back(beside(one_head(fmt::format("random {} forward", density), fmt::format("random {}", density)),
                           KernelCase::Compared::by_work, cases[0]));
  return cases;
}

std::vector<KernelCase> small_cases() {
  const auto small = [](KernelCase c) {
    c.q_heads = c.kv_heads = 2;
    return c;
  };
  const auto dense = small(flash(Call::forward, "causal forward", DType::f32, 64, 512, "causal"));
  const auto window = small(flash(Call::forward, "window 64 forward", DType::f32, 64, 1024, "causal & window(64)"));
  const auto half = decode(DType::f16, 2, 4, 4096, 64);
  std::vector<KernelCase> cases{
      small(flash(Call::forward, "forward", DType::f32, 64, 512)),
      dense,
      small(flash(Call::forward, "causal forward", DType::bf16, 40, 333, "causal")),
      small(flash(Call::backward, "backward", DType::f32, 64, 256)),
      small(flash(Call::backward, "causal backward", DType::f32, 64, 256, "causal")),
      beside(window, KernelCase::Compared::by_work, dense),
      small(flash(Call::forward, "butterfly forward", DType::f32, 64, 512, "", "butterfly")),
      small(flash(Call::backward, "butterfly backward", DType::f32, 64, 512, "", "butterfly")),
      half,
      beside(decode(DType::i8, 2, 4, 4096, 64), KernelCase::Compared::by_time, half),
      selection(Call::scores, DType::f16, 2, 4, 4096, 64),
      selection(Call::bounds, DType::f16, 2, 4, 4096, 64),
  };
  cases.push_back(small(near(Call::forward, DType::f32, {32, 32}, {7, 7})));
  cases.push_back(small(near(Call::backward, DType::f32, {8, 16, 16}, {3, 5, 5}, {1, 2, 2})));
  for (auto& c : density_cases(1024, {"0.25"})) cases.push_back(std::move(c));
  for (auto& c : scan_cases(256, 16, {512, 256, 1024})) cases.push_back(std::move(c));
  for (auto& c : chunk_cases({32}, 512, {256, 1024}, dense)) cases.push_back(std::move(c));
  return cases;
}

}  // namespace

std::vector<KernelCase> kernel_cases(bool quick) {
  if (quick) return small_cases();
  using Compared = KernelCase::Compared;
  std::vector<KernelCase> cases;
  for (const int64_t d : {64, 128}) cases.push_back(flash(Call::forward, "forward", DType::f32, d, 4096));
  for (const int64_t d : {64, 128})
    cases.push_back(flash(Call::forward, "causal forward", DType::f32, d, 4096, "causal"));
  for (const DType type : {DType::bf16, DType::f16}) cases.push_back(flash(Call::forward, "forward", type, 128, 4096));
  for (const DType type : {DType::bf16, DType::f16})
    cases.push_back(flash(Call::forward, "causal forward", type, 128, 4096, "causal"));
  for (const int64_t d : {40, 72, 80, 96, 192, 256})
    cases.push_back(flash(Call::forward, "forward", DType::f32, d, 2048));
  for (const int64_t d : {64, 128})
    cases.push_back(beside(flash(Call::forward, "window 256 forward", DType::f32, d, 16384, "causal & window(256)"),
                           Compared::by_work, flash(Call::forward, "forward", DType::f32, d, 4096)));
  for (const int64_t d : {64, 128}) cases.push_back(flash(Call::backward, "backward", DType::f32, d, 4096));
  for (const int64_t d : {64, 128})
    cases.push_back(flash(Call::backward, "causal backward", DType::f32, d, 4096, "causal"));
  for (const char* pattern : {"butterfly", "random"}) {
    const std::string name = pattern;
    cases.push_back(flash(Call::forward, (name + " forward").c_str(), DType::f32, 64, 4096, "", pattern));
    cases.push_back(flash(Call::backward, (name + " backward").c_str(), DType::f32, 64, 4096, "", pattern));
  }
  for (auto& c : density_cases(16384, {"0.05", "0.1", "0.25", "0.5"})) cases.push_back(std::move(c));
  const auto images = [&](Call call, DType dtype, const std::vector<int64_t>& sizes, const std::vector<int64_t>& window,
                          const std::vector<int64_t>& stride = {}) {
    auto c = near(call, dtype, sizes, window, stride);
    c.q_heads = c.kv_heads = 2;
    cases.push_back(std::move(c));
  };
  images(Call::forward, DType::f32, {256, 256}, {13, 13});
  images(Call::forward, DType::bf16, {256, 256}, {13, 13});
  images(Call::backward, DType::f32, {256, 256}, {13, 13});
  images(Call::forward, DType::f32, {64, 64}, {7, 7});
  images(Call::forward, DType::f32, {65536}, {255});
  images(Call::forward, DType::f32, {16, 64, 64}, {5, 7, 7});
  images(Call::forward, DType::f32, {256, 256}, {16, 16}, {8, 8});
  for (const int64_t group : {1, 4, 8}) cases.push_back(decode(DType::f16, 8, group, 16384, 128));
  for (const int64_t group : {1, 4})
    cases.push_back(
        beside(decode(DType::i8, 8, group, 16384, 128), Compared::by_time, decode(DType::f16, 8, group, 16384, 128)));
  for (const DType type : {DType::f32, DType::bf16})
    for (const int64_t group : {1, 4}) cases.push_back(decode(type, 8, group, 16384, 128));
  for (const Call call : {Call::scores, Call::bounds})
    for (const int64_t group : {1, 4}) cases.push_back(selection(call, DType::f16, 8, group, 16384, 128));
  for (auto& c : scan_cases(1024, 16, {8192, 1024, 16384, 262144})) cases.push_back(std::move(c));
  const auto exact = flash(Call::forward, "causal forward", DType::f32, 64, 16384, "causal");
  cases.push_back(exact);
  for (auto& c : chunk_cases({64, 128}, 8192, {1024, 16384, 262144}, exact)) cases.push_back(std::move(c));
  return cases;
}

}  // namespace heed::bench
