#include "postprocess.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

namespace detexport {
namespace {

// A graph's outputs by the contract's names.
class Outputs {
public:
    Outputs(const std::vector<Tensor>& tensors, const Contract& contract)
        : tensors_(tensors), contract_(contract) {}

    // Return an output, or null if the model lacks it.
    const Tensor* find(const std::string& name) const {
        for (size_t i = 0; i < tensors_.size(); ++i)
            if (contract_.outputs[i].name == name) return &tensors_[i];
        return nullptr;
    }

    const Tensor& at(const std::string& name) const {
        if (const Tensor* tensor = find(name)) return *tensor;
        throw Error("the graph's outputs lack '" + name + "'", {"", "", "export the model again"});
    }

private:
    const std::vector<Tensor>& tensors_;
    const Contract& contract_;
};

struct Frame {
    Size input, image;

    float x_scale() const { return float(double(image.width) / input.width); }
    float y_scale() const { return float(double(image.height) / input.height); }

    // Scale a box and clip it to the image; return nothing if it is empty then.
    std::optional<Box> place(std::span<const float> box) const {
        const float width = image.width, height = image.height;
        const Box placed = {
            std::clamp(box[0] * x_scale(), 0.f, width), std::clamp(box[1] * y_scale(), 0.f, height),
            std::clamp(box[2] * x_scale(), 0.f, width), std::clamp(box[3] * y_scale(), 0.f, height)};
        return placed[2] > placed[0] && placed[3] > placed[1] ? std::optional(placed) : std::nullopt;
    }
};

// Positions of the pixels first, first + 1, ... of one axis in a grid over [start, end], in cells.
struct Axis {
    int64_t first;
    std::vector<float> positions;
};

// Return the pixels that the grid covers. Beyond the outer cells' centres the probability decreases linearly,
// to 0 half a cell outside the interval.
Axis pixels_over(float start, float end, int64_t cells, int64_t limit) {
    const float half_cell = (end - start) / (2 * cells);
    const auto first = std::max<int64_t>(std::floor(start - half_cell), 0);
    const auto last = std::min<int64_t>(std::ceil(end + half_cell), limit);
    Axis axis{first, {}};
    for (int64_t pixel = first; pixel < last; ++pixel)
        axis.positions.push_back((pixel + 0.5f - start) / (end - start) * cells - 0.5f);
    return axis;
}

Mask paste(std::span<const float> grid, int64_t cells, const Box& box, Size size, float threshold) {
    const Axis rows = pixels_over(box[1], box[3], cells, size.height);
    const Axis columns = pixels_over(box[0], box[2], cells, size.width);
    const auto cell = [&](int64_t row, int64_t column) {
        return row < 0 || column < 0 || row >= cells || column >= cells ? 0.f : grid[row * cells + column];
    };
    Mask mask{size, std::vector<uint8_t>(size.height * size.width)};
    for (size_t y = 0; y < rows.positions.size(); ++y)
        for (size_t x = 0; x < columns.positions.size(); ++x) {
            const float row = std::floor(rows.positions[y]), column = std::floor(columns.positions[x]);
            const float below = rows.positions[y] - row, right = columns.positions[x] - column;
            const int64_t i = row, j = column;
            const float upper = (1 - right) * cell(i, j) + right * cell(i, j + 1);
            const float lower = (1 - right) * cell(i + 1, j) + right * cell(i + 1, j + 1);
            const bool inside = (1 - below) * upper + below * lower >= threshold;
            mask.values[(rows.first + y) * size.width + columns.first + x] = inside;
        }
    return mask;
}

// Return a mask in the image's frame from the graph's output: pasted already, or a grid over the box.
Mask to_mask(const Tensor& masks, int64_t index, const Box& box, Size size, float threshold) {
    if (masks.dtype != "bool") return paste(masks.row<float>(index), masks.shape[1], box, size, threshold);
    const std::span<const uint8_t> pixels = masks.row<uint8_t>(index);
    return {size, {pixels.begin(), pixels.end()}};
}

std::vector<Instance> place_instances(const Outputs& outputs, const Frame& frame, float mask_threshold) {
    const Tensor &boxes = outputs.at("pred_boxes"), &scores = outputs.at("scores");
    const Tensor& classes = outputs.at("pred_classes");
    const Tensor *masks = outputs.find("pred_masks"), *keypoints = outputs.find("pred_keypoints");
    std::vector<Instance> instances;
    for (int64_t i = 0; i < scores.length(); ++i) {
        const std::optional<Box> box = frame.place(boxes.row<float>(i));
        if (!box) continue;
        Instance instance{*box, scores.values<float>()[i], classes.values<int64_t>()[i], {}, {}};
        if (masks) instance.mask = to_mask(*masks, i, *box, frame.image, mask_threshold);
        if (keypoints) {
            const std::span<const float> row = keypoints->row<float>(i);
            for (size_t k = 0; k < row.size(); k += 3)
                instance.keypoints.push_back(
                    {row[k] * frame.x_scale(), row[k + 1] * frame.y_scale(), row[k + 2]});
        }
        instances.push_back(std::move(instance));
    }
    return instances;
}

std::vector<Proposal> place_proposals(const Outputs& outputs, const Frame& frame) {
    const Tensor &boxes = outputs.at("proposal_boxes"), &logits = outputs.at("objectness_logits");
    std::vector<Proposal> proposals;
    for (int64_t i = 0; i < logits.length(); ++i)
        if (const std::optional<Box> box = frame.place(boxes.row<float>(i)))
            proposals.push_back({*box, logits.values<float>()[i]});
    return proposals;
}

// Bilinear between pixel centres, edges repeated: two cells of one axis, and the second's weight.
struct Between {
    int64_t first, second;
    float weight;
};

std::vector<Between> between_cells(int64_t cells, int64_t length) {
    std::vector<Between> result;
    for (int64_t i = 0; i < length; ++i) {
        const float position = std::max((i + 0.5f) * float(double(cells) / length) - 0.5f, 0.f);
        const int64_t first = std::min<int64_t>(position, cells - 1);
        result.push_back({first, std::min(first + 1, cells - 1), position - first});
    }
    return result;
}

// Resize logits (C, H, W) and return each pixel's channel with the highest logit, the first of equal ones.
Map<int32_t> label_pixels(const Tensor& logits, Size size) {
    const int64_t channels = logits.shape[0], height = logits.shape[1], width = logits.shape[2];
    const std::vector<Between> rows = between_cells(height, size.height),
                               columns = between_cells(width, size.width);
    Map<int32_t> labels{size, std::vector<int32_t>(size.height * size.width)};
    std::vector<float> best(labels.values.size(), -INFINITY);
    for (int32_t channel = 0; channel < channels; ++channel) {
        const std::span<const float> plane = logits.row<float>(channel);
        const auto in_column = [&](int64_t x, const Between& y) {
            return plane[y.first * width + x] * (1 - y.weight) + plane[y.second * width + x] * y.weight;
        };
        for (int64_t i = 0; i < size.height * size.width; ++i) {
            const Between &y = rows[i / size.width], &x = columns[i % size.width];
            const float logit = in_column(x.first, y) * (1 - x.weight) + in_column(x.second, y) * x.weight;
            if (logit > best[i]) best[i] = logit, labels.values[i] = channel;
        }
    }
    return labels;
}

// Assign pixels to things by descending score, then the remaining pixels to stuff.
Panoptic combine(const std::vector<Instance>& instances, const Map<int32_t>& labels,
                 const PanopticRule& rule) {
    Panoptic panoptic{{labels.size, std::vector<int32_t>(labels.values.size())}, {}};
    std::vector<int32_t>& ids = panoptic.ids.values;
    // Add a segment with the free pixels that belong to it.
    const auto add = [&](Segment segment, const auto& belongs) {
        segment.id = panoptic.segments.size() + 1;
        for (size_t i = 0; i < ids.size(); ++i)
            if (ids[i] == 0 && belongs(i)) ids[i] = segment.id;
        panoptic.segments.push_back(segment);
    };
    const auto count_free = [&](const auto& belongs) {
        int64_t count = 0;
        for (size_t i = 0; i < ids.size(); ++i) count += ids[i] == 0 && belongs(i);
        return count;
    };
    std::vector<size_t> order(instances.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order,
                             [&](size_t a, size_t b) { return instances[a].score > instances[b].score; });
    for (const size_t index : order) {
        const Instance& instance = instances[index];
        if (instance.score < rule.instances_score_threshold) break;
        const std::vector<uint8_t>& mask = instance.mask.value().values;
        const auto belongs = [&](size_t i) { return mask[i] != 0; };
        const int64_t area = std::ranges::count(mask, 1), left = count_free(belongs);
        if (left == 0 || double(area - left) / area > rule.overlap_threshold) continue;
        add({0, true, instance.category, int64_t(index)}, belongs);
    }
    for (const int32_t label : std::set(labels.values.begin(), labels.values.end())) {
        const auto belongs = [&](size_t i) { return labels.values[i] == label; };
        if (label != 0 && count_free(belongs) >= rule.stuff_area_limit) add({0, false, label, -1}, belongs);
    }
    return panoptic;
}

}  // namespace

Found postprocess(const std::vector<Tensor>& tensors, Size input, Size image, const Contract& contract) {
    const Outputs outputs(tensors, contract);
    const Frame frame{contract.input_names.size() > 1 ? image : input, image};
    Found found;
    if (outputs.find("pred_boxes"))
        found.instances = place_instances(outputs, frame, contract.mask_threshold);
    if (outputs.find("proposal_boxes")) found.proposals = place_proposals(outputs, frame);
    if (const Tensor* logits = outputs.find("sem_seg")) found.labels = label_pixels(*logits, image);
    if (contract.panoptic)
        found.panoptic = combine(found.instances.value(), found.labels.value(), *contract.panoptic);
    return found;
}

}  // namespace detexport
