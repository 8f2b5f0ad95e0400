#include <sstream>

#include "heed/error.h"
#include "heed/ops/dispatch.h"

namespace heed::ops {
namespace {

std::string shape_of(const torch::Tensor& tensor) {
  std::ostringstream text;
  text << tensor.sizes();
  return text.str();
}

kernels::DType dtype_of(const torch::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case torch::kFloat32:
      return kernels::DType::f32;
    case torch::kFloat16:
      return kernels::DType::f16;
    case torch::kBFloat16:
      return kernels::DType::bf16;
    case torch::kFloat64:
      return kernels::DType::f64;
    case torch::kInt8:
      return kernels::DType::i8;
    default:
      fail("tensor of type {}: float32, float16, bfloat16, float64 or int8 is accepted",
           toString(tensor.scalar_type()));
  }
}

torch::Tensor dense_last_dimension(torch::Tensor tensor, const char* name) {
  require(tensor.defined(), "{} is missing", name);
  require(tensor.dim() == 4, "{} has shape {}: [batch, heads, tokens, head size] is accepted", name, shape_of(tensor));
  require(tensor.device().is_cpu() || tensor.is_meta(), "{} is on {}: the CPU is accepted", name,
          tensor.device().str());
  const bool dense = tensor.size(3) <= 1 || tensor.stride(3) == 1;
  return dense ? tensor : tensor.contiguous();
}

void to_side(std::optional<torch::Tensor>& tensor, torch::ScalarType dtype) {
  if (tensor && !tensor->defined()) tensor.reset();
  if (tensor) tensor = tensor->to(dtype);
}

void to_index(std::optional<torch::Tensor>& tensor, torch::ScalarType dtype, const char* name, int64_t dim) {
  if (tensor && !tensor->defined()) tensor.reset();
  if (!tensor) return;
  require(!torch::isFloatingType(tensor->scalar_type()), "{} has type {}: integers are accepted", name,
          toString(tensor->scalar_type()));
  require(tensor->dim() == dim, "{} has shape {}: {} dimension(s) are accepted", name, shape_of(*tensor), dim);
  tensor = tensor->to(dtype).contiguous();
}

/// [H] (or [1]) as the view [1, H, 1, 1].
kernels::AnyView head_view(const torch::Tensor& per_head) { return view_of(per_head.reshape({1, -1, 1, 1})); }

}  // namespace

kernels::AnyView view_of(const torch::Tensor& tensor) {
  require(tensor.dim() <= 4, "tensor of shape {}: at most 4 dimensions are accepted", shape_of(tensor));
  kernels::AnyView view{tensor.data_ptr(), dtype_of(tensor), {1, 1, 1, 1}, {0, 0, 0, 1}};
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    view.size[d] = tensor.size(d);
    view.stride[d] = tensor.stride(d);
  }
  return view;
}

FlashCall::FlashCall(torch::Tensor q_in, torch::Tensor k_in, torch::Tensor v_in, AttentionOptions options_in)
    : q(dense_last_dimension(std::move(q_in), "q")),
      k(dense_last_dimension(std::move(k_in), "k")),
      v(dense_last_dimension(std::move(v_in), "v")),
      options(std::move(options_in)) {
  require(q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(),
          "q, k, v have types {}, {}, {}: one type is accepted", toString(q.scalar_type()), toString(k.scalar_type()),
          toString(v.scalar_type()));
  require(torch::isFloatingType(q.scalar_type()), "q has type {}: float32, float16, bfloat16 or float64 is accepted",
          toString(q.scalar_type()));
  require(q.size(3) == k.size(3), "q has head size {}, k has {}: equal head sizes are accepted", q.size(3), k.size(3));
  require(k.size(2) == v.size(2), "k has {} tokens, v has {}: equal numbers are accepted", k.size(2), v.size(2));
  require(q.size(0) == k.size(0) && q.size(0) == v.size(0), "q, k, v have batch sizes {}, {}, {}: one size is accepted",
          q.size(0), k.size(0), v.size(0));

  auto& o = options;
  for (auto* side : {&o.alibi_slopes, &o.bias, &o.temperature, &o.multiplier, &o.sink_logit, &o.sigmoid_bias})
    to_side(*side, side_dtype());
  if (o.alibi_slopes) o.alibi_slopes = o.alibi_slopes->to(torch::kFloat32).contiguous();
  require(!o.alibi_slopes || o.alibi_slopes->numel() == q.size(1),
          "alibi_slopes has {} values: {} (one a query head) are accepted",
          o.alibi_slopes ? o.alibi_slopes->numel() : 0, q.size(1));
  to_index(o.q_lengths, torch::kInt64, "q_lengths", 1);
  to_index(o.k_lengths, torch::kInt64, "k_lengths", 1);
  to_index(o.cu_q, torch::kInt64, "cu_q", 1);
  to_index(o.cu_k, torch::kInt64, "cu_k", 1);
  to_index(o.prefix_lengths, torch::kInt64, "prefix_lengths", 1);
  to_index(o.q_documents, torch::kInt32, "q_documents", 2);
  to_index(o.k_documents, torch::kInt32, "k_documents", 2);
  to_index(o.q_to_k_head, torch::kInt32, "q_to_k_head", 1);
  to_index(o.q_to_v_head, torch::kInt32, "q_to_v_head", 1);

  require(o.cu_q.has_value() == o.cu_k.has_value(), "packed sequences: cu_q and cu_k are given together");
  require(!o.cu_q || o.cu_q->numel() == o.cu_k->numel(), "cu_q has {} entries, cu_k has {}: equal numbers are accepted",
          o.cu_q ? o.cu_q->numel() : 0, o.cu_k ? o.cu_k->numel() : 0);
  require(o.q_documents.has_value() == o.k_documents.has_value(),
          "document ids: q_documents and k_documents are given together");
  const int64_t sequences = o.cu_q ? o.cu_q->numel() - 1 : q.size(0);
  for (auto [lengths, name] :
       {std::pair{&o.q_lengths, "q_lengths"}, {&o.k_lengths, "k_lengths"}, {&o.prefix_lengths, "prefix_lengths"}})
    require(!*lengths || (*lengths)->numel() == sequences, "{} has {} entries: {} are accepted", name,
            *lengths ? (*lengths)->numel() : 0, sequences);
  if (o.q_documents) {
    require(o.q_documents->size(0) == q.size(0) && o.q_documents->size(1) == q.size(2) &&
                o.k_documents->size(0) == q.size(0) && o.k_documents->size(1) == k.size(2),
            "documents have shapes {} and {}: [{}, {}] and [{}, {}] are accepted", shape_of(*o.q_documents),
            shape_of(*o.k_documents), q.size(0), q.size(2), k.size(0), k.size(2));
    require(!o.cu_q, "document ids and packed sequences: one of the two is accepted");
  }
  for (auto* map : {&o.q_to_k_head, &o.q_to_v_head})
    require(!*map || (*map)->numel() == q.size(1), "a head map has {} entries: {} (one a query head) are accepted",
            *map ? (*map)->numel() : 0, q.size(1));
}

torch::ScalarType FlashCall::side_dtype() const {
  return q.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
}

void FlashCall::allocate_outputs() {
  out = torch::empty({q.size(0), q.size(1), q.size(2), v.size(3)}, q.options());
  if (has_lse()) lse = torch::empty({q.size(0), q.size(1), q.size(2)}, q.options().dtype(side_dtype()));
}

kernels::FlashParams FlashCall::params(kernels::BlockList& blocks) const {
  kernels::FlashParams p;
  p.q = view_of(q);
  p.k = view_of(k);
  p.v = view_of(v);
  if (out.defined()) p.out = view_of(out);
  if (lse.defined()) p.lse = view_of(lse);
  const auto& o = options;
  p.scale = o.scale;
  if (o.q_to_k_head) p.q_to_k_head = o.q_to_k_head->data_ptr<int32_t>();
  if (o.q_to_v_head) p.q_to_v_head = o.q_to_v_head->data_ptr<int32_t>();
  if (o.q_lengths) p.q_lengths = o.q_lengths->data_ptr<int64_t>();
  if (o.k_lengths) p.k_lengths = o.k_lengths->data_ptr<int64_t>();
  if (o.cu_q) {
    p.cu_q = o.cu_q->data_ptr<int64_t>();
    p.cu_k = o.cu_k->data_ptr<int64_t>();
    p.num_sequences = o.cu_q->numel() - 1;
  }
  p.mask = o.mask;
  if (o.prefix_lengths) p.mask = p.mask | kernels::Prefix{o.prefix_lengths->data_ptr<int64_t>()};
  if (o.q_documents)
    p.mask = p.mask & kernels::DocumentIds{o.q_documents->data_ptr<int32_t>(), o.k_documents->data_ptr<int32_t>(),
                                           q.size(2), k.size(2)};
  p.scores.softcap = o.softcap;
  if (o.alibi_slopes) p.scores.alibi_slopes = o.alibi_slopes->data_ptr<float>();
  if (o.bias) p.scores.bias = view_of(*o.bias);
  if (o.temperature) p.scores.temperature = view_of(*o.temperature);
  if (o.multiplier) p.scores.multiplier = view_of(*o.multiplier);
  p.normalizer.kind = static_cast<kernels::Normalizer::Kind>(o.normalizer);
  if (o.sink_logit) p.normalizer.sink_logit = head_view(*o.sink_logit);
  if (o.sigmoid_bias) p.normalizer.sigmoid_bias = head_view(*o.sigmoid_bias);
  p.normalizer.gamma = o.gamma;
  p.normalizer.zeta = o.zeta;
  p.normalizer.gamma_per_key = o.gamma_per_key;
  p.dropout = {o.dropout, o.seed};
  if (o.blocks) {
    blocks = {o.blocks->offsets.data_ptr<int64_t>(),
              o.blocks->columns.data_ptr<int32_t>(),
              o.blocks->batch,
              o.blocks->heads,
              0,
              0,
              o.blocks->query_block,
              o.blocks->key_block};
    blocks.query_blocks = (q.size(2) + blocks.query_block - 1) / blocks.query_block;
    blocks.key_blocks = (k.size(2) + blocks.key_block - 1) / blocks.key_block;
    p.blocks = &blocks;
  }
  return p;
}

void FlashCall::forward() {
  allocate_outputs();
  if (!q.is_meta()) dispatch(*this);
}

}  // namespace heed::ops
