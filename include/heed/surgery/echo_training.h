// Distillation of a model whose layers share attention, and what the choice of the layers costs.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "heed/checkpoint/language_model.h"
#include "heed/surgery/distill.h"
#include "heed/surgery/echo_att.h"
#include "heed/tasks/corpus.h"

namespace heed::surgery {

struct EchoTraining {
  int64_t distill_steps = 200;  ///< under distill_loss, the residual stream matched behind every block
  int64_t text_steps = 0;       ///< then under the ordinary loss of the text
  int64_t batch = 8, context = 256;
  double learning_rate = 5e-4;  ///< peak
  DistillWeights weights;
  int64_t windows = 32;  ///< of the valid split, most that are scored
  uint64_t seed = 0;
};

/// Trains `student`, made of `teacher` by share_attention, in place, on the train split.
void train_echo(const checkpoint::LanguageModel& teacher, DecoderLm& student, const std::vector<LayerBlock>& blocks,
                const tasks::Corpus& corpus, const EchoTraining& options);

/// Nats a token of the valid split.
double valid_nats(const checkpoint::LanguageModel& lm, const DecoderLm& model, const tasks::Corpus& corpus,
                  const EchoTraining& options);

struct EchoScore {
  std::string choice;  ///< most similar, least similar (inner blocks), first layers
  LayerBlock block;
  double similarity = 0;  ///< mean of the block's pairs
  double converted = 0;   ///< nats a token of the valid split, as converted
  double distilled = 0;   ///< and after the training
};

/// One block of `choice.size` layers shares its map: the most and the least similar one between the first and last
/// layers that are left alone, and the model's first layers; the same training for each. Throws heed::Error where there
/// are no two inner blocks.
std::vector<EchoScore> compare_blocks(const checkpoint::LanguageModel& lm, const torch::Tensor& similarity,
                                      const BlockChoice& choice, const tasks::Corpus& corpus,
                                      const EchoTraining& options);

}  // namespace heed::surgery
