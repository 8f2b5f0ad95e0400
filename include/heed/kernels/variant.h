// A user's own attention, as hooks between the products of the tile engine. This header is what the engine sees of a
// variant; to write one include variant-inl.h and read its first comment.
#pragma once

#include <cstdint>

#include "heed/kernels/flash.h"

namespace heed::kernels {

/// Query rows [first_query, first_query + rows) of one (batch item or packed sequence, query head), as lanes of
/// `width`.
struct VariantPanel {
  const void* parameters;  ///< the variant's own plain data
  int64_t batch, head;
  int64_t first_query, rows, width;  ///< lanes from `rows` up to `width` are padding
  int64_t num_queries, num_keys;     ///< N and M of the sequence
};

/// Keys [first_key, first_key + count) of a tile. Tiles are float [count][width]. Bit (c % 32) of
/// visible[c / 32 * width + lane] says whether the lane sees key first_key + c; null: all do.
struct VariantKeys {
  int64_t first_key, count;
  const uint32_t* visible;
};

/// The hooks of a variant, compiled for one instruction set; a null hook is the identity.
struct VariantTable {
  enum class Normalizer : uint8_t { softmax, own };
  int64_t lanes = 0;  ///< floats per vector of the instruction set
  int row_state = 0;  ///< floats per row of the own normaliser; above 0 it makes a first pass over the keys
  Normalizer normalizer = Normalizer::softmax;
  /// q [d][width] in place, before the scale.
  void (*queries)(const VariantPanel&, float* q, int64_t d) = nullptr;
  /// d_q [d][width] in place: times the derivative at the untransformed q.
  void (*query_gradients)(const VariantPanel&, const float* q, float* d_q, int64_t d) = nullptr;
  /// Scaled products to logits, in place; with `derivative` [count][width] also d logit / d product.
  void (*logits)(const VariantPanel&, const VariantKeys&, float* tile, float* derivative) = nullptr;
  /// Clears the bits of hidden pairs.
  void (*visible)(const VariantPanel&, const VariantKeys&, uint32_t* bits) = nullptr;
  /// factors [count][width] in place: times what multiplies a weight after the normaliser.
  void (*multipliers)(const VariantPanel&, const VariantKeys&, float* factors) = nullptr;
  /// Own normaliser, first pass: state [row_state][width].
  void (*start)(const VariantPanel&, float* state) = nullptr;
  void (*update)(const VariantPanel&, const VariantKeys&, const float* logits, float* state) = nullptr;
  /// Own normaliser: logits to weights, in place.
  void (*weights)(const VariantPanel&, const VariantKeys&, float* tile, const float* state) = nullptr;
  /// d_weights [count][width]: adds to d_state what the weights pass to the row's state.
  void (*state_gradients)(const VariantPanel&, const VariantKeys&, const float* logits, const float* d_weights,
                          const float* state, float* d_state) = nullptr;
  /// logits to weights and d_weights to d_logits, both in place.
  void (*weight_gradients)(const VariantPanel&, const VariantKeys&, float* logits, float* d_weights, const float* state,
                           const float* d_state) = nullptr;
  /// out [dv][width] in place: times the output's factor. The backward applies it to d_out.
  void (*outputs)(const VariantPanel&, float* out, int64_t dv) = nullptr;
};

/// A variant and its parameters, which must outlive the calls.
struct Variant {
  const VariantTable* table = nullptr;
  const void* parameters = nullptr;
};

/// As flash_forward and flash_backward, with the variant's hooks between the steps: its query transform before the
/// product, its logit transform on the scaled product (before the params' own score terms), its mask and'ed to the
/// params' mask, its normaliser in place of softmax, its multiplier times the params', its output factor last. Float
/// dtypes only. An own normaliser has no lse and takes neither a sink nor d_multiplier; the params' normaliser must be
/// softmax.
void flash_forward(const FlashParams& params, const Variant& variant);
void flash_backward(const FlashParams& params, const Variant& variant, const FlashGrads& grads);

}  // namespace heed::kernels
