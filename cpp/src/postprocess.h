// What lies beyond the graph's end, as detexport.postprocess has it: the image's own frame, pasted masks,
// segments.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "artifact.h"

namespace detexport {

// Values of the pixels of an image, row by row.
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

// A thing has the index of its instance, stuff has -1.
struct Segment {
    int32_t id;
    bool is_thing;
    int64_t category, instance;
};

struct Panoptic {
    Map<int32_t> ids;  // 0 for none
    std::vector<Segment> segments;
};

// What a model finds in one image; empty where the model does not give it.
struct Found {
    std::optional<std::vector<Instance>> instances;
    std::optional<std::vector<Proposal>> proposals;
    std::optional<Map<int32_t>> labels;  // the class of each pixel, the one with the highest logit
    std::optional<Panoptic> panoptic;
};

// Bring a graph's outputs, in the contract's order, from px of its input into px of the image, where a graph
// that ends pasted has brought them already.
Found postprocess(const std::vector<Tensor>& outputs, Size input, Size image, const Contract& contract);

}  // namespace detexport
