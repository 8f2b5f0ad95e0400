// What tasks that are learned from examples alone have in common.
#pragma once

#include <cmath>
#include <string>

#include "heed/error.h"
#include "heed/nn/config.h"
#include "heed/tasks/task.h"

namespace heed::tasks {

/// A name, and a family of samples that the parameter `seed` chooses.
class LearnedTask : public Task {
 public:
  const std::string& name() const final { return name_; }

 protected:
  explicit LearnedTask(std::string name) : name_(std::move(name)) {}

  /// Reads `seed` and refuses what is left; to be called last.
  void finish(ConfigReader& reader) {
    seed_ = static_cast<uint64_t>(reader.integer("seed", 0, 0));
    reader.finish();
  }
  /// Reads `patch`, pixels a side, `least` or more, that divides an image of `side`.
  int64_t read_patch(ConfigReader& reader, int64_t fallback, int64_t least, int64_t side) const {
    const auto patch = reader.integer("patch", fallback, least, side);
    require(side % patch == 0, "{}: patch = {}: a divisor of side = {} is accepted", name_, patch, side);
    return patch;
  }
  /// Reads `noise`, the deviation of what is added to pixels.
  double read_noise(ConfigReader& reader, double fallback) const {
    const auto noise = reader.get("noise", fallback);
    require(std::isfinite(noise) && noise >= 0, "{}: noise = {}: 0 or more is accepted", name_, noise);
    return noise;
  }
  /// Of square images, of which all may be seen; `whole`: one answer an image, else one a patch.
  static Face image_face(int64_t channels, int64_t side, int64_t patch, int64_t outputs, bool whole) {
    Face face;
    face.input = Face::Input::image;
    face.sight = Face::Sight::all;
    face.channels = channels;
    face.height = face.width = side;
    face.patch = patch;
    face.outputs = outputs;
    face.whole = whole;
    return face;
  }
  Random random_of(Split split, uint64_t index) const { return Random(stream_key(name_, split, seed_), index); }

  const std::string name_;
  uint64_t seed_ = 0;
};

}  // namespace heed::tasks
