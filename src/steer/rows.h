// What the files of interventions share to state their rows, and the rows themselves, gathered by registry.cpp.
#pragma once

#include "heed/steer/intervention.h"

namespace heed::steer::rows {

InterventionRow intervention_row(std::string name, std::string paper, int year, std::string cost,
                                 std::vector<Parameter> parameters,
                                 std::function<cache::Policy(ConfigReader&, const cache::ModelShape&)> make);

InterventionRow act_calibration();
InterventionRow var_redistribution();
InterventionRow head_temperature();

}  // namespace heed::steer::rows
