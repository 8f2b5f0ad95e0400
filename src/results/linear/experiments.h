// The experiments of the page "linear", by theme; pages.cpp has their order.
#pragma once

#include "heed/results/experiment.h"

namespace heed::results::linear {

// maps.cpp: what attention maps are, without training
Experiment magnitude();
Experiment injectivity();
Experiment rank();
Experiment random_features();
// speed.cpp: time and memory against length and state
Experiment constant_speed();
Experiment state_size();
Experiment agents();
Experiment receptive_fields();
// random_features.cpp: samples that a layer of random scores needs
Experiment random_scores();

// recall.cpp: associative recall against the state
Experiment recall_at_equal_state();
Experiment overwritten_keys();
Experiment recall_and_state();
Experiment recall_of_large_states();
Experiment lookups();
Experiment far_copies();
Experiment neural_memory();
Experiment memory_and_attention();
// language.cpp: the next byte of a real text
Experiment language();
Experiment transnormer_pieces();
Experiment transnormer_lengths();
Experiment local_then_linear();
Experiment bounded_gradients();
Experiment normalised_features();
Experiment feature_kinds();
Experiment lag_pairs();
// sequences.cpp: copying, delayed and selective
Experiment selection();
Experiment router();
Experiment resets();
Experiment induction();
Experiment state_spaces();
Experiment far_memory();
Experiment nested_lists();
// digits.cpp: images
Experiment digits();
Experiment competing_pixels();
// lesions.cpp
Experiment lesions();
// series.cpp: numbers
Experiment forecasts();
Experiment oscillations();
Experiment algorithms();
// models.cpp: whole models
Experiment denoising();
Experiment speech();
Experiment world();
// distillation.cpp: a softmax model that goes over to other mechanisms
Experiment estimated_map();

}  // namespace heed::results::linear
