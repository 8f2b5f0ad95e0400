// A neighbourhood with its weights written out: scores of every token with its window, values summed by given weights,
// and the sums the other way round (Faster Neighborhood Attention, arXiv 2403.04690: PN, NN and IN).
#pragma once

#include "heed/kernels/neighborhood.h"
#include "heed/kernels/view.h"

namespace heed::kernels {

// A band holds a row of W = around.window_keys() numbers for every token: the keys of its window, the last axis
// fastest. Where a causal window is shorter than that, the entries behind its last key stand for none. All tensors of a
// call are float32 or all float64; the last dimension is dense. Heads share as in flash: head h of the band goes with
// head h * Hk / H of `keys`. Throws heed::Error for what does not fit.

/// band [B, H, N, W] = scale <rows_i, keys_j> for rows [B, H, N, D], keys [B, Hk, N, D]; `absent` where there is no
/// key.
void band_scores(const Neighborhood& around, const AnyView& rows, const AnyView& keys, double scale, double absent,
                 const AnyView& band);

/// out [B, H, N, D] = sum over the window of band_ij keys_j.
void band_sums(const Neighborhood& around, const AnyView& band, const AnyView& keys, const AnyView& out);

/// out [B, Hk, N, D] = sum over the tokens i that see j, in all heads that go with its own, of band_ij rows_i.
void band_sums_of_seeing(const Neighborhood& around, const AnyView& band, const AnyView& rows, const AnyView& out);

namespace reference {
void band_scores(const Neighborhood& around, const AnyView& rows, const AnyView& keys, double scale, double absent,
                 const AnyView& band);
void band_sums(const Neighborhood& around, const AnyView& band, const AnyView& keys, const AnyView& out);
void band_sums_of_seeing(const Neighborhood& around, const AnyView& band, const AnyView& rows, const AnyView& out);
}  // namespace reference

}  // namespace heed::kernels
