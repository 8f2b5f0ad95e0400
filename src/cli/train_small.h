// Models of small worlds, trained in a minute or two and measured there.
#pragma once

#include "cli/commands.h"

namespace heed::cli {

void add_speech(CLI::App& train);
void add_world(CLI::App& train);

}  // namespace heed::cli
