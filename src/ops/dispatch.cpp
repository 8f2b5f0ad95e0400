#include "heed/ops/dispatch.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "heed/error.h"
#include "heed/kernels/decode.h"
#include "heed/kernels/runtime.h"

namespace heed::ops {
namespace {

/// More query rows than this per key are better served by tiles of queries.
constexpr int64_t kMostDecodeRows = 16;
/// Shorter caches are not worth a work plan.
constexpr int64_t kLeastDecodeKeys = 128;

bool is_set(const char* variable, const char* value) {
  const char* text = std::getenv(variable);
  return text && std::strstr(text, value) != nullptr;
}

/// What decode can't express at all.
std::string outside_decode(const FlashCall& call) {
  const auto& o = call.options;
  if (o.normalizer != NormalizerKind::softmax) return "softmax only";
  if (o.bias || o.temperature || o.multiplier) return "no bias, temperature or multiplier tensors";
  if (o.dropout > 0) return "no dropout";
  if (o.blocks) return "no block lists";
  if (o.cu_q || o.q_lengths) return "no packed sequences, no query lengths";
  if (o.prefix_lengths || o.q_documents) return "no prefix lengths or document ids";
  if (o.q_to_k_head || o.q_to_v_head || call.k.size(1) != call.v.size(1) || call.q.size(1) % call.k.size(1) != 0)
    return "even head groups only";
  if (call.k.size(2) == 0 || call.q.size(2) == 0) return "nothing to decode";
  return "";
}

std::string decode_why_not(const FlashCall& call) {
  if (kernels::use_reference()) return "HEED_BACKEND=reference";
  if (call.q.scalar_type() == torch::kFloat64) return "float64 goes to the reference";
  if (const int64_t rows = call.q.size(2); rows > kMostDecodeRows)
    return fmt::format("{} queries, {} at most", rows, kMostDecodeRows);
  if (call.k.size(2) < kLeastDecodeKeys) return fmt::format("{} keys, {} at least", call.k.size(2), kLeastDecodeKeys);
  return outside_decode(call);
}

std::string why_reference(const torch::Tensor& input) {
  if (kernels::use_reference()) return "HEED_BACKEND=reference";
  return input.scalar_type() == torch::kFloat64 ? "float64 goes to the reference" : "";
}

std::string flash_why_not(const FlashCall& call) { return why_reference(call.q); }

void print_choice(const char* call, const torch::Tensor& input, const char* choice, const std::string& why) {
  fmt::print(stderr, "heed: {} [{}] {} -> {}{}\n", call, fmt::join(input.sizes(), ", "), toString(input.scalar_type()),
             choice, why.empty() ? "" : fmt::format(" ({})", why));
}

template <void (*kernel)(const kernels::FlashParams&)>
void run_flash(FlashCall& call) {
  kernels::BlockList blocks;
  kernel(call.params(blocks));
}

}  // namespace

void run_decode(FlashCall& call) {
  const auto why = outside_decode(call);
  require(why.empty(), "decode: {}", why);
  const auto& o = call.options;
  kernels::DecodeParams p;
  p.q = view_of(call.q);
  p.k.data = view_of(call.k);
  p.v.data = view_of(call.v);
  p.out = view_of(call.out);
  p.lse = view_of(call.lse);
  p.num_kv_heads = call.k.size(1);
  if (o.k_lengths) p.lengths = o.k_lengths->data_ptr<int64_t>();
  p.scale = o.scale;
  p.mask = o.mask;
  p.softcap = o.softcap;
  if (o.alibi_slopes) p.alibi_slopes = o.alibi_slopes->data_ptr<float>();
  torch::Tensor sink;
  if (o.sink_logit) {
    sink = o.sink_logit->to(torch::kFloat32).reshape({1, -1, 1, 1}).expand({1, call.q.size(1), 1, 1}).contiguous();
    p.sink_logit = {sink.data_ptr<float>(), {1, call.q.size(1), 1, 1}, {call.q.size(1), 1, 1, 1}};
  }
  const bool wide = call.q.scalar_type() == torch::kFloat64;
  wide || kernels::use_reference() ? kernels::reference::decode(p) : kernels::decode(p);
}

const std::vector<Implementation>& implementations() {
  static const std::vector<Implementation> list{
      {"decode", decode_why_not, run_decode},
      {"flash", flash_why_not, run_flash<kernels::flash_forward>},
      {"reference", [](const FlashCall&) { return std::string(); }, run_flash<kernels::reference::flash_forward>},
  };
  return list;
}

void dispatch(FlashCall& call) {
  const bool verbose = is_set("HEED_VERBOSE", "dispatch");
  std::string skipped;
  for (const auto& implementation : implementations()) {
    const auto why = implementation.why_not(call);
    if (!why.empty()) {
      skipped += fmt::format("{}{}: {}", skipped.empty() ? "" : "; ", implementation.name, why);
      continue;
    }
    if (verbose) print_choice("attention q", call.q, implementation.name, skipped);
    const bool asked = kernels::use_reference() || call.q.scalar_type() == torch::kFloat64;
    require(asked || std::strcmp(implementation.name, "reference") != 0 || !is_set("HEED_STRICT", "1"),
            "HEED_STRICT=1: no fast implementation: {}", skipped);
    implementation.run(call);
    return;
  }
}

void show_dispatch(const char* kernel, const torch::Tensor& input) {
  if (!is_set("HEED_VERBOSE", "dispatch")) return;
  const auto why = why_reference(input);
  print_choice(kernel, input, why.empty() ? kernel : "reference", why);
}

}  // namespace heed::ops
