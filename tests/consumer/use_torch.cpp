// heed::heed: attention with a gradient.
#include <heed/attention.h>

int main() {
  const auto q = torch::randn({1, 2, 7, 16}).requires_grad_();
  heed::AttentionOptions options;
  options.mask = heed::Causal{} & (heed::Window{3} | heed::SinkTokens{1});
  heed::attention(q, q, q, options).sum().backward();
  return torch::isfinite(q.grad()).all().item<bool>() ? 0 : 1;
}
