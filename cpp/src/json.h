// What was found as JSON, by the names that `detexport predict --json` uses.
#pragma once

#include <nlohmann/json.hpp>

#include "postprocess.h"

namespace detexport {

using json = nlohmann::ordered_json;

json to_json(const Found& found, const Contract& contract);

}  // namespace detexport
