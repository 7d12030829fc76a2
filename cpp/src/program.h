// What the programs share: everything but the runtime.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "artifact.h"

namespace detexport {

// A loaded artifact: what the contract's inputs name in, the graph's outputs in the contract's order out.
using Session = std::function<std::vector<Tensor>(const Given&)>;

// What the user asked for that a runtime has to know.
struct Options {
    int threads = 0;                // of one operator; 0 leaves the runtime's default
    std::string precision = "f32";  // of OpenVINO's arithmetic; "f32" or "bf16"
};

using Open = std::function<Session(const Artifact&, const Options&)>;

// Read the arguments, the artifact and the PNG, run, print what was found as JSON on the standard output.
// Returns the exit status; what is wrong is told on the standard error.
int run_program(int argc, char** argv, const std::string& format, const Open& open);

}  // namespace detexport
