#include "heed/version.h"

namespace heed {

const char* version() { return HEED_VERSION; }
const char* commit() { return HEED_COMMIT; }

}  // namespace heed
