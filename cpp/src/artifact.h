// The folder that an export wrote: its manifest, artifact.json, and its files.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tensor.h"

namespace detexport {

// How things and stuff become one map of segments after the graph.
struct PanopticRule {
    float overlap_threshold, instances_score_threshold;
    int64_t stuff_area_limit;
};

// One tensor at the edge of a graph; its rank is the number of its dimensions.
struct TensorSpec {
    std::string name, dtype;
    size_t rank;
};

// What a graph takes and gives; see detexport.contract.
struct Contract {
    std::vector<std::string> input_names;  // the image and, where the graph ends pasted, the output's size
    std::vector<TensorSpec> outputs;
    std::string channel_order;
    int64_t min_size, max_size;
    std::vector<std::string> class_names, stuff_class_names;
    float mask_threshold;
    std::optional<PanopticRule> panoptic;
};

struct Artifact {
    std::string format;
    std::filesystem::path main_file;
    // "1": one image a call; "any": a list of images, a result for each.
    std::string batch;
    // What native code was compiled for, "cpu" or "cuda" and "x86-64" or "x86-64-v3"; else empty.
    std::string device, instruction_set;
    int64_t smallest_side, largest_side;  // of an image that the graph takes, in px
    Contract contract;
};

// Read the manifest of an artifact of `format` and hold every file against its digest: some formats are
// native code, so this comes before anything is loaded.
Artifact read_verified(const std::filesystem::path& folder, const std::string& format);

// In hexadecimal digits.
std::string sha256(const void* data, size_t size);

}  // namespace detexport
