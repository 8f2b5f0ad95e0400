// One function a subcommand: adds it to the application. No logic of its own lives here.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace heed::cli {

/// Options that many commands share.
struct Common {
  int threads = 0;  ///< 0: the default
  uint64_t seed = 0;
  std::string json;  ///< file for JSON output; "-": stdout; empty: none
  bool json_given = false;
};

/// What an option accepts: whole numbers in a range.
CLI::Validator whole(int64_t low, int64_t high = int64_t{1} << 30);
/// Finite numbers in a range.
CLI::Validator number(double low, double high = 1e18);
/// Finite numbers above 0.
CLI::Validator positive();

/// Names of files, or folders, that can be written: asked before any work begins. Leaves nothing behind.
CLI::Validator writable_file();
CLI::Validator writable_folder();

/// The text of a file, or of stdin (-). Throws heed::Error, which names it, where it cannot be read or is endless.
std::string read_text(const std::string& file);

/// --threads
void add_threads(CLI::App& command, Common& common);
/// --seed
void add_seed(CLI::App& command, Common& common);
/// --json[=FILE]: to FILE, or to stdout in place of the table.
void add_json(CLI::App& command, Common& common);
/// Sets threads; called by every command before its work.
void apply(const Common& common);
/// Writes JSON text where --json says. Returns true when stdout was taken, so that no table is printed.
bool write_json(const Common& common, const std::string& text);

/// `key=value` pairs as a JSON object; values are JSON where they parse, else text. Throws heed::Error for a pair
/// without `=`.
nlohmann::json parse_settings(const std::vector<std::string>& pairs);

void add_bench(CLI::App& app);
/// A subcommand of bench.
void add_bench_simulate(CLI::App& bench);
void add_bench_selection(CLI::App& bench);
void add_compare(CLI::App& app);
void add_doctor(CLI::App& app);
void add_eval(CLI::App& app);
void add_generate(CLI::App& app);
void add_list(CLI::App& app);
void add_probe(CLI::App& app);
void add_results(CLI::App& app);
void add_run(CLI::App& app);
void add_steer(CLI::App& app);
void add_surgery(CLI::App& app);
void add_train(CLI::App& app);

}  // namespace heed::cli
