#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "cli/commands.h"
#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "heed/formats/json_file.h"
#include "heed/threads.h"

namespace heed::cli {
namespace {

/// More than any model reads.
constexpr size_t kMaxTextBytes = size_t{256} << 20;

template <class T>
std::optional<T> parsed(const std::string& text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

CLI::Validator accepting(std::function<bool(const std::string&)> accepted, const std::string& what) {
  return {[accepted = std::move(accepted), what](std::string& text) {
            return accepted(text) ? "" : fmt::format("{} is no {}", formats::quote(text), what);
          },
          what};
}

CLI::Validator writable(void (*check)(const std::filesystem::path&)) {
  return {[check](std::string& path) {
            try {
              if (!path.empty()) check(path);
            } catch (const Error& error) {
              return std::string(error.what());
            }
            return std::string();
          },
          ""};
}

}  // namespace

CLI::Validator whole(int64_t low, int64_t high) {
  return accepting(
      [=](const std::string& text) {
        const auto value = parsed<int64_t>(text);
        return value && *value >= low && *value <= high;
      },
      fmt::format("whole number from {} to {}", low, high));
}

CLI::Validator number(double low, double high) {
  return accepting(
      [=](const std::string& text) {
        const auto value = parsed<double>(text);
        return value && *value >= low && *value <= high;  // NaN is neither
      },
      fmt::format("number from {:g} to {:g}", low, high));
}

CLI::Validator positive() {
  return accepting(
      [](const std::string& text) {
        const auto value = parsed<double>(text);
        return value && *value > 0 && std::isfinite(*value);
      },
      "number above 0");
}

CLI::Validator writable_file() { return writable(formats::check_writable); }
CLI::Validator writable_folder() { return writable(formats::check_writable_directory); }

std::string read_text(const std::string& file) {
  const bool from_stdin = file == "-";
  std::error_code ignored;
  require(from_stdin || !std::filesystem::is_directory(file, ignored), "{}: is a folder, not a text", file);
  struct Close {
    void operator()(FILE* open) const { std::fclose(open); }
  };
  const std::unique_ptr<FILE, Close> opened(from_stdin ? nullptr : std::fopen(file.c_str(), "rb"));
  require(from_stdin || opened, "{}: can't be read: {}", file, std::strerror(errno));
  FILE* in = from_stdin ? stdin : opened.get();
  std::string text, part(size_t{1} << 16, '\0');
  while (const size_t n = std::fread(part.data(), 1, part.size(), in)) {
    text.append(part, 0, n);
    require(text.size() <= kMaxTextBytes, "{}: more than {} bytes, which a text may have", file, kMaxTextBytes);
  }
  require(!std::ferror(in), "{}: can't be read: {}", file, std::strerror(errno));
  return text;
}

void add_threads(CLI::App& command, Common& common) {
  command.add_option("--threads", common.threads, "threads (default: HEED_THREADS, else all cores)")
      ->check(CLI::Range(1, 4096));
}

void add_seed(CLI::App& command, Common& common) {
  command.add_option("--seed", common.seed, "seed of everything random (default 0)")
      ->check(accepting([](const std::string& text) { return parsed<uint64_t>(text).has_value(); },
                        fmt::format("whole number from 0 to {}", UINT64_MAX)));
}

void add_json(CLI::App& command, Common& common) {
  command
      .add_option_function<std::vector<std::string>>(
          "--json",
          [&common](const std::vector<std::string>& file) {
            common.json_given = true;
            common.json = file.empty() || file.front().empty() ? "-" : file.front();
            if (common.json != "-") formats::check_writable(common.json);
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
    fmt::print("{}\n", text);
    return true;
  }
  formats::write_file(common.json, text + "\n");
  return false;
}

}  // namespace heed::cli
