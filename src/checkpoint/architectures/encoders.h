// Where encoders keep their tensors.
#pragma once

#include "checkpoint/weights.h"
#include "heed/models/encoder.h"
#include "heed/models/vision.h"

namespace heed::checkpoint {

Layout bert_layout(const EncoderConfig& config);
Layout roberta_layout(const EncoderConfig& config);
Layout vit_layout(const VisionConfig& config);

}  // namespace heed::checkpoint
