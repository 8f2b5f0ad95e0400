// Random numbers of a seed.
#pragma once

#include <ATen/CPUGeneratorImpl.h>

namespace heed::nn {

/// A generator of all 64 bits of `seed`: the engine takes the lower half of what it is given.
inline at::Generator seeded_generator(uint64_t seed) { return at::detail::createCPUGenerator(seed ^ (seed >> 32)); }

}  // namespace heed::nn
