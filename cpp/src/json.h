// Convert detections to JSON with the names of `detexport predict --json`.
#pragma once

#include <nlohmann/json.hpp>

#include "postprocess.h"

namespace detexport {

using json = nlohmann::ordered_json;

json to_json(const Found& found, const Contract& contract);

}  // namespace detexport
