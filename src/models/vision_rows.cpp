#include "models/vision_rows.h"

#include "heed/models/attention_swin_unet.h"
#include "heed/models/dual_cross.h"
#include "heed/models/medusa.h"
#include "heed/models/memory_propagation.h"
#include "heed/models/overlock.h"
#include "heed/models/style_discriminator.h"
#include "heed/models/style_generator.h"
#include "heed/models/timestep_experts.h"

namespace heed {
namespace {

RegistryRow row(const char* name, const char* paper, int year, const char* cost, std::vector<Parameter> parameters) {
  RegistryRow row;
  row.name = name;
  row.kind = Kind::model;
  row.family = "sparse_and_vision";
  row.paper = paper;
  row.year = year;
  row.patterns.noncausal_self = true;
  row.grid = true;
  row.cost = cost;
  row.parameters = std::move(parameters);
  return row;
}

RegistryRow memory_propagation() {
  const MemoryPropagationConfig c;
  auto r = row("memory_propagation",
               "ColorMNet: A Memory-based Deep Spatial-Temporal Feature Propagation Network for Video Colorization "
               "(arXiv 2404.06251)",
               2024, "O(N cells) a frame",
               {{"channels", c.channels, "of features and values"},
                {"key", c.key, "channels of keys"},
                {"every", c.every, "every so many frames one is remembered"},
                {"window", c.window, "cells a side that attention to the last remembered frame sees"},
                {"top", c.cells.top, "cells of the memory that a query reads"},
                {"working", c.cells.working, "frames that are remembered whole, behind the first"},
                {"prototypes", c.cells.prototypes, "cells that older frames are compressed to"},
                {"capacity", c.cells.capacity, "compressed cells; the least used are given up"}});
  r.patterns = {false, true, false, false};
  r.step = r.fixed_state = r.one_way = true;
  return r;
}

}  // namespace

std::vector<RegistryRow> vision_model_rows() {
  const SwinUnetConfig unet;
  const MedusaConfig medusa;
  const DualCrossConfig dual;
  const TimestepExpertsConfig experts;
  const OverlockConfig overlock;
  const StyleGeneratorConfig style;
  return {
      row("pyramid", "Pyramid Vision Transformer (arXiv 2102.12122)", 2021, "O(N^2)",
          {{"stages", 4,
            "each with half the grid of the one before; stage s has s times the channels. Or a list with an object for "
            "each stage: mixer, set, depth, width, ... (docs/vision.md)"}}),
      row("unet", "VM-UNet: Vision Mamba UNet for Medical Image Segmentation (arXiv 2402.02491), with any mixer", 2024,
          "O(N^2)", {{"scales", 3, "grids, each half of the one before; scale s has s times the channels"}}),
      row("overlock",
          "OverLoCK: An Overview-first-Look-Closely-next ConvNet with Context-Mixing Dynamic Kernels (arXiv "
          "2502.20087)",
          2025, "O(N (49 C + K^2 C))",
          {{"stages", OverlockConfig::kStages,
            "or a list of as many objects, as pyramid has them; the last is the overview"},
           {"depth", overlock.depth, "blocks of the second look"},
           {"kernel", overlock.kernel, "of their large kernels, odd, 3 to 17"},
           {"context", overlock.context, "the second look is told of the first"},
           {"overview_weight", overlock.overview_weight, "in training, of the loss of the first look alone"}}),
      row("transformer_in_transformer", "Transformer in Transformer (arXiv 2103.00112)", 2021, "O(N^2)",
          {{"word", 1, "pixels a side of a word inside a patch"},
           {"word_kernel", 3, "pixels a side that a word is made from, odd"},
           {"word_dim", 0, "channels of words (default: a quarter of dim)"},
           {"word_heads", 2, "of the attention among the words of a patch"}}),
      row("cross_contextual_attention",
          "Attention Swin U-Net: Cross-Contextual Attention Mechanism for Skin Lesion Segmentation (arXiv 2210.16898)",
          2022, "O(N w^2)",
          {{"window", unet.window, "cells a side of windows"},
           {"scales", unet.scales, "grids, each half of the one before; the last has the mixers that are named"},
           {"depth", unet.depth, "window blocks of a scale"},
           {"reuse", "sum", "none, sum or product: the decoder's weights with the encoder's of the same windows"},
           {"exchanges", unet.skip.depth, "of global tokens in a skip; 0: a linear map of both sides"},
           {"skip_heads", unet.skip.heads, "of these exchanges"},
           {"skip_head_dim", unet.skip.head_dim, "their size"},
           {"first_cell", unet.skip.first_cell, "a global token replaces the first cell; else it is added to all"}}),
      row("medusa_attention",
          "MEDUSA: Multi-scale Encoder-Decoder Self-Attention Deep Neural Network Architecture for Medical Image "
          "Analysis (arXiv 2110.06063)",
          2021, "O(N)",
          {{"stages", 4, "of the pyramid that is gated, as pyramid has them"},
           {"width", medusa.width, "channels of the body, doubled at each level"},
           {"levels", medusa.levels, "of the body"},
           {"head_channels", medusa.head_channels, "of the small heads that make gates from its map"},
           {"shared", medusa.shared, "one body for all stages; else one each"},
           {"residual", medusa.residual, "features are multiplied by 1 + gate"}}),
      row("point_colorization",
          "iColoriT: Towards Propagating Local Hint to the Right Region in Interactive Colorization by Leveraging "
          "Vision "
          "Transformer (arXiv 2207.06831)",
          2022, "O(N^2)",
          {{"head", "convolution", "linear, convolution or attention: what of 3 x 3 tokens paints a patch"},
           {"relative", true, "dense layers get a bias by offset"}}),
      memory_propagation(),
      row("layerwise_timestep_experts",
          "LaTtE-Flow: Layerwise Timestep-Expert Flow-based Transformer (arXiv 2506.06952)", 2025, "O(N^2)",
          {{"layers", experts.layers, "of all groups"},
           {"groups", experts.groups, "K, each of which serves 1 / K of the time"},
           {"residual", experts.residual, "scores of the layer before are added, gated by time"},
           {"text", experts.text, "channels of a text's states that layers attend to beside the sample; 0: none"},
           {"blend", experts.blend, "these are the keys and values of the text's own layers, attended to as they are"},
           {"recompute", experts.recompute, "they are part of one wider product, in O(N) memory"}}),
      row("style_generator", "StyleSwin: Transformer-based GAN for High-resolution Image Generation (arXiv 2112.10762)",
          2021, "O(N w^2)",
          {{"latent", style.latent, "numbers of the noise"},
           {"style", style.style, "numbers of the style that steers all norms"},
           {"mapping", style.mapping, "layers from noise to style"},
           {"dims", style.dims, "channels of 4 x 4 cells, of 8 x 8, ...: as many pixels as the last has cells"},
           {"heads", style.heads, "of the double windows, even"},
           {"window", style.window, "cells a side of windows"},
           {"colours", style.colours, "channels of an image"}}),
      row("style_discriminator",
          "StyleSwin: Transformer-based GAN for High-resolution Image Generation (arXiv 2112.10762)", 2021, "O(N)",
          {{"dims", StyleDiscriminatorConfig{}.dims,
            "channels of half of the image's resolution, a quarter, ... to 4 x 4"},
           {"colours", StyleDiscriminatorConfig{}.colours, "channels of an image"}}),
      row("dual_cross_attention_learning",
          "Dual Cross-Attention Learning for Fine-Grained Visual Categorization and Object Re-Identification "
          "(arXiv 2205.02151)",
          2022, "O(N^2)",
          {{"share", dual.share, "of the patches that ask all of the image once more"},
           {"local", dual.local, "whether they do"},
           {"pairs", dual.pairs, "in training, images are distracted by others"}}),
  };
}

}  // namespace heed
