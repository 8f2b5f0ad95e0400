#include "heed/nn/core_report.h"

#include "heed/ops/flash.h"

namespace heed::nn {
namespace {

/// Nothing beside the choice of keys tells these weights from those of exact attention.
bool only_selects_keys(const AttentionOptions& o) {
  return o.normalizer == NormalizerKind::softmax && o.scale == 0 && o.softcap == 0 && !o.alibi_slopes && !o.bias &&
         !o.temperature && !o.multiplier && !o.sink_logit && o.dropout == 0;
}

}  // namespace

torch::Tensor attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                        const AttentionOptions& options, CoreReport* report) {
  if (report == nullptr) return heed::attention(q, k, v, options);
  const auto result = attention_with_lse(q, k, v, options);
  const ops::FlashCall call(q, k, v, options);
  kernels::BlockList blocks;
  report->pairs = kernels::visible_pairs(call.params(blocks));
  if (only_selects_keys(options)) report->lse = result.lse;
  return result.out;
}

}  // namespace heed::nn
