// torch.ops.heed.*: the dispatcher's view of heed, which is Python's too.
#include <torch/library.h>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/kernels/mask_text.h"
#include "heed/names.h"
#include "heed/ops/flash.h"
#include "ops/optional_tensor.h"

namespace heed::ops {
namespace {

using torch::Tensor;

NormalizerKind normalizer_kind(c10::string_view name) {
  const std::vector<std::string> known{"softmax", "sigmoid", "clipped_softmax"};
  for (size_t i = 0; i < known.size(); ++i)
    if (known[i] == std::string_view(name.data(), name.size())) return static_cast<NormalizerKind>(i);
  fail("normalizer {}: {}", std::string_view(name.data(), name.size()), suggest({name.data(), name.size()}, known));
}

AttentionOptions options_of(c10::string_view mask, double scale, double softcap, const OptionalTensor& alibi_slopes,
                            const OptionalTensor& bias, const OptionalTensor& temperature,
                            const OptionalTensor& multiplier, c10::string_view normalizer,
                            const OptionalTensor& sink_logit, const OptionalTensor& sigmoid_bias, double gamma,
                            double zeta, bool gamma_per_key, const OptionalTensor& q_lengths,
                            const OptionalTensor& k_lengths, const OptionalTensor& cu_q, const OptionalTensor& cu_k,
                            const OptionalTensor& prefix_lengths, const OptionalTensor& q_documents,
                            const OptionalTensor& k_documents, const OptionalTensor& q_to_k_head,
                            const OptionalTensor& q_to_v_head, const OptionalTensor& block_offsets,
                            const OptionalTensor& block_columns, at::IntArrayRef block_shape, double dropout,
                            int64_t seed) {
  AttentionOptions o;
  o.mask = kernels::parse_mask({mask.data(), mask.size()});
  o.scale = scale;
  o.softcap = softcap;
  o.alibi_slopes = present(alibi_slopes);
  o.bias = present(bias);
  o.temperature = present(temperature);
  o.multiplier = present(multiplier);
  o.normalizer = normalizer_kind(normalizer);
  o.sink_logit = present(sink_logit);
  o.sigmoid_bias = present(sigmoid_bias);
  o.gamma = gamma;
  o.zeta = zeta;
  o.gamma_per_key = gamma_per_key;
  o.q_lengths = present(q_lengths);
  o.k_lengths = present(k_lengths);
  o.cu_q = present(cu_q);
  o.cu_k = present(cu_k);
  o.prefix_lengths = present(prefix_lengths);
  o.q_documents = present(q_documents);
  o.k_documents = present(k_documents);
  o.q_to_k_head = present(q_to_k_head);
  o.q_to_v_head = present(q_to_v_head);
  o.dropout = dropout;
  o.seed = uint64_t(seed);
  const auto offsets = present(block_offsets), columns = present(block_columns);
  require(offsets.has_value() == columns.has_value(), "block list: block_offsets and block_columns are given together");
  if (offsets) {
    require(block_shape.size() == 4, "block_shape has {} entries: [batch, heads, query_block, key_block] is accepted",
            block_shape.size());
    o.blocks = BlockListTensors{*offsets, *columns, block_shape[0], block_shape[1], block_shape[2], block_shape[3]};
  }
  return o;
}

template <class... Terms>
std::tuple<Tensor, Tensor> flash_autograd(const Tensor& q, const Tensor& k, const Tensor& v, Terms... terms) {
  const auto result = attention_with_lse(q, k, v, options_of(terms...));
  return {result.out, result.lse};
}

/// CPU and Meta: below autograd. Shapes come from the same place as values.
template <class... Terms>
std::tuple<Tensor, Tensor> flash_forward(const Tensor& q, const Tensor& k, const Tensor& v, Terms... terms) {
  FlashCall call(q, k, v, options_of(terms...));
  call.forward();
  return {call.out, call.lse};
}

template <class Function>
struct WithTerms;
template <class Result, class... Terms>
struct WithTerms<Result(Terms...)> {
  static std::tuple<Tensor, Tensor> autograd(const Tensor& q, const Tensor& k, const Tensor& v, Terms... terms) {
    return flash_autograd<Terms...>(q, k, v, terms...);
  }
  static std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v, Terms... terms) {
    return flash_forward<Terms...>(q, k, v, terms...);
  }
};
using Flash = WithTerms<decltype(options_of)>;

}  // namespace
}  // namespace heed::ops

TORCH_LIBRARY(heed, library) {
  library.def(
      "flash(Tensor q, Tensor k, Tensor v, str mask='', float scale=0., float softcap=0., Tensor? alibi_slopes=None, "
      "Tensor? bias=None, "
      "Tensor? temperature=None, Tensor? multiplier=None, str normalizer='softmax', Tensor? sink_logit=None, Tensor? "
      "sigmoid_bias=None, "
      "float gamma=0., float zeta=1., bool gamma_per_key=False, Tensor? q_lengths=None, Tensor? k_lengths=None, "
      "Tensor? cu_q=None, Tensor? "
      "cu_k=None, "
      "Tensor? prefix_lengths=None, Tensor? q_documents=None, Tensor? k_documents=None, Tensor? q_to_k_head=None, "
      "Tensor? q_to_v_head=None, "
      "Tensor? block_offsets=None, Tensor? block_columns=None, int[] block_shape=[], float dropout=0., int seed=0) -> "
      "(Tensor out, Tensor lse)");
}
TORCH_LIBRARY_IMPL(heed, Autograd, library) { library.impl("flash", &heed::ops::Flash::autograd); }
TORCH_LIBRARY_IMPL(heed, CPU, library) { library.impl("flash", &heed::ops::Flash::forward); }
TORCH_LIBRARY_IMPL(heed, Meta, library) { library.impl("flash", &heed::ops::Flash::forward); }
