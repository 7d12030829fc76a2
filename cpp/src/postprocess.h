// Post-processing after the graph, as in detexport.processing.postprocess: scaling to the image's frame,
// pasting of masks, panoptic segments.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "artifact.h"

namespace detexport {

// One value per pixel of an image, row by row.
template <typename T>
struct Map {
    Size size;
    std::vector<T> values;
};
using Mask = Map<uint8_t>;

// x0, y0, x1, y1 in px of the image.
using Box = std::array<float, 4>;

// x and y in px of the image, and a score.
using Keypoint = std::array<float, 3>;

struct Instance {
    Box box;
    float score;
    int64_t category;
    std::optional<Mask> mask;
    std::vector<Keypoint> keypoints;
};

struct Proposal {
    Box box;
    float objectness_logit;
};

// `instance` is the index of a thing's instance, -1 for stuff.
struct Segment {
    int32_t id;
    bool is_thing;
    int64_t category, instance;
};

struct Panoptic {
    Map<int32_t> ids;  // 0 for none
    std::vector<Segment> segments;
};

// The outputs for one image; fields that the model lacks are empty.
struct Found {
    std::optional<std::vector<Instance>> instances;
    std::optional<std::vector<Proposal>> proposals;
    std::optional<Map<int32_t>> labels;  // semantic segmentation: the class with the highest logit
    std::optional<Panoptic> panoptic;
};

// Post-process a graph's outputs, given in the contract's order, into px of the image. Those of a pasted
// graph are in px of the image already.
Found postprocess(const std::vector<Tensor>& outputs, Size input, Size image, const Contract& contract);

}  // namespace detexport
