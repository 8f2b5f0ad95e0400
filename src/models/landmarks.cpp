#include "heed/models/landmarks.h"

#include "heed/error.h"
#include "heed/mixers/landmark_reader.h"
#include "heed/nn/landmark_tokens.h"
#include "heed/nn/start.h"

namespace heed {

using torch::Tensor;

namespace {

/// bool [tokens]: which of the tokens behind the first `seen` are landmarks.
Tensor landmarks_behind(int64_t seen, int64_t tokens, int64_t block) {
  return nn::landmark_places(seen + tokens, block).slice(0, seen);
}

}  // namespace

LandmarksImpl::LandmarksImpl(int64_t block, int64_t dim) : block_(block) {
  require(block >= 2, "landmarks: block = {}: 2 or more is accepted", block);
  embedding = register_parameter("embedding", nn::started_rows({dim}));
}

MixerInput LandmarksImpl::inserted(MixerInput input, int64_t seen) const {
  require(!input.memory && !input.cu_seqlens && !input.positions && !input.grid && !input.sizes,
          "landmarks: memory, packed sequences, positions, grids and sizes of tokens are not accepted");
  const int64_t own = seen - seen / block_, tokens = input.x.size(1);
  const auto real = landmarks_behind(seen, with(own + tokens) - seen, block_).logical_not();
  const auto places = real.nonzero().squeeze(1);
  const auto landmarks = embedding.to(input.x.scalar_type()).expand({input.x.size(0), real.size(0), -1});
  input.x = landmarks.index_copy(1, places, input.x);
  // A landmark follows the last token of its block, which comes in the same call.
  if (input.key_padding) input.key_padding = input.key_padding->index_select(1, real.cumsum(0) - 1);
  return input;
}

Tensor LandmarksImpl::dropped(const Tensor& y, int64_t seen) const {
  const auto real = landmarks_behind(seen, y.size(1), block_).logical_not();
  return y.index_select(1, real.nonzero().squeeze(1));
}

Landmarks make_landmarks(torch::nn::Module& owner, const std::vector<TransformerBlock>& blocks, int64_t dim) {
  int64_t found = 0;
  for (const auto& block : blocks) {
    const auto* reader = dynamic_cast<const LandmarkReader*>(block->mixer.get());
    const int64_t wanted = reader ? reader->inserted_block() : 0;
    require(!found || !wanted || wanted == found,
            "layers of landmark_attention with blocks of {} and of {}: one size in a model is accepted", found, wanted);
    if (wanted) found = wanted;
  }
  return found ? owner.register_module("landmarks", Landmarks(found, dim)) : Landmarks(nullptr);
}

}  // namespace heed
