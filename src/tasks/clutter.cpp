#include "tasks/clutter.h"

#include <algorithm>

#include "heed/nn/config.h"

namespace heed::tasks {
namespace {

/// Means of the pixels at most `radius` away in rows and columns; there are zeros around the canvas.
std::vector<float> blurred(const std::vector<float>& pixels, int64_t side, int64_t radius) {
  std::vector<float> means(pixels.size());
  const auto count = static_cast<float>((2 * radius + 1) * (2 * radius + 1));
  for (int64_t y = 0; y < side; ++y)
    for (int64_t x = 0; x < side; ++x) {
      float sum = 0;
      for (int64_t r = std::max<int64_t>(0, y - radius); r <= std::min(side - 1, y + radius); ++r)
        for (int64_t c = std::max<int64_t>(0, x - radius); c <= std::min(side - 1, x + radius); ++c)
          sum += pixels[static_cast<size_t>(r * side + c)];
      means[static_cast<size_t>(y * side + x)] = sum / count;
    }
  return means;
}

}  // namespace

std::vector<Parameter> ClutterTask::parameters() {
  return {{"answer", "digit", "digit, or place (of every patch: whether it is one of the digit's)"},
          {"side", 24, "pixels a side of the canvas"},
          {"patch", 4, "pixels a side of a patch: 1, 2 or 4; it divides the canvas"},
          {"pieces", 8, "pieces of other digits"},
          {"noise", 0.0, "deviation of noise on all pixels, which are between 0 and 1"},
          {"blur", 0, "above 0: pixels are means of those so far away or nearer, along rows and columns"},
          {"seed", 0, "another family of samples"}};
}

ClutterTask::ClutterTask(const nlohmann::json& parameters) : LearnedTask("clutter"), digits_(nlohmann::json::object()) {
  ConfigReader reader(name_, parameters);
  answer_ = reader.choice("answer", "digit", {"digit", "place"}) == "digit" ? Answer::digit : Answer::place;
  side_ = reader.integer("side", 24, kDigit, 512);
  patch_ = reader.integer("patch", 4, 1, kPiece);
  require(kPiece % patch_ == 0 && side_ % patch_ == 0, "{}: patch = {}: 1, 2 or 4 that divides side = {} is accepted",
          name_, patch_, side_);
  pieces_ = reader.integer("pieces", 8, 0, 1 << 12);
  noise_ = read_noise(reader, 0.0);
  blur_ = reader.integer("blur", 0, 0, 64);
  finish(reader);
}

Face ClutterTask::face() const {
  const bool named = answer_ == Answer::digit;
  return image_face(1, side_, patch_, named ? digits_.face().outputs : 2, named);
}

double ClutterTask::chance() const {
  if (answer_ == Answer::digit) return digits_.chance();
  return 1 - double(kDigit * kDigit) / double(side_ * side_);
}

std::vector<int64_t> ClutterTask::covered(int64_t row, int64_t column) const {
  const int64_t across = side_ / patch_, size = kDigit / patch_;
  std::vector<int64_t> labels(static_cast<size_t>(across * across), 0);
  for (int64_t i = 0; i < size * size; ++i)
    labels[static_cast<size_t>((row / patch_ + i / size) * across + column / patch_ + i % size)] = 1;
  return labels;
}

ClutterTask::Drawn ClutterTask::draw(Split split, uint64_t index) const {
  auto random = random_of(split, index);
  Drawn drawn{{}, 0, 0};
  auto& pixels = drawn.example.values;
  pixels.assign(static_cast<size_t>(side_ * side_), 0);
  /// Lays the part of a digit that begins at `top`, `left` and has `size` pixels a side on the canvas.
  const auto lay = [&](const Example& digit, int64_t top, int64_t left, int64_t size, int64_t row, int64_t column) {
    for (int64_t y = 0; y < size; ++y)
      std::copy_n(digit.values.begin() + (top + y) * kDigit + left, size, pixels.begin() + (row + y) * side_ + column);
  };
  const auto place = [&](int64_t size) { return patch_ * random.between(0, (side_ - size) / patch_); };
  const auto cut = [&] { return kPiece * random.between(0, kDigit / kPiece - 1); };
  for (int64_t piece = 0; piece < pieces_; ++piece) {
    const auto other = digits_.example(split, random.below(1 << 20));
    const int64_t top = cut(), left = cut(), row = place(kPiece), column = place(kPiece);
    lay(other, top, left, kPiece, row, column);
  }
  const auto digit = digits_.example(split, index);
  drawn.row = place(kDigit), drawn.column = place(kDigit);
  lay(digit, 0, 0, kDigit, drawn.row, drawn.column);
  drawn.example.labels = answer_ == Answer::digit ? digit.labels : covered(drawn.row, drawn.column);
  if (blur_ > 0) pixels = blurred(pixels, side_, blur_);
  if (noise_ > 0)
    for (auto& pixel : pixels) pixel += static_cast<float>(noise_ * random.normal());
  return drawn;
}

}  // namespace heed::tasks
