#include "json.h"

#include <set>

namespace detexport {
namespace {

// Encode run lengths as COCO's compressed RLE: from the fourth length on the difference to the length two
// before, in groups of five bits, the lowest first.
std::string compress(const std::vector<int64_t>& lengths) {
    std::string text;
    for (size_t i = 0; i < lengths.size(); ++i) {
        int64_t value = i > 2 ? lengths[i] - lengths[i - 2] : lengths[i];
        for (bool more = true; more;) {
            const int64_t group = value & 31;
            value >>= 5;
            more = value != (group & 16 ? -1 : 0);
            text += char(48 + (more ? group | 32 : group));
        }
    }
    return text;
}

// Return the RLE of the pixels of a map that equal `value`: column by column, zeros first.
template <typename T>
json to_rle(const Map<T>& map, T value) {
    std::vector<int64_t> lengths = {0};
    bool inside = false;
    for (int64_t x = 0; x < map.size.width; ++x)
        for (int64_t y = 0; y < map.size.height; ++y) {
            if ((map.values[y * map.size.width + x] == value) != inside) {
                inside = !inside;
                lengths.push_back(0);
            }
            ++lengths.back();
        }
    return {{"size", {map.size.height, map.size.width}}, {"counts", compress(lengths)}};
}

void add_instances(json& result, const std::vector<Instance>& instances, const Contract& contract) {
    for (const char* name : {"boxes", "scores", "classes", "class_names"}) result[name] = json::array();
    for (const TensorSpec& spec : contract.outputs) {
        if (spec.name == "pred_masks") result["masks"] = json::array();
        if (spec.name == "pred_keypoints") result["keypoints"] = json::array();
    }
    for (const Instance& instance : instances) {
        result["boxes"].push_back(instance.box);
        result["scores"].push_back(instance.score);
        result["classes"].push_back(instance.category);
        result["class_names"].push_back(contract.class_names.at(instance.category));
        if (instance.mask) result["masks"].push_back(to_rle<uint8_t>(*instance.mask, 1));
        if (result.contains("keypoints")) result["keypoints"].push_back(instance.keypoints);
    }
}

void add_proposals(json& result, const std::vector<Proposal>& proposals) {
    for (const char* name : {"proposal_boxes", "objectness_logits"}) result[name] = json::array();
    for (const Proposal& proposal : proposals) {
        result["proposal_boxes"].push_back(proposal.box);
        result["objectness_logits"].push_back(proposal.objectness_logit);
    }
}

json to_json(const Map<int32_t>& labels, const Contract& contract) {
    json classes = json::array();
    for (const int32_t label : std::set(labels.values.begin(), labels.values.end()))
        classes.push_back({{"class", label},
                           {"class_name", contract.stuff_class_names.at(label)},
                           {"mask", to_rle(labels, label)}});
    return classes;
}

json to_json(const Panoptic& panoptic, const Contract& contract) {
    json segments = json::array();
    for (const Segment& segment : panoptic.segments) {
        const auto& names = segment.is_thing ? contract.class_names : contract.stuff_class_names;
        segments.push_back({{"id", segment.id},
                            {"isthing", segment.is_thing},
                            {"class", segment.category},
                            {"class_name", names.at(segment.category)},
                            {"instance", segment.instance},
                            {"mask", to_rle(panoptic.ids, segment.id)}});
    }
    return segments;
}

}  // namespace

json to_json(const Found& found, const Contract& contract) {
    json result = json::object();
    if (found.instances) add_instances(result, *found.instances, contract);
    if (found.proposals) add_proposals(result, *found.proposals);
    if (found.labels) result["sem_seg"] = to_json(*found.labels, contract);
    if (found.panoptic) result["panoptic_seg"] = to_json(*found.panoptic, contract);
    return result;
}

}  // namespace detexport
