#include "heed/attention.h"
