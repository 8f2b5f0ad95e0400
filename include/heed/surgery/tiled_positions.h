// Learned positions for longer input than a model was trained on (MASFormer, arXiv 2310.12442).
#pragma once

#include <string>

#include "heed/models/decoder_lm.h"

namespace heed::surgery {

/// Learned positions of `config`, of the model or of its layers, for `length` tokens at least. Others stay as they are.
void lengthen_positions(DecoderConfig& config, int64_t length);

/// Copies what `from` has under the same name and in the same shape to `to`; a longer table of learned positions gets
/// the rows of the shorter one over and over: row i is row i mod the length it was trained for. A landmark that `from`
/// does not have is the mean of all embeddings. Returns what could not be taken over, as one line that names parameters
/// and layers: those of `to` that begin anew, those of `from` that have no place, and positions that a mixer has no
/// parameter for. Empty: everything was.
std::string take_weights(DecoderLm& to, DecoderLm& from);

}  // namespace heed::surgery
