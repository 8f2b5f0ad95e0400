#include "heed/cache/layer_cache.h"

#include "cache/elapsed.h"
#include "heed/error.h"

namespace heed::cache {

using torch::Tensor;

Reads& Reads::operator+=(const Reads& other) {
  steps += other.steps;
  full_steps += other.full_steps;
  attended += other.attended;
  scored += other.scored;
  attention_seconds += other.attention_seconds;
  policy_seconds += other.policy_seconds;
  prompt_pairs += other.prompt_pairs;
  prompt_visible += other.prompt_visible;
  return *this;
}

void LayerCache::fail_to(const char* what) { fail("a cache policy's state can't {}", what); }

void LayerCache::truncate(int64_t tokens) {
  require(tokens >= 0 && tokens <= seen_, "truncate to {} tokens: 0 to {} is accepted", tokens, seen_);
  for (int64_t r = 0; r < kv_.rows(); ++r)
    require(kv_.length(r) == seen_, "truncate to {} tokens: the cache holds {} of {} tokens, the others are gone",
            tokens, kv_.length(r), seen_);
  kv_.shorten(tokens);
  seen_ = tokens;
}

void LayerCache::hold_at(int64_t slots) {
  const int64_t lost = kv_.longest() - slots;
  if (lost <= 0) return;
  bool whole = true;  // no row has dropped anything: places follow the slots
  for (int64_t r = 0; r < kv_.rows(); ++r) whole &= kv_.length(r) == seen_;
  kv_.shorten(slots);
  whole ? seen_ = slots : forgotten_ += lost;
  shortened(slots);
}

Tensor LayerCache::rotate(const Chunk& chunk, const Tensor& x, const Tensor& positions) const {
  return chunk.call.encoding->rotate(x, positions);
}

Tensor LayerCache::attend(const CacheCall& call) {
  torch::NoGradGuard no_grad;
  const auto start = Clock::now();
  const double attention_before = reads_.attention_seconds;
  Chunk chunk{call, call.q, call.k, call.v, seen_};
  if (!keeps_unrotated()) {
    chunk.q = rotate(chunk, call.q, call.positions);
    chunk.k = rotate(chunk, call.k, call.positions);
  }
  store(chunk);
  seen_ += chunk.size();
  const bool step = !in_prompt_ && chunk.size() == 1;
  const int64_t attended_before = reads_.attended;
  if (step) ++reads_.steps;
  if (step && recording_) tokens_read_ = torch::zeros({chunk.q.size(0), chunk.q.size(1), seen_}, torch::kBool);
  const Tensor out = step ? attend_step(chunk) : attend_chunk(chunk);
  step ? after_step(chunk) : after_chunk(chunk);
  if (step && reads_.attended - attended_before >= kv_.rows() * seen_) ++reads_.full_steps;
  const double attention = reads_.attention_seconds - attention_before;
  if (step)
    reads_.policy_seconds += seconds_since(start) - attention;
  else
    reads_.attention_seconds = attention_before;  // only steps count
  return out;
}

void LayerCache::finish_prompt() {
  if (!in_prompt_) return;
  torch::NoGradGuard no_grad;
  in_prompt_ = false;
  if (seen_ > 0) compress();
  kv_.quantise(storage_);
}

void LayerCache::store(const Chunk& chunk) { kv_.append(chunk.k, chunk.v, chunk.first); }

Tensor LayerCache::attend_chunk(const Chunk& chunk) { return attend_slots(chunk, chunk.call.options.mask); }

Tensor LayerCache::attend_step(const Chunk& chunk) {
  return decode(chunk.q, everything(), decode_options(chunk, chunk.call.options.mask)).out;
}

ops::DecodeOptions LayerCache::decode_options(const Chunk& chunk, const Mask& mask) {
  ops::DecodeOptions options;
  options.scale = chunk.call.options.scale;
  options.softcap = chunk.call.options.softcap;
  options.mask = mask;
  return options;
}

Tensor LayerCache::attend_in_parts(const Chunk& chunk, int64_t most,
                                   const std::function<Tensor(int64_t at, int64_t n)>& attend) {
  std::vector<Tensor> parts;
  for (int64_t at = 0; at < chunk.size(); at += most) parts.push_back(attend(at, std::min(most, chunk.size() - at)));
  return torch::cat(parts, 2);
}

Tensor LayerCache::attend_slots(const Chunk& chunk, const Mask& mask, Tensor* lse) const {
  if (!kv_.uniform())
    return attend_heads(
        chunk, [&](int64_t) { return mask; }, lse);
  AttentionOptions options = chunk.call.options;
  options.mask = mask;
  const auto result = attention_with_lse(chunk.q, kv_.keys(), kv_.values(), options);
  if (lse) *lse = result.lse;
  return result.out;
}

Tensor LayerCache::attend_heads(const Chunk& chunk, const std::function<Mask(int64_t head)>& mask, Tensor* lse) const {
  AttentionOptions options = chunk.call.options;
  const int64_t queries = group(chunk);
  auto out = torch::empty({chunk.q.size(0), chunk.q.size(1), chunk.size(), chunk.v.size(3)}, chunk.q.options());
  if (lse) *lse = torch::empty({chunk.q.size(0), chunk.q.size(1), chunk.size()}, torch::kFloat32);
  for (int64_t r = 0; r < kv_.rows(); ++r) {
    const int64_t b = r / kv_.heads(), h = r % kv_.heads();
    const auto part = [&](const Tensor& x) { return x.narrow(0, b, 1).narrow(1, h * queries, queries); };
    options.mask = mask(h);
    const auto result = attention_with_lse(part(chunk.q), kv_.keys(r).unsqueeze(0).unsqueeze(0),
                                           kv_.values(r).unsqueeze(0).unsqueeze(0), options);
    part(out).copy_(result.out);
    if (lse) part(*lse).copy_(result.lse);
  }
  return out;
}

ops::DecodeResult LayerCache::decode(const Tensor& q, const ops::CacheTensors& cache, ops::DecodeOptions options) {
  const auto start = Clock::now();
  auto result = ops::decode(q, cache, options);
  reads_.attention_seconds += seconds_since(start);
  if (recording_) note_reads(cache);
  reads_.attended += result.slots_read;
  return result;
}

void LayerCache::note_reads(const ops::CacheTensors& cache) {
  // Parts of a prompt and of a batch are not noted.
  if (in_prompt_ || !tokens_read_.defined() || cache.lengths.size(0) != tokens_read_.size(0)) return;
  const int64_t lists = cache.kv_heads(), queries = tokens_read_.size(1) / lists, page = cache.page_size;
  for (int64_t b = 0; b < tokens_read_.size(0); ++b)
    for (int64_t h = 0; h < lists; ++h) {
      const int64_t row = b * kv_.heads() + h * kv_.heads() / lists, count = cache.lengths[b][h].item<int64_t>();
      Tensor slots;
      if (!cache.table) {
        // A view of the slab, maybe of its later slots only.
        const auto& k = cache.k;
        const int64_t first = (k.storage_offset() + b * k.stride(0) + h * k.stride(1)) / k.stride(2);
        slots = torch::arange(count) + first - kv_.offset(row);
      } else {
        const auto pages = (*cache.table)[b][h].to(torch::kInt64).slice(0, 0, (count + page - 1) / page);
        slots = (pages.unsqueeze(1) * page + torch::arange(page)).flatten().slice(0, 0, count) - kv_.offset(row);
      }
      slots = slots.masked_select(slots.ge(0) & slots.lt(kv_.length(row)));
      const auto tokens = kv_.positions(row).index_select(0, slots);
      tokens_read_[b].narrow(0, h * queries, queries).index_fill_(1, tokens, true);
    }
}

ops::CacheTensors LayerCache::everything() const {
  ops::CacheTensors cache;
  if (kv_.uniform() && kv_.format().exact()) {
    cache.lengths = kv_.lengths();
    cache.k = kv_.keys();
    cache.v = kv_.values();
    return cache;
  }
  cache = kv_.pages(nn::RaggedKv::kPage);
  cache.lengths = kv_.lengths();
  cache.table = kv_.page_table();
  return cache;
}

ops::CacheTensors LayerCache::gathered(const Tensor& slots) const {
  auto cache = kv_.pages(1);
  auto offsets = torch::empty({kv_.batch(), kv_.heads()}, torch::kInt32);
  for (int64_t r = 0; r < kv_.rows(); ++r) offsets.data_ptr<int32_t>()[r] = static_cast<int32_t>(kv_.offset(r));
  offsets = offsets.repeat_interleave(slots.size(1) / kv_.heads(), 1).unsqueeze(2);
  cache.table = (slots.clamp_min(0) + offsets).contiguous();
  cache.lengths = slots.ge(0).sum(2);
  return cache;
}

ops::CacheTensors LayerCache::paged(const Tensor& pages) const {
  const int64_t page = nn::RaggedKv::kPage;
  auto cache = kv_.pages(page);
  auto table = pages.clamp_min(0).contiguous();
  cache.lengths = pages.ge(0).sum(2) * page;
  for (int64_t r = 0; r < kv_.rows(); ++r) {
    const int64_t b = r / kv_.heads(), h = r % kv_.heads();
    // The newest page may be begun only; it is the last of the list where it is chosen.
    const int64_t length = kv_.length(r), begun = length % page;
    if (begun != 0 && pages[b][h].max().item<int32_t>() == length / page) cache.lengths[b][h] += begun - page;
    table[b][h].add_(static_cast<int32_t>(kv_.offset(r) / page));
  }
  cache.table = table;
  return cache;
}

ops::CacheTensors LayerCache::blocks(const Tensor& chosen, int64_t size) const {
  const bool whole = size % nn::RaggedKv::kPage == 0;
  const int64_t unit = whole ? nn::RaggedKv::kPage : 1, units = size / unit;
  const auto expanded = (chosen.unsqueeze(3) * units + torch::arange(units, torch::kInt32)).flatten(2);
  // The newest block may be begun only; it is the last of the list where it is chosen.
  const auto in_use = (kv_.lengths().unsqueeze(2) + unit - 1).div(unit, "floor");
  const auto list = expanded.masked_fill(expanded >= in_use, -1);
  return whole ? paged(list) : gathered(list);
}

std::optional<ops::KeyRotation> LayerCache::rotation_on_read(const Chunk& chunk, int64_t slots) const {
  const auto& positions = chunk.call.encoding->config();
  if (positions.kind != "rope") return std::nullopt;
  ops::KeyRotation rotation;
  rotation.inverse_frequencies =
      nn::rope_frequencies(positions.rope, chunk.k.size(3), slots).to(torch::kFloat32).contiguous();
  rotation.interleaved = positions.rope.interleaved;
  return rotation;
}

Tensor LayerCache::rotate_query(const Chunk& chunk, const Tensor& q, const Tensor& positions) const {
  const auto rotated = rotate(chunk, q, positions);
  const auto& config = chunk.call.encoding->config();
  const double magnitude = config.kind == "rope" ? nn::rope_magnitude(config.rope) : 1;
  if (magnitude == 1) return rotated;
  const int64_t dim = config.rope.rotary_dim ? config.rope.rotary_dim : q.size(3);
  return torch::cat({rotated.narrow(3, 0, dim) * magnitude, rotated.slice(3, dim)}, 3);
}

ops::DecodeResult merge(const ops::DecodeResult& a, const ops::DecodeResult& b) {
  ops::DecodeResult merged;
  merged.lse = torch::logaddexp(a.lse, b.lse);
  const auto share = [&](const ops::DecodeResult& part) {
    // Two empty sides: the difference of two infinities is no share.
    return (part.lse - merged.lse).nan_to_num(-INFINITY).exp() * part.out;
  };
  merged.out = (share(a) + share(b)).to(a.out.scalar_type());
  merged.slots_read = a.slots_read + b.slots_read;
  return merged;
}

}  // namespace heed::cache
