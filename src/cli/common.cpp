#include <iostream>

#include "cli/commands.h"
#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "heed/threads.h"

namespace heed::cli {

void add_threads(CLI::App& command, Common& common) {
  command.add_option("--threads", common.threads, "threads (default: HEED_THREADS, else all cores)")
      ->check(CLI::Range(1, 4096));
}

void add_seed(CLI::App& command, Common& common) {
  command.add_option("--seed", common.seed, "seed of everything random (default 0)");
}

void add_json(CLI::App& command, Common& common) {
  command
      .add_option_function<std::vector<std::string>>(
          "--json",
          [&common](const std::vector<std::string>& file) {
            common.json_given = true;
            common.json = file.empty() || file.front().empty() ? "-" : file.front();
          },
          "print JSON, or write it to FILE")
      ->expected(0, 1)
      ->type_name("[FILE]");
}

void apply(const Common& common) {
  if (common.threads > 0)
    set_num_threads(common.threads);
  else
    init_threads();
}

nlohmann::json parse_settings(const std::vector<std::string>& pairs) {
  auto result = nlohmann::json::object();
  for (const auto& pair : pairs) {
    const auto equals = pair.find('=');
    require(equals != std::string::npos && equals > 0, "--set {}: key=value is accepted", pair);
    const auto value = nlohmann::json::parse(pair.substr(equals + 1), nullptr, false);
    result[pair.substr(0, equals)] = value.is_discarded() ? nlohmann::json(pair.substr(equals + 1)) : value;
  }
  return result;
}

bool write_json(const Common& common, const std::string& text) {
  if (!common.json_given) return false;
  if (common.json == "-") {
    std::cout << text << "\n";
    return true;
  }
  formats::write_file(common.json, text + "\n");
  return false;
}

}  // namespace heed::cli
