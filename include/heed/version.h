// What is running: a bug report and every measured figure need it.
#pragma once

namespace heed {

const char* version();  ///< "0.1.0"
const char* commit();   ///< short hash of the commit the build was configured at, or "unknown"

}  // namespace heed
