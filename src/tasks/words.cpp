#include "tasks/words.h"

#include <array>

namespace heed::tasks {
namespace {

constexpr std::array<std::string_view, 200> kAdjectives = {
    "able",     "aged",    "amber",  "ample",   "ancient", "arctic",  "azure",  "bare",    "bitter",  "black",
    "blank",    "blind",   "blond",  "blue",    "blunt",   "bold",    "brave",  "brief",   "bright",  "brisk",
    "broad",    "broken",  "bronze", "brown",   "bumpy",   "busy",    "calm",   "candid",  "careful", "cheap",
    "cheerful", "chilly",  "civil",  "clean",   "clear",   "clever",  "cloudy", "clumsy",  "coarse",  "cold",
    "common",   "cool",    "coral",  "cosy",    "crisp",   "crooked", "cruel",  "curious", "curly",   "damp",
    "dark",     "dear",    "deep",   "dense",   "dim",     "distant", "double", "drab",    "dry",     "dull",
    "dusty",    "eager",   "early",  "easy",    "elder",   "empty",   "exact",  "faded",   "faint",   "fair",
    "false",    "famous",  "fancy",  "fast",    "fertile", "fierce",  "fine",   "firm",    "flat",    "fluffy",
    "foggy",    "fond",    "formal", "fragile", "frank",   "free",    "fresh",  "frosty",  "frozen",  "full",
    "gentle",   "giant",   "glad",   "gloomy",  "golden",  "good",    "grand",  "grave",   "gray",    "great",
    "green",    "grim",    "half",   "handy",   "happy",   "harsh",   "heavy",  "hidden",  "hollow",  "honest",
    "huge",     "humble",  "hungry", "icy",     "idle",    "ivory",   "jolly",  "keen",    "kind",    "large",
    "late",     "lazy",    "lean",   "level",   "light",   "little",  "lively", "local",   "lonely",  "long",
    "loose",    "loud",    "low",    "loyal",   "lucky",   "mad",     "major",  "marble",  "mellow",  "mild",
    "minor",    "misty",   "modern", "modest",  "moist",   "muddy",   "narrow", "native",  "neat",    "new",
    "nimble",   "noble",   "noisy",  "normal",  "novel",   "odd",     "old",    "open",    "orange",  "oval",
    "pale",     "patient", "plain",  "polite",  "proud",   "pure",    "purple", "quick",   "quiet",   "rapid",
    "rare",     "raw",     "red",    "remote",  "rich",    "rigid",   "ripe",   "rough",   "round",   "royal",
    "rude",     "rusty",   "sad",    "safe",    "salty",   "sandy",   "secret", "shady",   "sharp",   "shiny",
    "short",    "shy",     "silent", "silver",  "simple",  "slim",    "slow",   "small",   "smooth",  "sober"};

constexpr std::array<std::string_view, 200> kNouns = {
    "acorn",   "actor",   "anchor",  "ankle",    "apple",  "apron",  "arch",    "arrow",   "attic",    "badge",
    "baker",   "barn",    "barrel",  "basin",    "basket", "beach",  "beacon",  "beam",    "bell",     "bench",
    "berry",   "bird",    "blade",   "blanket",  "boat",   "bolt",   "book",    "border",  "bottle",   "boulder",
    "bowl",    "branch",  "brick",   "bridge",   "broom",  "brush",  "bucket",  "bush",    "butter",   "button",
    "cabin",   "cable",   "camel",   "candle",   "canoe",  "canyon", "captain", "card",    "carpet",   "carriage",
    "castle",  "cave",    "cellar",  "chain",    "chair",  "chalk",  "chapel",  "cherry",  "chest",    "child",
    "chimney", "church",  "circle",  "cliff",    "clock",  "cloud",  "coach",   "coast",   "coin",     "comet",
    "cook",    "copper",  "corner",  "cottage",  "cotton", "cow",    "cradle",  "crane",   "creek",    "crown",
    "cup",     "curtain", "dancer",  "deck",     "deer",   "desert", "desk",    "diamond", "ditch",    "doctor",
    "dog",     "dolphin", "door",    "dove",     "dragon", "drawer", "dress",   "drum",    "eagle",    "engine",
    "farmer",  "feather", "fence",   "ferry",    "field",  "finger", "fire",    "fish",    "flag",     "flame",
    "flute",   "forest",  "fork",    "fountain", "fox",    "frame",  "frog",    "garden",  "gate",     "ghost",
    "giraffe", "glove",   "goat",    "grape",    "hammer", "harbor", "harp",    "hat",     "hawk",     "hedge",
    "helmet",  "hill",    "horse",   "hotel",    "house",  "island", "jacket",  "jar",     "jewel",    "judge",
    "kettle",  "key",     "kitchen", "kite",     "knife",  "ladder", "lake",    "lamp",    "lantern",  "leaf",
    "lemon",   "letter",  "library", "lion",     "lizard", "mango",  "map",     "market",  "marsh",    "mason",
    "meadow",  "medal",   "melon",   "mill",     "mirror", "monk",   "moon",    "moth",    "mountain", "mouse",
    "museum",  "needle",  "nest",    "nurse",    "oak",    "ocean",  "orchard", "organ",   "otter",    "oven",
    "owl",     "oyster",  "paddle",  "painter",  "palace", "paper",  "parrot",  "path",    "pebble",   "pencil",
    "piano",   "pigeon",  "pillow",  "pilot",    "pirate", "planet", "plate",   "plow",    "pocket",   "poet"};

constexpr std::array<std::string_view, 60> kVerbs = {
    "admires", "answers", "avoids",  "awaits", "blocks", "breaks",  "brings",  "builds",  "buries",  "calls",
    "carries", "catches", "chases",  "cleans", "climbs", "colors",  "copies",  "counts",  "covers",  "crosses",
    "draws",   "enters",  "escapes", "fears",  "feeds",  "fetches", "fills",   "finds",   "follows", "forgets",
    "gathers", "greets",  "guards",  "guides", "hears",  "helps",   "hides",   "holds",   "hunts",   "joins",
    "keeps",   "leaves",  "likes",   "lifts",  "loses",  "marks",   "meets",   "mends",   "misses",  "moves",
    "names",   "needs",   "offers",  "opens",  "paints", "passes",  "pleases", "praises", "pulls",   "pushes"};

}  // namespace

std::span<const std::string_view> adjectives() { return kAdjectives; }
std::span<const std::string_view> nouns() { return kNouns; }
std::span<const std::string_view> verbs() { return kVerbs; }

}  // namespace heed::tasks
