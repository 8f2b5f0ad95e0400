// The law of the next event given what came before: a mixture of log-normals for the time, classes for the mark
// (arXiv 1909.12127).
#pragma once

#include <torch/torch.h>

namespace heed::train {

/// Parameters of the law with so many marks.
int64_t event_law_width(int64_t marks);

struct EventLikelihood {
  torch::Tensor time, mark;  ///< log-likelihoods [R]
};

/// parameters [R, event_law_width(marks)], times to the next event [R] above 0, marks int64 [R].
EventLikelihood event_likelihood(const torch::Tensor& parameters, const torch::Tensor& times,
                                 const torch::Tensor& marks);

/// Marks in order of their scores, [R, marks]: the scores themselves.
torch::Tensor mark_scores(const torch::Tensor& parameters);

}  // namespace heed::train
