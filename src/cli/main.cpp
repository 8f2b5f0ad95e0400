// heed COMMAND [options]. Exit status: 0, 2 for bad input, 1 for anything else that failed.
#include <fmt/format.h>
#include <malloc.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <stdexcept>

#include "cli/commands.h"
#include "heed/error.h"
#include "heed/names.h"
#include "heed/version.h"

namespace {

constexpr int kFailed = 1, kBadInput = 2;

int complain(int status, std::string message) {
  if (const auto newline = message.find('\n'); newline != std::string::npos) message.resize(newline);
  fmt::print(stderr, "heed: {}\n", message);
  return status;
}

/// A first word that is no command gets the nearest ones.
void check_command(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return;
  std::vector<std::string> names;
  for (const auto* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->get_name() == argv[1]) return;
    names.push_back(command->get_name());
  }
  heed::fail("unknown command {}: {}", argv[1], heed::suggest(argv[1], names));
}

/// What was printed has to arrive; a full disk is found out when the last of it is written.
void flush_output() {
  std::cout.flush();
  if (std::fflush(stdout) != 0 || std::ferror(stdout) || !std::cout)
    throw std::runtime_error(fmt::format("cannot write to standard output: {}", std::strerror(errno)));
}

/// Tensors of more than 32 MiB would be mapped anew each time: a page fault every 4 KiB costs more than many kernels
/// do.
void keep_memory() {
#ifdef M_MMAP_MAX
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
}

}  // namespace

int main(int argc, char** argv) {
  keep_memory();
  CLI::App app("heed: every attention mechanism, to choose, to use and to change models with", "heed");
  app.require_subcommand(1);
  app.set_version_flag("--version", fmt::format("heed {} ({})", heed::version(), heed::commit()));
  heed::cli::add_run(app);
  heed::cli::add_compare(app);
  heed::cli::add_bench(app);
  heed::cli::add_list(app);
  heed::cli::add_train(app);
  heed::cli::add_eval(app);
  heed::cli::add_generate(app);
  heed::cli::add_probe(app);
  heed::cli::add_steer(app);
  heed::cli::add_surgery(app);
  heed::cli::add_results(app);
  heed::cli::add_doctor(app);
  try {
    check_command(app, argc, argv);
    try {
      app.parse(argc, argv);
    } catch (const CLI::Success& done) {
      app.exit(done);  // prints the help or the version
    }
    flush_output();
    return 0;
  } catch (const CLI::ParseError& error) {
    return complain(kBadInput, error.what());
  } catch (const heed::Error& error) {
    return complain(kBadInput, error.what());
  } catch (const std::exception& error) {
    return complain(kFailed, error.what());
  }
}
