// The conversions of heed surgery that have a file of their own, and what they share.
#pragma once

#include "cli/commands.h"
#include "heed/models/decoder_lm.h"

namespace heed::cli {

void add_surgery_axformer(CLI::App& surgery);
void add_surgery_landmarks(CLI::App& surgery);

/// Numbers in the weights.
int64_t parameters_of(const DecoderLm& model);

}  // namespace heed::cli
