// Digits as patches, by a vision transformer whose token mixer changes.
#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/feature_map.h"
#include "heed/nn/generator.h"
#include "results/learning.h"
#include "results/linear/experiments.h"
#include "results/trained_maps.h"

namespace heed::results::linear {
namespace {

using torch::Tensor;

Lesson digits_lesson(int64_t patch, int64_t steps) {
  Lesson lesson;
  lesson.task = "digits";
  lesson.parameters = {{"patch", patch}};
  lesson.model.layers = 2, lesson.model.dim = 32, lesson.model.heads = 2, lesson.model.hidden = 64;
  lesson.training.steps = steps, lesson.training.batch = 32, lesson.training.learning_rate = 3e-3;
  lesson.samples = 360;
  return lesson;
}

/// Mean entropy, over cells, of how strongly what `mixer` gives a cell depends on each cell that it reads, in its input
/// and in the stream: norms of the gradients of a random channel.
double entropy_of_effects(TokenMixer& mixer, MixerInput input) {
  torch::AutoGradMode learns(true);
  std::vector<Tensor> read;
  for (auto* tensor : {&input.x, &input.residual})
    if (tensor->defined()) read.push_back(*tensor = tensor->detach().clone().requires_grad_());
  const auto out = mixer.forward(input);
  const auto channel = torch::randn({out.size(2)}, nn::seeded_generator(1), torch::kFloat32);
  std::vector<Tensor> effects;
  for (int64_t cell = 0; cell < out.size(1); ++cell) {
    Tensor squares = torch::zeros({out.size(0), out.size(1)});
    for (const auto& pull :
         torch::autograd::grad({torch::matmul(out.select(1, cell), channel).sum()}, read, {}, true, false, true))
      if (pull.defined()) squares = squares + pull.square().sum(2);
    effects.push_back(squares.sqrt());
  }
  const auto weights = torch::stack(effects, 1).unsqueeze(1).detach();
  return mean_entropy(weights / weights.sum(3, true).clamp_min(1e-30));
}

/// Singular values above a hundredth of the largest, mean over matrices [..., M, N].
double numerical_rank(const Tensor& matrices) {
  return torch::linalg_matrix_rank(matrices.to(torch::kFloat64), 0.01).to(torch::kFloat64).mean().item<double>();
}

/// The rank of the sum of keys times values that a linear attention of elu + 1 reads from; RALA weighs the keys by what
/// the mean query asks for. Rotations are left out.
double state_rank(const LayerCall& call, int64_t heads) {
  const auto parameters = call.mixer->named_parameters();
  const auto projected = [&](const char* name) {
    return split_heads(torch::matmul(call.input.x, parameters[name].t()), heads);
  };
  const auto features = [&](const char* name) { return nn::apply(nn::FeatureMap::elu_plus_one, projected(name)); };
  auto k = features("k_proj.weight");
  if (call.mixer->name() == "rala") {
    const auto asked = (features("q_proj.weight").mean(2, true) * k).sum(3, true) / std::sqrt(double(k.size(3)));
    k = k * torch::softmax(asked, 2);
  }
  return numerical_rank(torch::matmul(k.transpose(2, 3), projected("v_proj.weight")));
}

}  // namespace

Experiment digits() {
  const auto run = [](const Report& report) {
    const auto lesson = digits_lesson(2, 500);
    const auto agent = [](int64_t side) {
      return variant("agent_attention, " + std::to_string(side * side) + " agents", "agent_attention",
                     {{"agent_side", side}});
    };
    // Denominators of so few tokens lie below the 100 at which they end by default.
    const auto scaled = [](const char* name, bool concentration) {
      return variant(name, "l2vit_lga", {{"least_denominator", 0.5}, {"concentration", concentration}});
    };
    const std::vector<Learner> learners{
        variant("dense", "dense", {{"causal", false}}),
        variant("linear", "linear_attention", {{"causal", false}}),
        plain("rala"),
        plain("mala"),
        scaled("l2vit_lga", true),
        scaled("l2vit_lga, no concentration", false),
        plain("inline_attention"),
        variant("inline_attention, no residual", "inline_attention", {{"residual", false}}),
        agent(2),
        agent(4),
        agent(7)};
    const auto heads = lesson.model.heads;
    LayerFigures before(
        "entropy before concentration", 16,
        [&](const LayerCall&call) {
          auto bare = make_mixer(
              "l2vit_lga",
              {{"dim", lesson.model.dim}, {"heads", heads}, {"least_denominator", 0.5}, {"concentration", false}});
          take_weights(*bare, *call.mixer);
          bare->eval();
          return entropy_of_effects(*bare, call.input);
        }),
        after("entropy behind it", 16,
              [](const LayerCall&call) { return entropy_of_effects(*call.mixer, call.input); }),
        states("rank of the state", 64, [&](const LayerCall&call) { return state_rank(call, heads); }),
        outputs("rank of the output", 64,
                [](const LayerCall&call) { return numerical_rank(call.mixer->forward(call.input)); });
    const Contest contest(lesson, learners, report,
                          [&](const Learner& learner, train::TaskModel& model, const tasks::Task& task) {
                            if (learner.name == "l2vit_lga")
                              for (auto* figures : {&before, &after}) figures->inspect()(learner, model, task);
                            if (learner.name == "linear" || learner.name == "rala")
                              for (auto* figures : {&states, &outputs}) figures->inspect()(learner, model, task);
                          });
    auto finding = finding_of(contest, {contest.better("rala", "linear"), contest.better("mala", "linear"),
                                        contest.better("l2vit_lga", "l2vit_lga, no concentration"),
                                        contest.as_good("l2vit_lga", "dense", 0.01),
                                        contest.better("inline_attention, no residual", "linear"),
                                        contest.better("inline_attention", "inline_attention, no residual"),
                                        contest.as_good("agent_attention, 49 agents", "dense", 0.01),
                                        contest.as_good("agent_attention, 16 agents", "agent_attention, 4 agents", 0)});
    finding.setup +=
        " Entropy: of how strongly what a layer gives a cell depends on each cell it reads (at most 2.77 nats; a "
        "concentration of 7 x 7 reaches all of these 4 x 4 cells). Rank: singular values above a hundredth of the "
        "largest, of the sum of keys times values of a head, and of what a layer gives an image.";
    const auto row = [](const std::string& name, const LayerFigures& figures, const std::string& learner) {
      return std::vector<std::string>{name, figures.of(learner, 1).text(), figures.of(learner, 2).text()};
    };
    const std::string l2vit = "l2vit_lga";
    finding.tables.push_back(
        {"Trained layers",
         {"figure", "layer 1", "layer 2"},
         {row("entropy, l2vit_lga before its concentration", before, l2vit),
          row("entropy, l2vit_lga behind it", after, l2vit), row("rank of the state, linear", states, "linear"),
          row("rank of the state, rala", states, "rala"), row("rank of the output, linear", outputs, "linear"),
          row("rank of the output, rala", outputs, "rala")}});
    for (const size_t layer : {1, 2}) {
      finding.claims.push_back(exceeds(before.of(l2vit, layer), after.of(l2vit, layer)));
      finding.claims.push_back(exceeds(states.of("rala", layer), states.of("linear", layer)));
      finding.claims.push_back(exceeds(outputs.of("rala", layer), outputs.of("linear", layer)));
    }
    return finding;
  };
  return {"digits",
          "Linear attention for images",
          {"rala", "mala", "l2vit_lga", "inline_attention", "agent_attention"},
          "rank, magnitude, concentration, injectivity with a local residual, and agents each close the gap between "
          "linear attention and softmax.",
          run};
}

Experiment competing_pixels() {
  const auto run = [](const Report& report) {
    const auto lesson = digits_lesson(1, 1500);
    const std::vector<Learner> learners{
        plain("flow_attention"),
        variant("linear_attention", "linear_attention", {{"causal", false}, {"feature_map", "sigmoid"}}),
        variant("dense", "dense", {{"causal", false}})};
    LayerFigures entropies("entropy", 128,
                           [&](const LayerCall& call) { return mean_entropy(weights_of(call, lesson.model.heads)); });
    const Contest contest(lesson, learners, report, entropies.inspect());
    auto finding =
        finding_of(contest, {contest.better("flow_attention", "linear_attention"),
                             exceeds(entropies.of("linear_attention", 1), entropies.of("flow_attention", 1)),
                             exceeds(entropies.of("linear_attention", 2), entropies.of("flow_attention", 2))});
    finding.setup += " Linear attention has flow attention's sigmoids as features.";
    finding.tables.push_back(entropies.table("Entropy of the weights of pixels, in nats (at most 4.16)", learners));
    return finding;
  };
  return {"competing_pixels",
          "Competition among pixels",
          {"flow_attention"},
          "competition among sources makes their weights less even, and recognises more, than linear attention with "
          "the same features (arXiv 2202.06258).",
          run};
}

}  // namespace heed::results::linear
