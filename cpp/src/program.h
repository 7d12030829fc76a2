// Everything that the programs share: all but the runtime.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "artifact.h"

namespace detexport {

// A loaded artifact: the contract's inputs in, the graph's outputs in the contract's order out.
using Session = std::function<std::vector<Tensor>(const Given&)>;

// The user's options for a runtime.
struct Options {
    int threads = 0;                // threads of one operator; 0 selects the runtime's default
    std::string precision = "f32";  // OpenVINO's inference precision; "f32" or "bf16"
};

using Open = std::function<Session(const Artifact&, const Options&)>;

// Read the arguments, the artifact and the PNG, run, and print the detections as JSON on standard output.
// Returns the exit status; errors are printed on standard error.
int run_program(int argc, char** argv, const std::string& format, const Open& open);

}  // namespace detexport
