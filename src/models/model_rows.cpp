#include "heed/models/model_rows.h"

#include "models/vision_rows.h"

namespace heed {

std::span<const RegistryRow> model_rows() {
  static const std::vector<RegistryRow> rows = [] {
    std::vector<RegistryRow> rows{
        {.name = "drama_world_model",
         .kind = Kind::model,
         .family = "linear_and_recurrent",
         .paper = "Drama: Mamba-Enabled Model-Based RL Is Sample and Parameter Efficient (arXiv 2410.08893)",
         .year = 2024,
         .patterns = {false, true, false, false},
         .step = true,
         .fixed_state = true,
         .one_way = true,
         .cost = "O(N)",
         .parameters = {{"observation", 81, "numbers of an observation"},
                        {"actions", 4, "there are"},
                        {"categoricals", 32, "one-hot variables of a code"},
                        {"classes", 32, "of each"},
                        {"dim", 512, "channels of the sequence model"},
                        {"layers", 2, "of the sequence model; 0: nothing is remembered"},
                        {"hidden", 512, "width of encoder, decoder and heads"},
                        {"mixer", "mamba2", "of the sequence model: any causal one with a step"},
                        {"reward_bins", 255, "of the two-hot rewards"},
                        {"reward_range", 20.0, "of symlog rewards"},
                        {"free_bits", 1.0, "KL terms below it, in nats, have no gradient"},
                        {"representation", 0.1, "weight of the KL that draws codes towards what is foretold"}}},
        {.name = "samba_asr",
         .kind = Kind::model,
         .family = "linear_and_recurrent",
         .paper = "Samba-ASR: State-of-the-Art Speech Recognition Leveraging Structured State-Space Models (arXiv "
                  "2501.02832)",
         .year = 2025,
         .patterns = {true, true, true, false},
         .step = true,
         .fixed_state = true,
         .one_way = true,
         .cost = "O(N)",
         .parameters = {{"bands", 80, "log-mel bands of a frame"},
                        {"dim", 256, "channels of the tokens"},
                        {"encoder_layers", 4, "mixers over frames"},
                        {"decoder_layers", 4, "mixers over text"},
                        {"stride", 4, "frames a token: 2 or 4"},
                        {"vocab_size", 32, "text tokens, of which 0 ends a text"},
                        {"mixer", "mamba", "of both sides: any with a step"},
                        {"bidirectional", true, "the encoder sees all frames"},
                        {"connection", "state", "state (handed to the text) or concatenated (one sequence)"},
                        {"mean", true, "a gated mean of the speech is added to text tokens, with connection state"},
                        {"ctc", false, "a CTC head on the encoder"}}},
        {.name = "orion_msp",
         .kind = Kind::model,
         .family = "sparse_and_vision",
         .paper = "Orion-MSP: Multi-Scale Sparse Attention for Tabular In-Context Learning (arXiv 2511.02818)",
         .year = 2025,
         .patterns = {true, false, true, false},
         .cost = "O(T m w + T n)",
         .parameters = {{"dim", 128, "channels of a cell; of a row four times as many"},
                        {"column_blocks", 3, "induced attention over the rows of a column"},
                        {"inducing", 128, "points of each, which see training rows alone"},
                        {"column_heads", 4, "of these"},
                        {"scales", {1, 4, 8}, "features that become one token of a row"},
                        {"row_blocks", 3, "over all scales, rounded up"},
                        {"row_heads", 8, "of these"},
                        {"window", 4, "tokens on either side that a token of a row sees"},
                        {"random_links", 0, "further ones it sees"},
                        {"latents", 16, "of the memory that training rows write; 0: none"},
                        {"memory_blocks", 2, "that write it, and that read it"},
                        {"icl_blocks", 12, "over rows, whose keys are the training rows"},
                        {"icl_heads", 4, "of these"},
                        {"classes", 10, "most that are told apart"},
                        {"temperature", 0.9, "of the probabilities"}}},
    };
    for (auto& row : vision_model_rows()) rows.push_back(std::move(row));
    return rows;
  }();
  return rows;
}

}  // namespace heed
