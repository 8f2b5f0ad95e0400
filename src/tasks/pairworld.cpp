#include "heed/tasks/pairworld.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace heed::tasks {

PairWorld::PairWorld(uint64_t seed, double noise) : seed_(seed), noise_(noise) {
  for (size_t o = 0; o < prototypes_.size(); ++o) {
    Random random(hash64("pairworld prototypes") + seed, o);
    double square = 0;
    for (auto& x : prototypes_[o]) {
      x = float(random.normal());
      square += double(x) * double(x);
    }
    for (auto& x : prototypes_[o]) x = float(double(x) / std::sqrt(square));
  }
}

PairWorld::Sample PairWorld::sample(Split split, uint64_t index, bool conflict) const {
  Random random(stream_key("pairworld", split, seed_), 2 * index + conflict);
  std::vector<bool> there(kObjects);
  do {
    for (int64_t pair = 0; pair < kObjects / 2; ++pair) there[size_t(2 * pair)] = random.uniform() < 0.35;
  } while (std::find(there.begin(), there.end(), true) == there.end());
  for (int64_t pair = 0; pair < kObjects / 2; ++pair)
    there[size_t(2 * pair + 1)] = random.uniform() < (there[size_t(2 * pair)] ? 0.85 : 0.05) && !conflict;

  Sample sample;
  for (int64_t o = 0; o < kObjects; ++o)
    if (there[size_t(o)]) sample.present.push_back(o);
  const auto places = random.distinct(kPatches, kPatches);
  sample.places.assign(places.begin(), places.begin() + std::ptrdiff_t(sample.present.size()));
  sample.empty = places.back();
  sample.pixels.resize(size_t(kChannels * kPatches));
  for (auto& x : sample.pixels) x = float(noise_ * random.normal());
  for (size_t i = 0; i < sample.present.size(); ++i)
    for (int64_t c = 0; c < kChannels; ++c)
      sample.pixels[size_t(c * kPatches + sample.places[i])] += prototypes_[size_t(sample.present[i])][size_t(c)];

  sample.caption.push_back(kBegin);
  for (const int64_t o : sample.present)
    if (int64_t(sample.caption.size()) <= kMostNamed) sample.caption.push_back(kFirstObject + o);
  sample.caption.push_back(kEnd);
  return sample;
}

void CaptionScore::add(const std::vector<int64_t>& named, const std::vector<int64_t>& objects) {
  const std::set<int64_t> said(named.begin(), named.end()), there(objects.begin(), objects.end());
  const auto right = std::count_if(said.begin(), said.end(), [&](int64_t o) { return there.contains(o); });
  ++captions;
  mentioned += int64_t(said.size());
  present += int64_t(there.size());
  found += right;
  hallucinated += int64_t(said.size()) - right;
  with_hallucination += right < int64_t(said.size());
}

}  // namespace heed::tasks
