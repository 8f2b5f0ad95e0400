// The encoders whose config.json heed reads.
#pragma once

#include "formats/config_fields.h"

namespace heed::formats {

/// BertModel, BertForMaskedLM, BertForPreTraining.
void read_bert(ConfigFields& fields, EncoderModelConfig& config);
/// RobertaModel, RobertaForMaskedLM.
void read_roberta(ConfigFields& fields, EncoderModelConfig& config);
/// ViTModel, ViTForImageClassification.
void read_vit(ConfigFields& fields, VisionModelConfig& config);

}  // namespace heed::formats
