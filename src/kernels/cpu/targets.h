#pragma once

#include "heed/kernels/targets.h"
