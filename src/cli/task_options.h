// Options of commands that train mixers on tasks.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "heed/train/task_run.h"

namespace heed::cli {

/// NAME.key=value by NAME. Throws heed::Error for a pair without a name.
std::map<std::string, nlohmann::json> settings_by_name(const std::vector<std::string>& pairs);

/// Throws heed::Error for settings of a name that none of `mixers` has: NAME, or NAME#k, the k-th of the name in a+b.
void check_settings(const std::map<std::string, nlohmann::json>& settings, const std::vector<std::string>& mixers);

/// "key=value,key=value" each: changes of a task's parameters.
std::vector<nlohmann::json> parse_changes(const std::vector<std::string>& changes);

/// --block: the norms and the channel mixer around token mixers that are not of images.
CLI::Option* add_block(CLI::App& command, std::string& block);

/// --backbone, --backbone-set and --channel-mixer of the models that learn tasks of images.
void add_backbone(CLI::App& command, train::TaskModelOptions& model, std::vector<std::string>& settings,
                  CLI::Option* needed, const std::string& group);

/// `heed train --task T --mixer M`, where no subcommand of `train` is named.
void add_train_task(CLI::App& train);

}  // namespace heed::cli
