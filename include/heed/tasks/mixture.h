// What a byte language model is trained on: text and tasks in given shares.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "heed/tasks/corpus.h"

namespace heed::tasks {

/// Windows of `context` + 1 bytes: inputs are the first `context`, targets the last.
///
/// A text window is consecutive text, every target of weight 1. A task window holds samples of one task, their lengths
/// drawn anew, separated by byte 0, with text before them where they do not fill it; text has weight 1, the bytes a
/// task scores share context / 4 among them but have at most 16 each, the rest of a sample has weight 0: one answer of
/// four bytes would otherwise drown in text, and a copied page would drown the text.
class Mixture {
 public:
  struct Window {
    std::vector<uint8_t> tokens;  ///< context + 1
    std::vector<float> weights;   ///< context; weights[i] belongs to the target tokens[i + 1]
    std::string_view source;      ///< the component the window belongs to
  };
  struct Component {
    std::string name;  ///< "text" or a text task
    double share;      ///< they sum to 1
  };

  /// `spec` is "text=0.7,niah_single=0.2,copy=0.1": shares above 0, normalised to sum 1; "niah" stands for niah_single.
  /// `corpus` may be null when `spec` has no text, and must outlive this object. Throws heed::Error for an unknown
  /// name, a share that is no positive number, or a context too short for a task.
  Mixture(std::string_view spec, const Corpus* corpus, int64_t context, uint64_t seed = 0);

  /// `spec` without the tasks that a context is too short for. Throws heed::Error where none is left.
  static std::string fitting(std::string_view spec, int64_t context);

  /// A pure function of the corpus, the constructor's arguments, `split` and `index`.
  Window window(Split split, uint64_t index) const;

  const std::vector<Component>& components() const { return components_; }

 private:
  Window task_window(const std::string& name, Split split, uint64_t index, Random& random) const;

  std::vector<Component> components_;
  const Corpus* corpus_;
  int64_t context_;
  uint64_t seed_;
};

}  // namespace heed::tasks
