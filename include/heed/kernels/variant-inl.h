// Write an attention of your own: a struct with the hooks you need, compiled in your file for every instruction set.
//
//   #undef HWY_TARGET_INCLUDE
//   #define HWY_TARGET_INCLUDE "my_file.cpp"          // this file, as the compiler finds it
//   #include <heed/kernels/targets.h>
//   #include <hwy/foreach_target.h>
//   #include <heed/kernels/variant-inl.h>
//
//   HWY_BEFORE_NAMESPACE();
//   namespace mine::HWY_NAMESPACE {
//   using namespace heed::kernels::HWY_NAMESPACE;
//   struct Mine : VariantBase<MyParameters> {           // MyParameters: plain data, defined once outside
//     Vector logit(const Pair& at, Vector s) const;     // any of the hooks below
//     Vector logit_derivative(const Pair& at, Vector s) const;
//   };
//   HEED_VARIANT(Mine, MineTable)
//   }
//   HWY_AFTER_NAMESPACE();
//   #if HWY_ONCE
//   namespace mine { HWY_EXPORT(MineTable); ... flash_forward(params, Variant{HEED_DISPATCH(MineTable)(),
//   &parameters}); } #endif
//
// Hooks get a vector whose lanes are queries, and one key. A hook that is left out is the identity; one with a
// derivative below must come with it. examples/custom_score.cpp is a whole one.
//
//   Vector query(const Row& at, int64_t c, Vector q)               element c of the queries, before product and scale
//   Vector query_derivative(const Row& at, int64_t c, Vector q)    d query / d q
//   Vector logit(const Pair& at, Vector s)                         s: the scaled product
//   Vector logit_derivative(const Pair& at, Vector s)              d logit / d s
//   LaneMask visible(const Pair& at)                               false: the pair is hidden
//   Vector multiplier(const Pair& at)                              times the weight, after the normaliser
//   Vector output_factor(const Row& at, int64_t c)                 times element c of the output
//
// A normaliser of its own takes the place of softmax (then there is no lse):
//   Vector weight(const Pair& at, Vector s, const State& state)                 0 for -inf
//   Vector weight_derivative(const Pair& at, Vector s, const State& state)      d weight / d s at a fixed state
// and, when kRowState > 0 floats per row must be known before the first weight (State is std::array<Vector,
// kRowState>):
//   State start(const Row& at)
//   State update(const Pair& at, const State& state, Vector s)                  folds one visible key in
//   State merge(const State& a, const State& b)                                 of two disjoint key sets
//   Vector weight_state_derivative(const Pair& at, Vector s, const State& state, int k)   d weight / d state[k]
//   Vector state_derivative(const Pair& at, Vector s, const State& state, int k)          d final state[k] / d s
#if defined(HEED_KERNELS_VARIANT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_VARIANT_INL_H_
#undef HEED_KERNELS_VARIANT_INL_H_
#else
#define HEED_KERNELS_VARIANT_INL_H_
#endif

#include <array>
#include <concepts>

#include "heed/kernels/lanes-inl.h"
#include "heed/kernels/variant.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

/// kLanes query rows.
struct Row {
  int64_t batch, head;
  int64_t num_queries, num_keys;
  int64_t first_query;  ///< of lane 0; lanes beyond the sequence are padding

  IntegerVector query() const { return count_from(first_query); }
  /// i' = i + M - N.
  IntegerVector position() const { return count_from(first_query + num_keys - num_queries); }
};

/// kLanes query rows and one key.
struct Pair : Row {
  int64_t key;
  /// i' - j.
  IntegerVector distance() const { return count_from(first_query + num_keys - num_queries - key); }
};

template <class Parameters, int kFloatsPerRow = 0>
struct VariantBase {
  static constexpr int kRowState = kFloatsPerRow;
  // std::array needs an element even when nobody reads it.
  using State = std::array<Vector, kFloatsPerRow == 0 ? 1 : kFloatsPerRow>;
  const Parameters& parameters;
};

template <class V>
concept HasQuery = requires(const V& v, const Row& at, Vector q) {
  { v.query(at, int64_t{}, q) } -> std::same_as<Vector>;
  { v.query_derivative(at, int64_t{}, q) } -> std::same_as<Vector>;
};
template <class V>
concept HasLogit = requires(const V& v, const Pair& at, Vector s) {
  { v.logit(at, s) } -> std::same_as<Vector>;
  { v.logit_derivative(at, s) } -> std::same_as<Vector>;
};
template <class V>
concept HasVisible = requires(const V& v, const Pair& at) {
  { v.visible(at) } -> std::same_as<LaneMask>;
};
template <class V>
concept HasMultiplier = requires(const V& v, const Pair& at) {
  { v.multiplier(at) } -> std::same_as<Vector>;
};
template <class V>
concept HasOutputFactor = requires(const V& v, const Row& at) {
  { v.output_factor(at, int64_t{}) } -> std::same_as<Vector>;
};
template <class V>
concept HasWeight = requires(const V& v, const Pair& at, Vector s, const typename V::State& state) {
  { v.weight(at, s, state) } -> std::same_as<Vector>;
  { v.weight_derivative(at, s, state) } -> std::same_as<Vector>;
};
template <class V>
concept HasState = requires(const V& v, const Row& row, const Pair& at, Vector s, const typename V::State& state) {
  { v.start(row) } -> std::same_as<typename V::State>;
  { v.update(at, state, s) } -> std::same_as<typename V::State>;
  { v.merge(state, state) } -> std::same_as<typename V::State>;
  { v.weight_state_derivative(at, s, state, 0) } -> std::same_as<Vector>;
  { v.state_derivative(at, s, state, 0) } -> std::same_as<Vector>;
};
// A hook by its name alone: present, but perhaps not as it must be.
template <class V>
concept NamesQuery = requires {
  &V::query;
}
|| requires { &V::query_derivative; };
template <class V>
concept NamesLogit = requires {
  &V::logit;
}
|| requires { &V::logit_derivative; };
template <class V>
concept NamesWeight = requires {
  &V::weight;
}
|| requires { &V::weight_derivative; };
template <class V>
concept NamesState = requires {
  &V::start;
}
|| requires { &V::update; };

/// From a vector's hooks to the engine's, which take whole tiles.
template <class V>
class VariantTiles {
  static_assert(!NamesQuery<V> || HasQuery<V>,
                "query and query_derivative (const Row&, int64_t, Vector) must come together");
  static_assert(!NamesLogit<V> || HasLogit<V>, "logit and logit_derivative (const Pair&, Vector) must come together");
  static_assert(!NamesWeight<V> || HasWeight<V>,
                "weight and weight_derivative (const Pair&, Vector, const State&) must come together");
  static_assert(
      !requires { &V::visible; } || HasVisible<V>, "visible must be LaneMask visible(const Pair&) const");
  static_assert(
      !requires { &V::multiplier; } || HasMultiplier<V>, "multiplier must be Vector multiplier(const Pair&) const");
  static_assert(
      !requires { &V::output_factor; } || HasOutputFactor<V>,
      "output_factor must be Vector output_factor(const Row&, int64_t) const");
  static_assert(NamesState<V> == (V::kRowState > 0),
                "start and update belong to a variant with kRowState > 0, and to no other");
  static_assert(!NamesState<V> || (HasState<V> && HasWeight<V>),
                "a row state needs start, update, merge, weight, weight_state_derivative and state_derivative");

 public:
  static const VariantTable* table() {
    static const VariantTable table = make();
    return &table;
  }

 private:
  using State = typename V::State;

  static V make_variant(const VariantPanel& p) {
    using Parameters = std::remove_cvref_t<decltype(V::parameters)>;
    return V{{*static_cast<const Parameters*>(p.parameters)}};
  }
  static Row row_at(const VariantPanel& p, int64_t lane) {
    return {p.batch, p.head, p.num_queries, p.num_keys, p.first_query + lane};
  }

  // Calls visit(variant, at, lane, c) for each vector of queries and key of a tile.
  template <class Visit>
  static void each(const VariantPanel& p, const VariantKeys& keys, const Visit& visit) {
    const V variant = make_variant(p);
    for (int64_t lane = 0; lane < p.width; lane += kLanes) {
      for (int64_t c = 0; c < keys.count; ++c) visit(variant, Pair{row_at(p, lane), keys.first_key + c}, lane, c);
    }
  }
  template <class Visit>
  static void each_element(const VariantPanel& p, int64_t elements, const Visit& visit) {
    const V variant = make_variant(p);
    for (int64_t lane = 0; lane < p.width; lane += kLanes) {
      for (int64_t c = 0; c < elements; ++c) visit(variant, row_at(p, lane), c, c * p.width + lane);
    }
  }

  static LaneMask seen(const VariantPanel& p, const VariantKeys& keys, int64_t lane, int64_t c) {
    const Words du;
    const auto all = hn::Set(du, 0xFFFFFFFFu);
    const auto words = keys.visible == nullptr ? all : hn::LoadU(du, keys.visible + c / 32 * p.width + lane);
    return hn::RebindMask(Lanes(), hn::TestBit(words, hn::Set(du, uint32_t{1} << (c % 32))));
  }
  static State load_state(const VariantPanel& p, const float* state, int64_t lane) {
    State s{};
    for (int k = 0; k < V::kRowState; ++k) s[k] = hn::LoadU(Lanes(), state + k * p.width + lane);
    return s;
  }
  static void store_state(const VariantPanel& p, const State& s, float* state, int64_t lane) {
    for (int k = 0; k < V::kRowState; ++k) hn::StoreU(s[k], Lanes(), state + k * p.width + lane);
  }

  static void queries(const VariantPanel& p, float* q, int64_t d) {
    each_element(p, d, [&](const V& v, const Row& at, int64_t c, int64_t place) {
      hn::StoreU(v.query(at, c, hn::LoadU(Lanes(), q + place)), Lanes(), q + place);
    });
  }
  static void query_gradients(const VariantPanel& p, const float* q, float* d_q, int64_t d) {
    each_element(p, d, [&](const V& v, const Row& at, int64_t c, int64_t place) {
      const Vector derivative = v.query_derivative(at, c, hn::LoadU(Lanes(), q + place));
      hn::StoreU(hn::Mul(derivative, hn::LoadU(Lanes(), d_q + place)), Lanes(), d_q + place);
    });
  }
  static void logits(const VariantPanel& p, const VariantKeys& keys, float* tile, float* derivative) {
    each(p, keys, [&](const V& v, const Pair& at, int64_t lane, int64_t c) {
      const int64_t place = c * p.width + lane;
      const Vector s = hn::LoadU(Lanes(), tile + place);
      if (derivative != nullptr) hn::StoreU(v.logit_derivative(at, s), Lanes(), derivative + place);
      hn::StoreU(v.logit(at, s), Lanes(), tile + place);
    });
  }
  static void visible(const VariantPanel& p, const VariantKeys& keys, uint32_t* bits) {
    each(p, keys, [&](const V& v, const Pair& at, int64_t lane, int64_t c) {
      const Words du;
      uint32_t* word = bits + c / 32 * p.width + lane;
      const auto bit = hn::IfThenZeroElse(hn::RebindMask(du, v.visible(at)), hn::Set(du, uint32_t{1} << (c % 32)));
      hn::StoreU(hn::AndNot(bit, hn::LoadU(du, word)), du, word);
    });
  }
  static void multipliers(const VariantPanel& p, const VariantKeys& keys, float* factors) {
    each(p, keys, [&](const V& v, const Pair& at, int64_t lane, int64_t c) {
      float* place = factors + c * p.width + lane;
      hn::StoreU(hn::Mul(v.multiplier(at), hn::LoadU(Lanes(), place)), Lanes(), place);
    });
  }
  static void start(const VariantPanel& p, float* state) {
    const V variant = make_variant(p);
    for (int64_t lane = 0; lane < p.width; lane += kLanes) store_state(p, variant.start(row_at(p, lane)), state, lane);
  }
  // A tile's keys make a state of their own, merged in once: the sum of many keys keeps its accuracy.
  static void update(const VariantPanel& p, const VariantKeys& keys, const float* tile, float* state) {
    const V v = make_variant(p);
    for (int64_t lane = 0; lane < p.width; lane += kLanes) {
      State fresh = v.start(row_at(p, lane));
      for (int64_t c = 0; c < keys.count; ++c) {
        const Pair at{row_at(p, lane), keys.first_key + c};
        const State next = v.update(at, fresh, hn::LoadU(Lanes(), tile + c * p.width + lane));
        const LaneMask lanes = seen(p, keys, lane, c);
        for (int k = 0; k < V::kRowState; ++k) fresh[k] = hn::IfThenElse(lanes, next[k], fresh[k]);
      }
      store_state(p, v.merge(load_state(p, state, lane), fresh), state, lane);
    }
  }
  static void weights(const VariantPanel& p, const VariantKeys& keys, float* tile, const float* state) {
    each(p, keys, [&](const V& v, const Pair& at, int64_t lane, int64_t c) {
      float* place = tile + c * p.width + lane;
      hn::StoreU(v.weight(at, hn::LoadU(Lanes(), place), load_state(p, state, lane)), Lanes(), place);
    });
  }
  static void state_gradients(const VariantPanel& p, const VariantKeys& keys, const float* tile, const float* d_weights,
                              const float* state, float* d_state) {
    each(p, keys, [&](const V& v, const Pair& at, int64_t lane, int64_t c) {
      const int64_t place = c * p.width + lane;
      const Vector s = hn::LoadU(Lanes(), tile + place), d_weight = hn::LoadU(Lanes(), d_weights + place);
      const State row = load_state(p, state, lane);
      State sum = load_state(p, d_state, lane);
      for (int k = 0; k < V::kRowState; ++k) {
        const Vector d = hn::Mul(d_weight, v.weight_state_derivative(at, s, row, k));
        sum[k] = hn::Add(sum[k], hn::IfThenElseZero(seen(p, keys, lane, c), d));
      }
      store_state(p, sum, d_state, lane);
    });
  }
  static void weight_gradients(const VariantPanel& p, const VariantKeys& keys, float* tile, float* d_weights,
                               const float* state, const float* d_state) {
    each(p, keys, [&](const V& v, const Pair& at, int64_t lane, int64_t c) {
      const int64_t place = c * p.width + lane;
      const Vector s = hn::LoadU(Lanes(), tile + place);
      const State row = load_state(p, state, lane);
      Vector d = hn::Mul(hn::LoadU(Lanes(), d_weights + place), v.weight_derivative(at, s, row));
      if constexpr (V::kRowState > 0) {
        const State d_row = load_state(p, d_state, lane);
        for (int k = 0; k < V::kRowState; ++k) d = hn::MulAdd(d_row[k], v.state_derivative(at, s, row, k), d);
      }
      hn::StoreU(v.weight(at, s, row), Lanes(), tile + place);
      hn::StoreU(d, Lanes(), d_weights + place);
    });
  }
  static void outputs(const VariantPanel& p, float* out, int64_t dv) {
    each_element(p, dv, [&](const V& v, const Row& at, int64_t c, int64_t place) {
      hn::StoreU(hn::Mul(v.output_factor(at, c), hn::LoadU(Lanes(), out + place)), Lanes(), out + place);
    });
  }

  static VariantTable make() {
    VariantTable t;
    t.lanes = kLanes;
    t.row_state = V::kRowState;
    if constexpr (HasQuery<V>) t.queries = queries, t.query_gradients = query_gradients;
    if constexpr (HasLogit<V>) t.logits = logits;
    if constexpr (HasVisible<V>) t.visible = visible;
    if constexpr (HasMultiplier<V>) t.multipliers = multipliers;
    if constexpr (HasWeight<V>) {
      t.normalizer = VariantTable::Normalizer::own;
      t.weights = weights, t.weight_gradients = weight_gradients;
    }
    if constexpr (HasState<V>) t.start = start, t.update = update, t.state_gradients = state_gradients;
    if constexpr (HasOutputFactor<V>) t.outputs = outputs;
    return t;
  }
};

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

/// Defines, in the current instruction set's namespace, the function `name` that gives the table of variant `Type`.
#define HEED_VARIANT(Type, name) \
  const ::heed::kernels::VariantTable* name() { return ::heed::kernels::HWY_NAMESPACE::VariantTiles<Type>::table(); }

#endif  // include guard
