// What mixer files share to state their rows, and the rows themselves, gathered by registry.cpp.
#pragma once

#include "heed/mixers/attention_mixer.h"
#include "heed/registry.h"

namespace heed::rows {

/// The parameters every attention mixer has, and its own.
std::vector<Parameter> attention_parameters(std::vector<Parameter> own = {});

/// A `make` that reads the shared configuration, lets `build` read its own keys, and refuses the rest.
template <class Build>
auto attention_maker(const char* name, Build build) {
  return [name, build](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
    ConfigReader reader(name, json);
    const auto config = AttentionConfig::read(reader);
    auto mixer = build(config, reader);
    reader.finish();
    return mixer;
  };
}

RegistryRow dense();
RegistryRow sliding_window();
RegistryRow flash_attention();
RegistryRow sigmoid_attention();
RegistryRow s2_attention();
RegistryRow generalized_neighborhood();
RegistryRow fused_neighborhood();
RegistryRow longformer();
RegistryRow linformer();
RegistryRow bigbird();
RegistryRow quantizable_attention();
RegistryRow selective_self_attention();
RegistryRow shared_attention();
RegistryRow multi_axis_attention();
RegistryRow double_window_attention();
RegistryRow halo_attention();
RegistryRow dual_attention();
RegistryRow convolution();
RegistryRow large_kernel_attention();
RegistryRow squeeze_excitation();
RegistryRow coordinate_attention();
RegistryRow efficient_local_attention();
RegistryRow subspace_attention();
RegistryRow spectral_gating();
RegistryRow activator_glu();
RegistryRow mlp_mixer();
RegistryRow ninformer_gating();
RegistryRow factorization_attention();
RegistryRow aggregated_attention();
RegistryRow kolmogorov_arnold_attention();
RegistryRow bilevel_routing_attention();
RegistryRow conv_share_attention();
RegistryRow routing_attention();
RegistryRow hip_attention();
RegistryRow superlinear_attention();
RegistryRow shifted_sparse_attention();
RegistryRow masformer();
RegistryRow hyper_attention();
RegistryRow reformer();
RegistryRow landmark_attention();
RegistryRow dynamic_mask_attention();
RegistryRow core_context_attention();
RegistryRow stochastic_subsampled_attention();
RegistryRow dynamic_hierarchical_sparse_attention();
RegistryRow sparsifiner();
RegistryRow hard_attention();
RegistryRow transformer_xl();
RegistryRow deconstructed_attention();
RegistryRow tensor_attention();
RegistryRow context_mixing_conv();
RegistryRow performer();
RegistryRow linear_attention();
RegistryRow lightning_attention();
RegistryRow norm_attention();
RegistryRow diag_attention();
RegistryRow gla();
RegistryRow deltanet();
RegistryRow based();
RegistryRow base_conv();
RegistryRow gru();
RegistryRow lstm();
RegistryRow kernelized_rpe();
RegistryRow rala();
RegistryRow mala();
RegistryRow l2vit_lga();
RegistryRow inline_attention();
RegistryRow agent_attention();
RegistryRow agent_sd();
RegistryRow flow_attention();
RegistryRow sea();
RegistryRow mamba2();
RegistryRow titans_memory();
RegistryRow titans();
RegistryRow combiner();
RegistryRow transnormer_llm();
RegistryRow tnl();
RegistryRow rf_attention_layer();
RegistryRow positional_attention();
RegistryRow causal_grassmann();
RegistryRow aaren();
RegistryRow seqboat();
RegistryRow s4();
RegistryRow s4d();
RegistryRow mamba();
RegistryRow ss2d();
RegistryRow lamamba();

}  // namespace heed::rows
