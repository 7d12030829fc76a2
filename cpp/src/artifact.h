// An artifact: a folder with a manifest, artifact.json, and the model's files.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tensor.h"

namespace detexport {

// How post-processing combines instances and semantic segmentation.
struct PanopticRule {
    float overlap_threshold, instances_score_threshold;
    int64_t stuff_area_limit;
};

// One output tensor of a graph; its rank is the number of its dimensions.
struct TensorSpec {
    std::string name, dtype;
    size_t rank;
};

// The I/O contract of a graph; see detexport.contract.
struct Contract {
    std::vector<std::string> input_names;  // the image and, for a pasted graph, the output's size
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
    // Batch size. "1": one image; "any": a list of images, a result for each.
    std::string batch;
    // The target of native code, "cpu" or "cuda" and "x86-64" or "x86-64-v3"; empty for other formats.
    std::string device, instruction_set;
    int64_t smallest_side, largest_side;  // of the graph's input image, in px
    Contract contract;
};

// Read the manifest of an artifact of `format`, compare every file with its digest, and refuse a folder that holds
// anything else. Call it before loading anything, since some formats are native code.
Artifact read_verified(const std::filesystem::path& folder, const std::string& format);

// Return the SHA-256 digest in hexadecimal digits.
std::string sha256(const void* data, size_t size);

}  // namespace detexport
