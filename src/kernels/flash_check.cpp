#include <string>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "kernels/cpu/flash_engine.h"
#include "kernels/flash_problem.h"

namespace heed::kernels {
namespace {

std::string shape(const AnyView& view) {
  return fmt::format("[{}, {}, {}, {}]", view.size[0], view.size[1], view.size[2], view.size[3]);
}

bool holds_elements(const AnyView& view) {
  return view.size[0] > 0 && view.size[1] > 0 && view.size[2] > 0 && view.size[3] > 0;
}

void check_present(const AnyView& view, const char* name) {
  for (int64_t size : view.size)
    require(size >= 0, "{} has shape {}; sizes of 0 or more are accepted", name, shape(view));
  require(view.data != nullptr || !holds_elements(view), "{} of shape {} has no data", name, shape(view));
}

void check_dense(const AnyView& view, const char* name) {
  require(view.size[3] <= 1 || view.stride[3] == 1, "{} has stride {} in its last dimension; 1 is accepted", name,
          view.stride[3]);
}

void check_dtype(const AnyView& view, const char* name, DType accepted) {
  require(view.dtype == accepted, "{} is {}; {} is accepted", name, name_of(view.dtype), name_of(accepted));
}

void check_shape(const AnyView& view, const char* name, const std::array<int64_t, 4>& accepted) {
  for (int axis = 0; axis < 4; ++axis) {
    require(view.size[axis] == accepted[axis], "{} has shape {}; [{}, {}, {}, {}] is accepted", name, shape(view),
            accepted[0], accepted[1], accepted[2], accepted[3]);
  }
}

// A tensor whose sizes of 1 broadcast. In packed calls rows and keys are counted inside a sequence, so at least the
// longest must fit.
void check_broadcast(const AnyView& view, const char* name, DType dtype, const std::array<int64_t, 4>& full,
                     bool packed) {
  check_present(view, name);
  check_dtype(view, name, dtype);
  for (int axis = 0; axis < 4; ++axis) {
    const bool fits = view.size[axis] == full[axis] || (packed && axis >= 2 && view.size[axis] > full[axis]);
    require((view.size[axis] == 1 && axis < 3) || fits, "{} has shape {}; 1 or {} is accepted in dimension {}", name,
            shape(view), full[axis], axis);
  }
}

void check_lengths(const int64_t* lengths, const char* name, int64_t batch, int64_t most) {
  if (lengths == nullptr) return;
  for (int64_t b = 0; b < batch; ++b) {
    require(lengths[b] >= 0 && lengths[b] <= most, "{}[{}] is {}; 0 to {} is accepted", name, b, lengths[b], most);
  }
}

void check_packed(const int64_t* starts, const char* name, int64_t sequences, int64_t most) {
  require(starts != nullptr, "{} is missing; packed sequences need both cu_q and cu_k", name);
  require(starts[0] >= 0, "{}[0] is {}; 0 or more is accepted", name, starts[0]);
  for (int64_t s = 0; s < sequences; ++s) {
    require(starts[s + 1] >= starts[s], "{}[{}] is {}, below the start {} before it", name, s + 1, starts[s + 1],
            starts[s]);
  }
  require(starts[sequences] <= most, "{}[{}] is {}; at most {} rows exist", name, sequences, starts[sequences], most);
}

void check_head_map(const int32_t* map, const char* name, int64_t heads, int64_t sources) {
  if (map == nullptr) {
    require(sources > 0 && heads % sources == 0,
            "{} query heads over {} {} heads; a multiple is accepted, or a head map", heads, sources, name);
    return;
  }
  for (int64_t h = 0; h < heads; ++h) {
    require(map[h] >= 0 && map[h] < sources, "the {} head of query head {} is {}; 0 to {} is accepted", name, h, map[h],
            sources - 1);
  }
}

void check_blocks(const FlashParams& p) {
  const BlockList& list = *p.blocks;
  require(p.cu_q == nullptr, "a block list with packed sequences; lengths per batch item are accepted");
  require(list.query_block >= 1 && list.key_block >= 1,
          "block list of blocks of {} x {}; sizes of 1 or more are accepted", list.query_block, list.key_block);
  require(list.batch == 1 || list.batch == p.q.size[0], "block list for batch {}; 1 or {} is accepted", list.batch,
          p.q.size[0]);
  require(list.heads == 1 || list.heads == p.q.size[1], "block list for {} heads; 1 or {} is accepted", list.heads,
          p.q.size[1]);
  const int64_t query_blocks = (p.q.size[2] + list.query_block - 1) / list.query_block;
  const int64_t key_blocks = (p.k.size[2] + list.key_block - 1) / list.key_block;
  require(list.query_blocks == query_blocks, "block list of {} query blocks; {} are needed", list.query_blocks,
          query_blocks);
  require(list.key_blocks == key_blocks, "block list of {} key blocks; {} are needed", list.key_blocks, key_blocks);
  require(list.offsets != nullptr, "block list without offsets");
  const int64_t rows = list.batch * list.heads * list.query_blocks;
  require(list.offsets[0] >= 0, "block list begins at offset {}; 0 or more is accepted", list.offsets[0]);
  for (int64_t r = 0; r < rows; ++r) {
    require(list.offsets[r + 1] >= list.offsets[r], "block list offset {} is {}, below the one before it", r + 1,
            list.offsets[r + 1]);
    require(list.columns != nullptr || list.offsets[r + 1] == list.offsets[r], "block list without columns");
    for (int64_t c = list.offsets[r]; c < list.offsets[r + 1]; ++c) {
      require(list.columns[c] >= 0 && list.columns[c] < key_blocks,
              "block list names key block {}; 0 to {} is accepted", list.columns[c], key_blocks - 1);
      require(c == list.offsets[r] || list.columns[c] > list.columns[c - 1],
              "block list row {} is not ascending at key block {}", r, list.columns[c]);
    }
  }
}

void check_normalizer(const FlashParams& p, DType stats) {
  const Normalizer& n = p.normalizer;
  const int64_t heads = p.q.size[1];
  if (n.sink_logit) {
    require(n.kind == Normalizer::Kind::softmax, "a sink logit belongs to softmax only");
    check_dtype(n.sink_logit, "sink_logit", stats);
    check_shape(n.sink_logit, "sink_logit", {1, heads, 1, 1});
  }
  if (n.sigmoid_bias) {
    require(n.kind == Normalizer::Kind::sigmoid, "a sigmoid bias belongs to the sigmoid normaliser only");
    check_broadcast(n.sigmoid_bias, "sigmoid_bias", stats, {1, heads, 1, 1}, false);
  }
  if (n.kind == Normalizer::Kind::clipped_softmax) {
    require(n.gamma <= 0 && std::isfinite(n.gamma), "gamma of clipped softmax is {}; at most 0 is accepted", n.gamma);
    require(n.zeta >= 1 && std::isfinite(n.zeta), "zeta of clipped softmax is {}; at least 1 is accepted", n.zeta);
  }
}

void check_gradients(const FlashParams& p, const FlashGrads& g, bool needs_lse) {
  require(p.lse || !needs_lse || !holds_elements(p.q), "the backward needs the forward's lse");
  const auto like = [](const AnyView& grad, const AnyView& of, const char* name) {
    if (!grad) return;
    require(of || !holds_elements(grad), "{} asked, but the call has no such tensor", name);
    check_dtype(grad, name, of.dtype);
    check_shape(grad, name, of.size);
  };
  require(g.d_out || !holds_elements(p.out), "d_out is missing");
  like(g.d_out, p.out, "d_out");
  like(g.d_q, p.q, "d_q");
  like(g.d_k, p.k, "d_k");
  like(g.d_v, p.v, "d_v");
  const std::pair<const AnyView*, const char*> dense[] = {
      {&g.d_out, "d_out"}, {&g.d_q, "d_q"}, {&g.d_k, "d_k"}, {&g.d_v, "d_v"}};
  for (const auto& [view, name] : dense) {
    if (*view) check_dense(*view, name);
  }
  like(g.d_lse, p.lse, "d_lse");
  like(g.d_bias, p.scores.bias, "d_bias");
  like(g.d_multiplier, p.scores.multiplier, "d_multiplier");
  like(g.d_temperature, p.scores.temperature, "d_temperature");
  like(g.d_sink, p.normalizer.sink_logit, "d_sink");
  if (g.d_sigmoid_bias) {
    require(p.normalizer.kind == Normalizer::Kind::sigmoid, "d_sigmoid_bias asked without the sigmoid normaliser");
    check_dtype(g.d_sigmoid_bias, "d_sigmoid_bias", p.q.dtype == DType::f64 ? DType::f64 : DType::f32);
    check_broadcast(g.d_sigmoid_bias, "d_sigmoid_bias", g.d_sigmoid_bias.dtype, {1, p.q.size[1], 1, 1}, false);
  }
}

}  // namespace

void check(const FlashParams& p) {
  const AnyView* rows[] = {&p.q, &p.k, &p.v, &p.out};
  const char* names[] = {"q", "k", "v", "out"};
  const DType dtype = p.q.dtype;
  require(dtype != DType::i8, "q is int8; float32, float16, bfloat16 and float64 are accepted");
  for (int t = 0; t < 4; ++t) {
    check_present(*rows[t], names[t]);
    check_dtype(*rows[t], names[t], dtype);
    check_dense(*rows[t], names[t]);
  }
  const int64_t batch = p.q.size[0], heads = p.q.size[1], queries = p.q.size[2], keys = p.k.size[2];
  require(p.q.size[3] >= 1 && p.v.size[3] >= 1, "head sizes are {} and {}; 1 or more is accepted", p.q.size[3],
          p.v.size[3]);
  require(p.k.size[0] == batch && p.k.size[3] == p.q.size[3], "k has shape {}; [{}, Hk, M, {}] is accepted", shape(p.k),
          batch, p.q.size[3]);
  require(p.v.size[0] == batch && p.v.size[2] == keys, "v has shape {}; [{}, Hv, {}, Dv] is accepted", shape(p.v),
          batch, keys);
  check_shape(p.out, "out", {batch, heads, queries, p.v.size[3]});
  require(std::isfinite(p.scale), "scale is {}; a finite number is accepted", p.scale);
  if (heads > 0) {
    check_head_map(p.q_to_k_head, "key", heads, p.k.size[1]);
    check_head_map(p.q_to_v_head, "value", heads, p.v.size[1]);
  }

  const bool packed = p.cu_q != nullptr || p.cu_k != nullptr;
  int64_t longest_q = queries, longest_k = keys, sequences = batch;
  if (packed) {
    require(batch == 1, "packed sequences with batch {}; 1 is accepted", batch);
    require(p.q_lengths == nullptr && p.k_lengths == nullptr,
            "packed sequences together with lengths; one of the two is accepted");
    require(p.num_sequences >= 0, "{} packed sequences; 0 or more is accepted", p.num_sequences);
    check_packed(p.cu_q, "cu_q", p.num_sequences, queries);
    check_packed(p.cu_k, "cu_k", p.num_sequences, keys);
    sequences = p.num_sequences;
    longest_q = longest_k = 0;
    for (int64_t s = 0; s < sequences; ++s) {
      longest_q = std::max(longest_q, p.cu_q[s + 1] - p.cu_q[s]);
      longest_k = std::max(longest_k, p.cu_k[s + 1] - p.cu_k[s]);
    }
  }
  check_lengths(p.q_lengths, "q_lengths", batch, queries);
  check_lengths(p.k_lengths, "k_lengths", batch, keys);

  const DType stats = dtype == DType::f64 ? DType::f64 : DType::f32;
  if (p.lse) {
    require(p.normalizer.kind != Normalizer::Kind::sigmoid, "lse asked of the sigmoid normaliser, which has none");
    check_dtype(p.lse, "lse", stats);
    check_shape(p.lse, "lse", {batch, heads, queries, 1});
  }
  const Scores& scores = p.scores;
  require(scores.softcap >= 0 && std::isfinite(scores.softcap),
          "softcap is {}; 0 (none) or a positive number is accepted", scores.softcap);
  if (scores.bias) check_broadcast(scores.bias, "bias", stats, {sequences, heads, longest_q, longest_k}, packed);
  if (scores.temperature)
    check_broadcast(scores.temperature, "temperature", stats, {sequences, heads, longest_q, 1}, packed);
  if (scores.multiplier)
    check_broadcast(scores.multiplier, "multiplier", stats, {sequences, heads, longest_q, longest_k}, packed);
  check_normalizer(p, stats);
  require(p.dropout.probability >= 0 && p.dropout.probability < 1, "dropout is {}; a number in [0, 1) is accepted",
          p.dropout.probability);
  if (p.blocks != nullptr) check_blocks(p);
}

void check(const FlashParams& p, const Variant& variant) {
  check(p);
  require(p.q.dtype != DType::f64, "q is float64; variants take float32, float16 and bfloat16");
  require(variant.table != nullptr, "variant without a table of hooks");
  const VariantTable& table = *variant.table;
  require(table.lanes == engine_lanes(), "variant compiled for vectors of {} floats; those of {} have {}", table.lanes,
          current_isa(), engine_lanes());
  const Normalizer& n = p.normalizer;
  require(n.kind == Normalizer::Kind::softmax,
          "a variant together with a normaliser; softmax is accepted, or a variant's own");
  if (table.normalizer == VariantTable::Normalizer::softmax) return;
  require(!p.lse, "lse asked of a variant with its own normaliser, which has none");
  require(!n.sink_logit, "a sink logit together with a variant's own normaliser");
}

void check(const FlashParams& p, const Variant& variant, const FlashGrads& g) {
  check(p, variant);
  const bool own = variant.table->normalizer == VariantTable::Normalizer::own;
  check_gradients(p, g, !own);
  require(!own || (!g.d_multiplier && !g.d_temperature),
          "d_multiplier or d_temperature asked of a variant with its own normaliser");
}

void check(const FlashParams& p, const FlashGrads& g) {
  check(p);
  check_gradients(p, g, p.normalizer.kind != Normalizer::Kind::sigmoid);
}

}  // namespace heed::kernels
