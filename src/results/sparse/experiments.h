// The experiments of the page "sparse", by theme; pages.cpp has their order.
#pragma once

#include "heed/results/experiment.h"

namespace heed::results::sparse {

// selection.cpp: keys chosen on the tensors of a trained model, or of planted ones; here nothing is trained
Experiment drop_in();
Experiment tree_search();
Experiment chunks();
Experiment core_tokens();
// hashes.cpp: hashes, and the growth of time
Experiment sorted_hashes();
Experiment growth();
// neighborhoods.cpp: windows of a grid
Experiment strides();
Experiment neighborhood_kernels();

// hybrids.cpp: recall by a layer behind one that joins keys with values
Experiment routed_recall();
Experiment masked_recall();
Experiment jumping_recall();
// needles.cpp: a trained model whose mixer is exchanged
Experiment landmark_needles();
Experiment mixed_spans();
// language.cpp: the next byte of a real text
Experiment core_language();
Experiment long_tuning();
Experiment subsampled();
Experiment principles();
Experiment segments();
// recall.cpp: what hashed buckets and a layer of pairs can learn
Experiment hashed_copies();
Experiment reversible_layers();
Experiment triples();
// images.cpp: digits in clutter
Experiment predicted_masks();
Experiment fewer_tokens();
Experiment redundant_tokens();
// filler.cpp
Experiment repeated_filler();
// tables.cpp, pruning.cpp: whole models
Experiment tables();
Experiment pruned_encoder();

}  // namespace heed::results::sparse
