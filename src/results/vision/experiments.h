// The experiments of the page "vision", by theme; pages.cpp has their order.
#pragma once

#include "results/learning.h"

namespace heed::results::vision {

/// Attention of all patches to all.
Learner dense();
/// A small vision transformer over the digits, cut into patches of `patch` pixels.
Lesson digits(int64_t patch);
/// The same over a digit on a canvas of 6 x 6 patches, among pieces of others.
Lesson clutter();
/// A smaller one over 9 x 9 cells with two marks in far windows of 3 x 3: one place alone tells nothing.
Lesson far_marks();
/// The shape of an object on a canvas of 12 x 12 patches.
Lesson shapes();
/// The shapes in the patches of a noisy canvas.
Lesson segments(double noise);

// mixers.cpp: token mixers of a vision transformer
Experiment mixers();
Experiment bags();
// windows.cpp: what windows need to reach the rest of an image
Experiment windows();
Experiment routes();
Experiment shifts();
Experiment halos();
// summaries.cpp: attention to summaries of an image
Experiment summaries();
Experiment pooled_keys();
// gates.cpp: gates, kernels, filters and operators
Experiment gates();
Experiment strips();
Experiment kernels();
Experiment cues();
Experiment spectra();
Experiment operators();
// pyramids.cpp: token mixers in a pyramid of stages
Experiment pyramids();
// backbones.cpp: whole models of images
Experiment words();
Experiment skips();
Experiment one_body();
Experiment branches();
// colours.cpp: images and videos to be coloured
Experiment hints();
Experiment videos();
// flows.cpp: images made from noise, and what frozen tokens tell
Experiment time_experts();
Experiment probes();

}  // namespace heed::results::vision
