// The pages and the order of their experiments.
#include "heed/error.h"
#include "heed/names.h"
#include "heed/results/experiment.h"
#include "results/linear/experiments.h"
#include "results/sparse/experiments.h"
#include "results/vision/experiments.h"

namespace heed::results {
namespace {

Experiment timed(Experiment experiment) {
  experiment.timed = true;
  return experiment;
}

const std::vector<Experiment>& linear_page() {
  static const std::vector<Experiment> page = {
      timed(linear::constant_speed()),
      linear::state_size(),
      timed(linear::agents()),
      timed(linear::receptive_fields()),
      linear::magnitude(),
      linear::injectivity(),
      linear::rank(),
      linear::random_features(),
      linear::random_scores(),
      linear::recall_at_equal_state(),
      linear::overwritten_keys(),
      linear::recall_and_state(),
      linear::recall_of_large_states(),
      linear::lookups(),
      linear::neural_memory(),
      linear::memory_and_attention(),
      linear::selection(),
      linear::router(),
      linear::resets(),
      linear::induction(),
      linear::state_spaces(),
      linear::far_memory(),
      linear::far_copies(),
      linear::nested_lists(),
      linear::competing_pixels(),
      linear::language(),
      linear::transnormer_pieces(),
      timed(linear::transnormer_lengths()),
      linear::local_then_linear(),
      linear::bounded_gradients(),
      timed(linear::normalised_features()),
      linear::feature_kinds(),
      timed(linear::lag_pairs()),
      linear::digits(),
      linear::lesions(),
      linear::forecasts(),
      linear::oscillations(),
      linear::algorithms(),
      linear::denoising(),
      timed(linear::speech()),
      linear::world(),
      linear::estimated_map(),
  };
  return page;
}

const std::vector<Experiment>& sparse_page() {
  static const std::vector<Experiment> page = {
      timed(sparse::drop_in()),
      sparse::tree_search(),
      sparse::chunks(),
      sparse::core_tokens(),
      timed(sparse::sorted_hashes()),
      timed(sparse::growth()),
      sparse::strides(),
      timed(sparse::neighborhood_kernels()),
      sparse::routed_recall(),
      sparse::masked_recall(),
      sparse::jumping_recall(),
      sparse::landmark_needles(),
      sparse::mixed_spans(),
      sparse::core_language(),
      sparse::long_tuning(),
      sparse::subsampled(),
      sparse::principles(),
      timed(sparse::segments()),
      sparse::hashed_copies(),
      sparse::reversible_layers(),
      timed(sparse::triples()),
      sparse::predicted_masks(),
      sparse::fewer_tokens(),
      sparse::repeated_filler(),
      sparse::redundant_tokens(),
      timed(sparse::tables()),
      sparse::pruned_encoder(),
  };
  return page;
}

const std::vector<Experiment>& vision_page() {
  static const std::vector<Experiment> page = {
      vision::mixers(), vision::bags(),         vision::windows(),     vision::routes(),   vision::shifts(),
      vision::halos(),  vision::summaries(),    vision::pooled_keys(), vision::pyramids(), vision::gates(),
      vision::strips(), vision::kernels(),      vision::cues(),        vision::spectra(),  vision::operators(),
      vision::words(),  vision::skips(),        vision::one_body(),    vision::branches(), vision::hints(),
      vision::videos(), vision::time_experts(), vision::probes(),
  };
  return page;
}

}  // namespace

std::vector<std::string> pages() { return {"linear", "sparse", "vision"}; }

std::span<const Experiment> experiments(std::string_view page) {
  const auto names = pages();
  if (page == "linear") return linear_page();
  if (page == "sparse") return sparse_page();
  if (page == "vision") return vision_page();
  fail("unknown page {}: {}", page, suggest(std::string(page), names));
}

}  // namespace heed::results
