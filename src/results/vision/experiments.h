// The experiments of the page "vision", by theme; pages.cpp has their order.
#pragma once

#include "results/learning.h"

namespace heed::results::vision {

/// A small vision transformer over the digits, cut into patches of `patch` pixels.
Lesson digits(int64_t patch);
/// The shapes in the patches of a noisy canvas.
Lesson segments(double noise);

// mixers.cpp: token mixers of a vision transformer
Experiment mixers();
Experiment windows();
Experiment gates();
Experiment kernels();
Experiment spectra();
Experiment operators();
Experiment bags();
// backbones.cpp: whole models of images
Experiment pyramids();
Experiment words();
Experiment skips();
Experiment one_body();
Experiment overview();
Experiment branches();
// colours.cpp: images and videos to be coloured
Experiment hints();
Experiment videos();
// flows.cpp: images made from noise, and what frozen tokens tell
Experiment time_experts();
Experiment probes();

}  // namespace heed::results::vision
